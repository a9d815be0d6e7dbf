"""Large payloads pass a router without being seen: real sockets, real pipes."""

import asyncio
import os
import random
import socket

import pytest

from overlay import limits
from overlay.aio.link_driver import LinkDriver
from overlay.aio.pipes import SUPPORTED, Pipe, Piped, Pipes, read_out
from overlay.aio.stream_socket import SocketConnection
from overlay.crypto.records import HeaderRecords
from overlay.link.opening import Opened
from overlay.wire.bodies import EXPRESS, Hello
from overlay.wire.codec import encode
from overlay.wire.header import Header, Kind

pytestmark = pytest.mark.skipif(not SUPPORTED, reason="os.splice is Linux's")

KEYS = (b"1" * 32, b"2" * 32)
CIRCUIT = 1


class Passing:
    """An owner that passes every frame of its one circuit to another link, like a router."""

    def __init__(self) -> None:
        self.out: LinkDriver | None = None
        self.piped: list[tuple[int, bool]] = []
        self.down: list[str] = []
        self.takes = True

    def link_up(self, link) -> None: ...
    def control(self, link, body) -> None: ...
    def room(self, link, circuit) -> None: ...
    def health(self, link) -> None: ...

    def link_down(self, link, code, reason) -> None:
        self.down.append(reason)

    def frame(self, link, header, payload) -> None:
        if self.out is not None and header.kind is not Kind.OPEN:
            self.out.send(header.kind, CIRCUIT, payload, sequence=header.sequence)

    def may(self, link, header) -> bool:
        return self.takes

    def spliced(self, link, header, payload) -> None:
        assert self.out is not None
        self.piped.append((header.length, any(isinstance(part, Piped) for part in payload)))
        self.out.send(Kind.DATA, CIRCUIT, payload, sequence=header.sequence, kept=True)


async def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    near.setblocking(False)
    far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    far.setblocking(False)
    return near, far


def opened(keys: tuple[bytes, bytes]) -> Opened:
    return Opened(
        HeaderRecords(*keys), None, b"", b"", "header", "", False, EXPRESS, b"i" * 16, b""
    )


class Path:
    """One end's raw socket, a splicing pair of links, the other end's raw socket."""

    def __init__(self) -> None:
        self.owner = Passing()
        self.pipes = Pipes()
        self.sealer = HeaderRecords(*KEYS)
        self.opener = HeaderRecords(*KEYS)

    async def begin(self) -> "Path":
        self.sender, inside = await tcp_pair()
        self.receiver, outside = await tcp_pair()
        hello = encode(Hello(b"i" * 16, EXPRESS, 0, ""))
        loop = asyncio.get_running_loop()
        self.links = []
        for sock, dialer in ((inside, False), (outside, True)):
            connection = SocketConnection(sock, ("peer", 1))
            link = LinkDriver(connection, opened((KEYS[1], KEYS[0])), self.owner, dialer=dialer)
            self.links.append(link)
            link.start()
        await self.say(Header(Kind.CONTROL, 0, len(hello), 0, 0), hello)
        other = HeaderRecords(*KEYS)
        await loop.sock_sendall(
            self.receiver, b"".join(other.seal(Header(Kind.CONTROL, 0, len(hello), 0, 0), hello))
        )
        for link in self.links:
            await link.wait_up()
        await self.say(Header(Kind.OPEN, 0, 1, CIRCUIT, 0), b"x")
        number = self.links[1].next_circuit()
        assert number == CIRCUIT
        self.links[1].send(Kind.OPEN, number, b"x")
        self.owner.out = self.links[1]
        self.links[0].splice(self.pipes, self.owner.may, self.owner.spliced)
        return self

    async def say(self, header: Header, payload: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(
            self.sender, b"".join(self.sealer.seal(header, payload))
        )

    async def exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += await asyncio.get_running_loop().sock_recv(self.receiver, count - len(data))
        return data

    async def hear(self) -> tuple[Header, bytes]:
        """The next frame of the circuit that left the router."""
        while True:
            header = self.opener.open_header(await self.exactly(self.opener.header_size))
            raw = await self.exactly(self.opener.wire_length(header))
            payload = bytes(self.opener.open_payload(header, raw))
            if header.circuit and header.kind is not Kind.OPEN:
                return header, payload

    async def end(self) -> None:
        for link in self.links:
            link.close()
            await link.wait_closed()
        self.sender.close()
        self.receiver.close()


@pytest.fixture
async def path():
    async with asyncio.timeout(30):
        begun = await Path().begin()
        yield begun
        await begun.end()
        begun.pipes.close()
        assert not begun.pipes._made, "a pipe was lost"


def data(sequence: int, size: int) -> tuple[Header, bytes]:
    payload = random.Random(sequence).randbytes(size)
    return Header(Kind.DATA, 0, size, CIRCUIT, sequence), payload


async def test_large_and_small_frames_arrive_whole_and_in_order(path):
    sizes = [limits.MAX_DATA, 12, 300, limits.MAX_DATA, 70_000, 65_000, 1, *[limits.MAX_DATA] * 20]

    async def send() -> None:
        for sequence, size in enumerate(sizes):
            await path.say(*data(sequence, size))

    async def receive() -> None:
        for sequence, size in enumerate(sizes):
            header, payload = await path.hear()
            assert (header.sequence, payload) == (sequence, data(sequence, size)[1])

    await asyncio.gather(send(), receive())
    assert sum(piped for _, piped in path.owner.piped) >= 15, "hardly anything was spliced"


async def test_crumbs_fill_the_pipe_early_and_nothing_is_lost(path):
    """256 segments are what a pipe holds; single bytes in segments of their own use them up."""
    header, payload = data(0, 200_000)
    raw = b"".join(path.sealer.seal(header, payload))
    loop = asyncio.get_running_loop()
    receiving = asyncio.ensure_future(path.hear())
    await loop.sock_sendall(path.sender, raw[:41])
    for place in range(41, 41 + 1500):
        await loop.sock_sendall(path.sender, raw[place : place + 1])
        await asyncio.sleep(0)
    await loop.sock_sendall(path.sender, raw[41 + 1500 :])
    assert (await receiving)[1] == payload


async def test_the_header_leaves_only_with_its_whole_payload(path):
    header, payload = data(0, limits.MAX_DATA)
    raw = b"".join(path.sealer.seal(header, payload))
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(path.sender, raw[:-1])
    receiving = asyncio.ensure_future(path.hear())
    done, _ = await asyncio.wait({receiving}, timeout=0.2)
    assert not done
    assert not path.owner.piped
    await loop.sock_sendall(path.sender, raw[-1:])
    assert (await receiving)[1] == payload


async def test_a_frame_that_stalls_gives_its_pipe_back_and_goes_on_in_memory(path):
    header, payload = data(0, limits.MAX_DATA)
    raw = b"".join(path.sealer.seal(header, payload))
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(path.sender, raw[:150_000])
    async with asyncio.timeout(30):
        while (begun := path.links[0]._splicer._transfer) is None or not begun.piped:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    path.links[0]._splicer.tick(loop.time() + 2.0)
    assert path.links[0]._splicer._pipe is None
    assert len(path.pipes._free) == path.pipes._made == 1
    receiving = asyncio.ensure_future(path.hear())
    await loop.sock_sendall(path.sender, raw[150_000:])
    assert (await receiving)[1] == payload


async def test_without_a_pipe_frames_pass_through_memory(path):
    path.pipes._most = 0
    sending = asyncio.ensure_future(path.say(*data(0, limits.MAX_DATA)))
    assert (await path.hear())[1] == data(0, limits.MAX_DATA)[1]
    await sending
    assert not path.owner.piped


async def test_who_does_not_read_makes_frames_wait_in_pipes_and_loses_nothing(path):
    count = 60
    for sequence in range(count):
        await path.say(*data(sequence, limits.MAX_DATA))
    assert path.links[1].blocked
    for sequence in range(count):
        header, payload = await path.hear()
        assert (header.sequence, payload) == (sequence, data(sequence, limits.MAX_DATA)[1])


async def test_a_sender_that_goes_in_the_middle_ends_its_link_and_nothing_of_the_frame_leaves(path):
    header, payload = data(0, limits.MAX_DATA)
    raw = b"".join(path.sealer.seal(header, payload))
    await asyncio.get_running_loop().sock_sendall(path.sender, raw[:100_000])
    await asyncio.sleep(0.05)
    path.sender.close()
    await path.links[0].wait_closed()
    await asyncio.sleep(0)
    assert path.owner.down
    assert not path.owner.piped


async def test_a_link_that_dies_with_frames_in_pipes_gives_them_up(path):
    for sequence in range(60):
        await path.say(*data(sequence, limits.MAX_DATA))
    assert path.links[1].blocked
    path.receiver.close()
    await path.links[1].wait_closed()
    assert path.links[1].total_backlog == 0


def test_a_pipe_with_residue_is_thrown_away():
    pipes = Pipes(2)
    pipe = pipes.take()
    assert isinstance(pipe, Pipe)
    os.write(pipe.writer, b"residue")
    piped = Piped(pipe, 7, pipes)
    del piped
    assert not pipes._free
    assert not pipes._made
    with pytest.raises(OSError):
        os.fstat(pipe.reader)


def test_a_pipe_whose_socket_broke_is_thrown_away_with_what_is_in_it():
    pipes = Pipes()
    pipe = pipes.take()
    assert isinstance(pipe, Pipe)
    os.write(pipe.writer, b"residue")
    piped = Piped(pipe, 7, pipes)
    with pytest.raises(OSError):
        piped.splice(-1)
    piped.give_up()
    assert len(piped) == 0
    del piped
    assert not pipes._free
    with pytest.raises(OSError):
        os.fstat(pipe.reader)


def test_the_pool_is_bounded_and_pipes_are_used_again():
    pipes = Pipes(2)
    one, two = pipes.take(), pipes.take()
    assert one is not None
    assert two is not None
    assert pipes.take() is None
    pipes.give(one, empty=True)
    assert pipes.take() is one
    os.write(two.writer, b"abc")
    assert read_out(two, 3) == b"abc"
    pipes.close()
    for pipe in (one, two):
        pipes.give(pipe, empty=True)
    assert not pipes._made
