"""The machine behind the seam: sockets, disk, lock, on both event loops."""

import asyncio
import errno
import os
import resource
import socket
import stat
import struct
from pathlib import Path
from typing import Any

import pytest

from overlay.aio.sockets import SocketDatagrams, plain_address
from overlay.aio.system import System
from overlay.aio.world import Connection


class Sink:
    def __init__(self, size: int = 4096) -> None:
        self.data = bytearray()
        self.ends = 0
        self.room = asyncio.Event()
        self.lost_with: list[OSError | None] = []
        self.gone = asyncio.Event()
        self.changed = asyncio.Event()
        self._memory = memoryview(bytearray(size))

    def buffer(self) -> memoryview:
        return self._memory

    def received(self, count: int) -> None:
        self.data += self._memory[:count]
        self.changed.set()

    def ended(self) -> None:
        self.ends += 1
        self.changed.set()

    def writable(self) -> None:
        self.room.set()

    def lost(self, error: OSError | None) -> None:
        self.lost_with.append(error)
        self.gone.set()

    async def until(self, condition) -> None:
        async with asyncio.timeout(30):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


async def connected(host: str = "127.0.0.1") -> tuple[Connection, Connection, Sink, Sink]:
    world = System()
    accepted: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
    listener = await world.net.listen(host, 0, accepted.set_result)
    here = await world.net.connect(*listener.local)
    there = await accepted
    listener.close()
    sinks = Sink(), Sink()
    here.start(sinks[0])
    there.start(sinks[1])
    return here, there, *sinks


async def close(*connections: Connection) -> None:
    for connection in connections:
        connection.close()
    await asyncio.sleep(0.01)


async def test_half_close_and_back_pressure():
    here, there, near, far = await connected()
    there.pause()
    parts = [bytes([n % 256]) * 1000 for n in range(40_000)]
    taken = here.write(parts)
    assert 0 < taken < 40_000_000
    await asyncio.sleep(0.05)
    assert not near.room.is_set()
    assert 0 < here.unacknowledged() < taken, "the other kernel has some, which nobody reads"
    assert there.unacknowledged() == 0
    there.resume()
    async with asyncio.timeout(20):
        await near.room.wait()
        await far.until(lambda: len(far.data) == taken)
    assert far.data == b"".join(parts)[:taken]
    assert here.unacknowledged() == 0
    here.end()
    await far.until(lambda: far.ends == 1)
    assert there.write([b"still ", b"here"]) == 10
    await near.until(lambda: near.data == b"still here")
    await close(here, there)
    assert near.lost_with == far.lost_with == [None]


async def test_a_reset_is_an_error_and_writing_after_it_is_harmless():
    here, there, near, far = await connected()
    there.abort()
    async with asyncio.timeout(30):
        await near.gone.wait()
    assert [error.errno for error in near.lost_with if error] == [errno.ECONNRESET]
    assert here.write([b"x" * 10]) == 10
    assert here.fileno() == -1
    here.close()
    here.abort()
    here.end()
    await asyncio.sleep(0.01)
    assert len(near.lost_with) == len(far.lost_with) == 1


async def test_a_receiver_that_comes_late_hears_of_the_loss():
    world = System()
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = await world.net.connect(*server.getsockname())
    connection.close()
    sink = Sink()
    connection.start(sink)
    async with asyncio.timeout(30):
        await sink.gone.wait()


async def accepted_with(data: bytes, *, reset: bool = False) -> tuple[Connection, socket.socket]:
    """A connection that is not started, and its other end, which has said something already."""
    accepted: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
    listener = await System().net.listen("127.0.0.1", 0, accepted.set_result)
    other = socket.create_connection(listener.local)
    other.sendall(data)
    if reset:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        other.close()
    connection = await accepted
    listener.close()
    return connection, other


async def test_what_came_before_the_start_is_taken_once():
    connection, other = await accepted_with(b"early and later")
    with other:
        assert connection.arrived(5) == b"early"
        sink = Sink()
        connection.start(sink)
        await sink.until(lambda: sink.data == b" and later")
        await close(connection)


async def test_nothing_arrived_is_no_end():
    connection, other = await accepted_with(b"")
    with other:
        assert connection.arrived(5) == b""
        other.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.01)
        assert connection.arrived(5) == b""
        sink = Sink()
        connection.start(sink)
        await sink.until(lambda: sink.ends == 1)
        assert sink.lost_with == []
        await close(connection)
    assert connection.arrived(5) == b""


async def test_a_reset_that_came_before_the_start_is_still_a_loss():
    connection, _ = await accepted_with(b"", reset=True)
    assert connection.arrived(5) == b""
    sink = Sink()
    connection.start(sink)
    async with asyncio.timeout(30):
        await sink.gone.wait()
    assert [error.errno for error in sink.lost_with if error] == [errno.ECONNRESET]


async def test_nobody_connects_to_itself():
    world = System()
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    for port in range(low, min(low + 200, high)):
        try:
            connection = await world.net.connect("127.0.0.1", port)
        except OSError:
            continue
        assert connection.peer[1] == port
        connection.close()
        pytest.skip("something listens there")


async def test_names_addresses_and_ports():
    world = System()
    listener = await world.net.listen("localhost", 0, lambda connection: connection.close())
    connection = await world.net.connect("localhost", listener.local[1])
    with pytest.raises(OSError, match="in use"):
        await world.net.listen("localhost", listener.local[1], lambda connection: None)
    connection.close()
    listener.close()
    listener.close()
    with pytest.raises(OSError):
        await world.net.connect("no-such-host.invalid", 1)
    assert plain_address(("::ffff:10.0.0.1", 5, 0, 0)) == ("10.0.0.1", 5)
    assert plain_address(("fe80::1", 5, 0, 0)) == ("fe80::1", 5)


async def test_running_out_of_descriptors_pauses_accepting():
    world = System()
    accepted: list[Connection] = []
    all_in = asyncio.Event()

    def take(connection: Connection) -> None:
        accepted.append(connection)
        if len(accepted) == 5:
            all_in.set()

    listener = await world.net.listen("127.0.0.1", 0, take)
    clients = [socket.socket() for _ in range(5)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 2, hard))
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listener.local)
        await asyncio.sleep(0.05)
        assert len(accepted) <= 2
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    async with asyncio.timeout(30):
        await all_in.wait()
    for client in clients:
        client.close()
    await close(*accepted)
    listener.close()


async def test_datagrams():
    world = System()
    got: list[tuple[bytes, tuple[str, int]]] = []
    came = asyncio.Event()

    def received(data: memoryview, source: tuple[str, int], _: bool) -> None:
        got.append((bytes(data), source))
        came.set()

    server = await world.net.datagrams(received, local=("127.0.0.1", 0))
    client = await world.net.datagrams(received, remote=server.local)
    client.send(b"ping")
    async with asyncio.timeout(30):
        await came.wait()
        came.clear()
        server.send(b"pong", client.local)
        await came.wait()
    assert got == [(b"ping", client.local), (b"pong", server.local)]
    server.close()
    client.send(b"nobody")
    await asyncio.sleep(0.02)
    client.send(b"nobody")
    client.close()
    with pytest.raises(ValueError):
        await world.net.datagrams(received)


async def test_datagrams_of_one_wake_up_keep_their_boundaries_and_say_whether_another_follows():
    world = System()
    got: list[tuple[bytes, bool]] = []
    came = asyncio.Event()

    def received(data: memoryview, _: object, more: bool) -> None:
        got.append((bytes(data), more))
        if len(got) == wanted:
            came.set()

    server = await world.net.datagrams(received, local=("127.0.0.1", 0))
    client = await world.net.datagrams(lambda *_: None, remote=server.local)
    sent = [bytes([n]) * size for n, size in enumerate((0, 200, 65_507, 0, 1, 1400, 0, 65_507))]
    for data in sent:
        assert client.send(data)
    wanted = len(sent)
    async with asyncio.timeout(30):
        await came.wait()
    assert [data for data, _ in got] == sent
    assert [more for _, more in got] == [True] * 7 + [False]
    got.clear()
    came.clear()
    wanted = 150
    for number in range(150):
        assert client.send(b"%d" % number)
    async with asyncio.timeout(30):
        await came.wait()
    assert [data for data, _ in got] == [b"%d" % number for number in range(150)]
    alone = [place for place, (_, more) in enumerate(got) if not more]
    assert alone == [63, 127, 149], "no wake-up takes more than 64"
    server.close()
    client.close()


async def test_an_error_between_two_datagrams_costs_neither_and_closing_in_between_the_rest():
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    kernel.settimeout(0)
    script: list[bytes | OSError] = []

    class Scripted:
        """A socket on which what comes is written down."""

        family = socket.AF_INET
        closed = False

        def fileno(self) -> int:
            return -1 if self.closed else ours.fileno()

        def getsockname(self) -> tuple[str, int]:
            return ("127.0.0.1", 7)

        def recvfrom_into(self, room: memoryview) -> tuple[int, tuple[str, int]]:
            if not script:
                raise BlockingIOError
            if isinstance(came := script.pop(0), OSError):
                raise came
            room[: len(came)] = came
            return len(came), ("127.0.0.1", 9)

        def close(self) -> None:
            self.closed = True

    got: list[tuple[bytes, bool]] = []
    refused: list[None] = []

    def received(data: memoryview, _: object, more: bool) -> None:
        got.append((bytes(data), more))
        if bytes(data) == b"close":
            datagrams.close()

    sock: Any = Scripted()
    datagrams = SocketDatagrams(sock, received, remote=False, refused=lambda: refused.append(None))
    script += [b"one", ConnectionRefusedError(), b"two!", b"", ConnectionRefusedError()]
    datagrams._readable()
    assert got == [(b"one", False), (b"two!", True), (b"", False)]
    assert len(refused) == 2
    got.clear()
    script += [b"close", b"more", b"lost"]
    datagrams._readable()
    assert got == [(b"close", True)]
    sock.closed = False
    got.clear()
    script[:] = [b"close", ConnectionRefusedError(), b"lost"]
    datagrams._readable()
    assert (got, len(refused)) == ([(b"close", False)], 2)
    ours.close()
    kernel.close()


async def test_the_disk_keeps_files_private_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    disk = System().disk
    folder = tmp_path / "state"
    release = disk.lock(folder)
    with pytest.raises(BlockingIOError):
        System().disk.lock(folder)
    release()
    System().disk.lock(folder)()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    file = folder / "one"
    assert await disk.read(file) is None
    await asyncio.gather(*(disk.append(file, bytes([n])) for n in range(50)))
    assert await disk.read(file) == bytes(range(50))
    await disk.replace(file, b"new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []

    real = os.write

    def full(descriptor: int, data) -> int:
        if len(data) > 3:
            return real(descriptor, data[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    for write in (disk.replace, disk.append):
        with pytest.raises(OSError, match="No space"):
            await write(file, b"123456")
    monkeypatch.undo()
    assert await disk.read(file) == b"new"
    assert sorted(path.name for path in folder.iterdir()) == ["lock", "one"]
    await disk.remove(file)
    await disk.remove(file)
    assert await disk.read(file) is None


async def test_an_open_folder_is_closed_to_others(tmp_path: Path):
    tmp_path.chmod(0o755)
    System().disk.lock(tmp_path)()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


async def test_clocks_and_entropy():
    world = System()
    assert world.clock.boot() <= world.clock.boot()
    assert world.clock.wall() > 1_700_000_000_000_000
    assert 0 < world.clock.cpu() <= world.clock.cpu()
    assert len({world.entropy.bytes(16) for _ in range(10)}) == 10
    assert all(0 <= world.entropy.uniform() < 1 for _ in range(1000))
