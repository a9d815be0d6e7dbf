"""Links over real sockets and real TLS, on both event loops (L-01 to L-08, L-31)."""

import asyncio
import os
import socket

import pytest

from overlay import limits
from overlay.aio.http_proxy import check_proxy
from overlay.aio.system import System
from overlay.errors import Code, FerruleError
from overlay.wire.header import Kind
from tests.support.links import Notes, dial, listen, pair

MODE = pytest.mark.parametrize("mode", ["header", "full", "tls"])


@MODE
async def test_bulk_and_small_frames_arrive_unchanged(mode: str):
    world = System()
    both = await pair(world, world, mode=mode)
    assert both.link.mode == mode
    assert both.link.group == both.other.group == "X25519MLKEM768"
    number = both.link.next_circuit()
    both.link.send(Kind.OPEN, number, b"open")
    sent = [os.urandom(size) for size in (0, 12, 1400, 70_000, limits.MAX_DATA) * 8]
    for sequence, data in enumerate(sent):
        both.link.send(Kind.DATA, number, memoryview(data), sequence=sequence)
    await both.far.until(lambda: len(both.far.frames) == 1 + len(sent))
    assert [frame[3] for frame in both.far.frames[1:]] == sent
    both.other.send(Kind.ACCEPT, number, b"yes")
    await both.near.until(lambda: bool(both.near.frames))
    both.link.reset(number, Code.NORMAL, "done")
    await both.far.until(lambda: both.far.frames[-1][0] is Kind.RESET)
    both.other.goodbye(Code.REVOKED, "no longer")
    await both.near.until(lambda: bool(both.near.ends))
    assert both.near.ends == [(Code.REVOKED, "no longer", False)]
    await both.close()


async def test_many_circuits_share_one_link():
    world = System()
    both = await pair(world, world)
    numbers = [both.link.next_circuit() for _ in range(200)]
    for number in numbers:
        both.link.send(Kind.OPEN, number)
    for sequence in range(10):
        for number in numbers:
            both.link.send(Kind.DATA, number, number.to_bytes(4, "big") * 100, sequence=sequence)
    await both.far.until(lambda: len(both.far.frames) == 200 * 11)
    for number in numbers:
        mine = [f for f in both.far.frames if f[0] is Kind.DATA and f[1] == number]
        assert [f[2] for f in mine] == list(range(10))
        assert {f[3] for f in mine} == {number.to_bytes(4, "big") * 100}
    await both.close()


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
        b"FRL1\x00" + bytes(16) + b"\x00\x00",
    ],
)
async def test_strangers_are_disconnected_and_harm_nobody(noise: bytes):
    world = System()
    far, failures = Notes(), []
    listener = await listen(world, far, failed=lambda source, error: failures.append(error))
    reader, writer = await asyncio.open_connection(*listener.local)
    writer.write(noise)
    async with asyncio.timeout(30):
        assert await reader.read() == b""
    writer.close()
    await asyncio.sleep(0)
    assert [isinstance(error, FerruleError) for error in failures] == [True]
    link = await dial(world, listener.local, Notes())
    assert link.name == "router-1"
    link.close()
    for one in list(listener.links):
        one.close()
        await one.wait_closed()
    listener.close()


async def test_nobody_listens_or_answers():
    world = System()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = silent.getsockname()
    with pytest.raises(OSError):
        await dial(world, address, Notes())


class Proxy:
    """An HTTP proxy that knows CONNECT; answers what it is told."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n") -> None:
        self.answer = answer
        self.request = b""
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, target: tuple[str, int]) -> str:
        self._target = target
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        if b" 200" in self.answer:
            there, out = await asyncio.open_connection(*self._target)
            await asyncio.gather(self._copy(reader, out), self._copy(there, writer))
        writer.close()

    @staticmethod
    async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                target.write(data)
        except OSError:
            pass
        target.close()

    async def close(self) -> None:
        self._server.close()
        await self._server.wait_closed()


async def test_a_link_through_an_http_proxy():
    world, far, proxy = System(), Notes(), Proxy()
    listener = await listen(world, far)
    at = await proxy.start(listener.local)
    link = await dial(world, listener.local, Notes(), proxy=f"http://plant:s%40fe@{at}")
    host, port = listener.local
    assert proxy.request.startswith(f"CONNECT {host}:{port} HTTP/1.1\r\n".encode())
    assert b"Proxy-Authorization: Basic cGxhbnQ6c0BmZQ==\r\n" in proxy.request
    assert link.name == "router-1"
    link.close()
    await link.wait_closed()
    await far.until(lambda: bool(far.ends))
    listener.close()
    await proxy.close()
    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407"),
        (b"HTTP/1.1 503 No\r\n\r\n", "503"),
        (b"nonsense\r\n\r\n", "nonsense"),
        (b"HTTP/1.1 200 " + b"x" * 10_000 + b"\r\n\r\n", "too long"),
        (b"", "closed"),
    ],
)
async def test_a_proxy_that_refuses_is_quoted(answer: bytes, words: str):
    world, proxy = System(), Proxy(answer)
    at = await proxy.start(("127.0.0.1", 9))
    with pytest.raises((FerruleError, OSError), match=words):
        await dial(world, ("router.example", 8441), Notes(), proxy=f"http://{at}")
    await proxy.close()
    await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "url", ["socks5://x:1", "http://", "http://x:0", "http://x:y", "x:3128", "http://x/path"]
)
def test_a_bad_proxy_url_is_one_clear_sentence(url: str):
    with pytest.raises(FerruleError, match="The proxy must be http://HOST:PORT"):
        check_proxy(url)
