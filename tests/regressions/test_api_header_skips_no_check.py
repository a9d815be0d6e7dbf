"""A peer skipped checks of audience and issuer when a certain header was present.

So: no header, and no combination of those that other systems trust, replaces the login or changes who asks.
"""

from collections.abc import AsyncIterator
from itertools import combinations
from pathlib import Path

import pytest

from controller.api import guard
from tests.support.api import TOKEN, Api, running

TRUSTED_ELSEWHERE = (
    "X-Forwarded-For: 127.0.0.1",
    "X-Real-IP: 127.0.0.1",
    "Forwarded: for=127.0.0.1;by=127.0.0.1",
    "X-Forwarded-User: ada",
    "X-Remote-User: ada",
    "X-SSL-Client-Verify: SUCCESS",
    "X-Original-URL: /api/v1/login",
    "X-HTTP-Method-Override: POST",
    "Cookie: token=" + TOKEN,
    "X-Token: " + TOKEN,
    "Authorization: Basic YWRhOnJpZ2h0",
    "Authorization: Bearer wrong",
    "Authorization: Token " + TOKEN,
    "Proxy-Authorization: Bearer " + TOKEN,
    "Authorization: Bearer " + "a" * 600,
)


@pytest.fixture
async def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Api]:
    monkeypatch.setattr(guard, "STRANGER", guard.Rate(burst=1000, per_second=1))
    async with running(tmp_path) as found:
        yield found


async def asked(api: Api, path: str, *lines: str) -> bytes:
    text = [f"GET /api/v1{path} HTTP/1.1", "Host: c", "Connection: close", *lines, "", ""]
    return await api.raw("\r\n".join(text).encode())


async def test_no_combination_of_headers_is_a_login(api: Api):
    for lines in (*combinations(TRUSTED_ELSEWHERE, 1), *combinations(TRUSTED_ELSEWHERE, 2)):
        answer = await asked(api, "/zones", *lines)
        assert b"HTTP/1.1 401 " in answer or b"HTTP/1.1 400 " in answer, lines
    assert api.actions.calls == []


async def test_a_token_in_the_address_is_no_login(api: Api):
    for path in (f"/zones?token={TOKEN}", f"/zones?access_token={TOKEN}"):
        assert b" 401 " in await asked(api, path)


async def test_two_logins_at_once_are_none(api: Api):
    good = f"Authorization: Bearer {TOKEN}"
    assert b" 401 " in await asked(api, "/zones", good, "Authorization: Bearer wrong")
    assert b" 200 " in await asked(api, "/zones", good)


async def test_headers_do_not_change_what_a_login_asks_or_from_where(api: Api):
    good = f"Authorization: Bearer {TOKEN}"
    others = [line for line in TRUSTED_ELSEWHERE if not line.startswith("Authorization")]
    assert b" 200 " in await asked(api, "/zones", good, *others)
    assert api.actions.calls == ["ls zone"]
    body = b'{"user":"ada","password":"wrong"}'
    lines = ["POST /api/v1/login HTTP/1.1", "Host: c", "X-Forwarded-For: 192.0.2.9",
             "Content-Type: application/json", "Connection: close", f"Content-Length: {len(body)}"]  # fmt: skip
    await api.raw("\r\n".join([*lines, "", ""]).encode() + body)
    assert api.actions.calls[-1] == "login from 127.0.0.1"
