"""The command line's client against good, bad and strange servers: each failure is one sentence."""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from controller.cli import client as module
from controller.cli.client import Client, Lost
from controller.cli.failure import Failure, Misuse
from controller.cli.home import Session
from tests.support.api import TOKEN, Api, contexts, running

Said = Callable[[], Any]


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with running(tmp_path) as found:
        yield found


def client(port: int, ca: Path | str, token: str = TOKEN) -> Client:
    pem = ca if isinstance(ca, str) else ca.read_text()
    return Client(Session(f"https://127.0.0.1:{port}", token, pem))


async def said(call: Said) -> Any:
    return await asyncio.to_thread(call)


async def failure(kind: type[Failure] | type[Misuse], call: Said) -> str:
    with pytest.raises(kind) as caught:
        await said(call)
    text = caught.value.message
    assert "\n" not in text
    return text


@asynccontextmanager
async def strange(directory: Path, answer: bytes, *, tls: bool = True) -> AsyncIterator[Client]:
    """A server that gives everybody the same bytes."""
    directory.mkdir(exist_ok=True)
    server_tls, _, ca = await contexts(directory)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
            await asyncio.sleep(0.05)  # it goes out; a closing handshake might never end
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_tls if tls else None)
    try:
        yield client(server.sockets[0].getsockname()[1], ca)
    finally:
        server.close()
        await asyncio.sleep(0.05)


async def test_calls(api: Api):
    ours = client(api.port, api.ca)
    assert await said(lambda: ours.get("zones")) == []
    assert await said(lambda: ours.get("status", wait=None)) is not None
    made = await said(lambda: ours.post("zones", body={"name": "cell-3", "level": None}))
    assert made["name"] == "cell-3"
    assert await said(lambda: ours.post("logout")) is None


async def test_names_are_quoted(api: Api):
    ours = client(api.port, api.ca)
    text = await failure(Failure, lambda: ours.get("listeners", "a/../b?c#d ü"))
    assert text == "there is no listener a/../b?c#d ü"


async def test_only_the_pinned_certificate_is_trusted(api: Api, tmp_path: Path):
    (tmp_path / "other").mkdir()
    _, _, other = await contexts(tmp_path / "other")
    for ca in (other, ""):
        other_client = client(api.port, ca)
        text = await failure(Failure, partial(other_client.get, "zones"))
        assert "--ca FILE" in text
    assert api.actions.calls == []


async def test_a_certificate_for_another_host_is_refused(api: Api):
    ours = Client(Session(f"https://127.1:{api.port}", TOKEN, api.ca.read_text()))
    assert "not trusted" in await failure(Failure, lambda: ours.get("zones"))


async def test_a_server_without_tls_or_only_with_an_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "CONNECT_SECONDS", 0.3)
    async with strange(tmp_path / "plain", b"HTTP/1.1 200 OK\r\n\r\n", tls=False) as ours:
        await failure(Lost, lambda: ours.get("zones"))
    server_tls, _, ca = await contexts(tmp_path)
    server_tls.minimum_version = ssl.TLSVersion.TLSv1_2
    server_tls.maximum_version = ssl.TLSVersion.TLSv1_2
    server = await asyncio.start_server(lambda _, w: w.close(), "127.0.0.1", 0, ssl=server_tls)
    ours = client(server.sockets[0].getsockname()[1], ca)
    assert "TLS 1.3" in await failure(Lost, lambda: ours.get("zones"))
    server.close()
    await asyncio.sleep(0.05)


async def test_nobody_there(tmp_path: Path):
    _, _, ca = await contexts(tmp_path)
    assert "nothing listens" in await failure(Lost, lambda: client(1, ca).get("zones"))


async def test_a_damaged_certificate_to_trust():
    with pytest.raises(Failure, match="log in again"):
        client(1, "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 502 Bad\r\nContent-Length: 4\r\n\r\nnope",
        b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_servers_that_are_no_controller(tmp_path: Path, answer: bytes):
    async with strange(tmp_path, answer) as ours:
        await failure(Failure, lambda: ours.get("zones"))
        await failure(Failure, lambda: list(ours.lines("audit", "export")) or ours.get("zones"))


async def test_an_answer_without_end_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_ANSWER", 1000)
    async with strange(tmp_path, b"HTTP/1.1 200 OK\r\n\r\n" + b" " * 2000) as ours:
        assert "too large" in await failure(Failure, lambda: ours.get("zones"))


async def test_a_controller_that_does_not_answer_is_given_up(api: Api):
    ours = client(api.port, api.ca)
    text = await failure(Lost, lambda: ours.get("status", wait=5, seconds=0.2))
    assert "did not answer" in text


async def test_asked_wrongly_and_refused_are_told_apart(api: Api):
    ours = client(api.port, api.ca)
    await failure(Misuse, lambda: ours.post("zones", body={"name": 7}))
    await failure(Failure, lambda: ours.post("zones", body={"name": "taken"}))
    other = client(api.port, api.ca, "wrong")
    assert "ferrule login" in await failure(Failure, lambda: other.get("zones"))
    await failure(Misuse, lambda: client(api.port, api.ca, "a\r\nb").get("zones"))


async def test_a_stream_that_is_cut_is_not_whole(api: Api):
    ours = client(api.port, api.ca)
    assert len(await said(lambda: list(ours.lines("audit", "export")))) == 2
    api.actions.calls = ["fail"]
    await failure(Lost, lambda: list(ours.lines("audit", "export")))


async def test_a_stream_cut_between_two_chunks_is_not_whole(tmp_path: Path):
    answer = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"a":1}\n\r\n'
    async with strange(tmp_path / "cut", answer) as ours:
        await failure(Lost, lambda: list(ours.lines("audit", "export")))
    async with strange(tmp_path / "whole", answer + b"0\r\n\r\n") as ours:
        assert await said(lambda: list(ours.lines("audit", "export"))) == [b'{"a":1}\n']


async def test_a_line_without_end_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_LINE", 1000)
    chunk = b"400\r\n" + b"x" * 0x400 + b"\r\n"
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 3
    async with strange(tmp_path, answer) as ours:
        assert "too long" in await failure(Failure, lambda: list(ours.lines("audit", "export")))


async def test_a_stream_that_goes_quiet_is_lost(api: Api, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.3)
    ours = client(api.port, api.ca)
    seen: list[int] = []

    def follow() -> None:
        for found in ours.follow("audit", "follow"):
            seen.append(json.loads(json.dumps(found))["seq"])

    assert "did not answer" in await failure(Lost, follow)
    assert seen == [1, 2]
