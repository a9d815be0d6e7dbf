"""A peer buffered bodies without limit before authentication, in one place twice.

So: every route refuses a large body early when no login comes with it, by the head where that says the size, and else
when the bound is reached; and what is kept of it meanwhile is small.
"""

import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from controller.api.guard import MAX_BODY_BEFORE_LOGIN
from controller.api.routes import ROUTES
from tests.support.api import Api, running

CHUNK = b"4000\r\n" + b" " * 0x4000 + b"\r\n"
SENT = 16 * 1024 * 1024


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    from controller.api import guard

    monkeypatch.setattr(guard, "STRANGER", guard.Rate(burst=1000, per_second=1))
    monkeypatch.setattr(guard, "LINGER_SECONDS", 0.05)
    async with running(tmp_path) as found:
        yield found


def request(method: str, path: str, *lines: str) -> bytes:
    path = path.replace("{", "x").replace("}", "")
    text = [f"{method} /api/v1{path} HTTP/1.1", "Host: c", "Content-Type: application/json", *lines]
    return "\r\n".join([*text, "", ""]).encode()


async def test_a_large_body_is_refused_by_its_head_on_every_route(api: Api):
    for route in ROUTES:
        answer = await api.raw(request(route.method, route.path, "Content-Length: 10000000000"))
        assert answer.startswith(b"HTTP/1.1 413 "), route.name
        assert b"Connection: close" in answer
    assert api.actions.calls == []


async def test_a_body_of_unknown_length_is_cut_on_every_route(api: Api):
    body = CHUNK * (MAX_BODY_BEFORE_LOGIN // 0x4000 + 1)
    for route in ROUTES:
        answer = await api.raw(
            request(route.method, route.path, "Transfer-Encoding: chunked") + body
        )
        assert answer.split()[1] == (b"413" if route.open else b"401"), route.name
        assert b"Connection: close" in answer
    assert api.actions.calls == []


async def test_what_a_stranger_sends_is_not_kept(api: Api):
    _, writer = await api.connect()
    tracemalloc.start()
    try:
        writer.write(request("POST", "/login", "Transfer-Encoding: chunked"))
        for _ in range(SENT // 0x4000):
            if writer.is_closing():
                break
            writer.write(CHUNK)
            try:
                await writer.drain()
            except ConnectionError:
                break
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        writer.close()
    assert peak < SENT // 4
    assert api.actions.logins == 0
