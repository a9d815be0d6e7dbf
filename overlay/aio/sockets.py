"""Real sockets behind the seam: own non-blocking sockets on the running loop, no transports, no copies."""

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import Buffer, Receiver

Address = tuple[str, int]

_PARTS_PER_CALL = 512  # below IOV_MAX (1024), above what one turn of a link gathers
_ACCEPTS_PER_TURN = 64
_DATAGRAMS_PER_TURN = 64
_BACKLOG = 1024
_HEAD_START = 0.25  # RFC 8305 §5: how long one address gets before the next is tried beside it
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_PAUSE = 0.1
_RESET = struct.pack("ii", 1, 0)

_log = get_logger("sockets")


class SocketConnection:
    """A `Connection` on a TCP (or Unix) stream socket."""

    def __init__(self, sock: socket.socket, peer: Address) -> None:
        sock.settimeout(0)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        self._sock = sock
        self._fd = sock.fileno()
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._reading = False
        self._paused = False
        self._ended = False
        self._waiting = False
        self._gone = False
        self._error: OSError | None = None
        self._instead: Callable[[], None] | None = None

    @property
    def peer(self) -> Address:
        return self._peer

    def start(self, receiver: Receiver) -> None:
        first = self._receiver is None
        self._receiver = receiver
        if self._gone:
            if first:
                self._loop.call_soon(receiver.lost, self._error)
        else:
            self._listen()

    def write(self, parts: Sequence[Buffer], *, more: bool = False) -> int:
        """See `Connection`. `more`: other bytes follow at once, so a short segment need not leave alone."""
        if self._gone:
            return sum(map(len, parts))
        sent = 0
        try:
            if len(parts) == 1 and not more:
                sent = self._sock.send(parts[0])
                wanted = len(parts[0])
            elif len(parts) <= _PARTS_PER_CALL:
                sent = self._sock.sendmsg(parts, (), socket.MSG_MORE if more else 0)
                wanted = sum(map(len, parts))
            else:
                wanted = sum(map(len, parts))
                for first in range(0, len(parts), _PARTS_PER_CALL):
                    some = parts[first : first + _PARTS_PER_CALL]
                    taken = self._sock.sendmsg(some)
                    sent += taken
                    if taken < sum(map(len, some)):
                        break
        except (BlockingIOError, InterruptedError):
            wanted = sent + 1
        except OSError as error:
            self._close(error)
            return sum(map(len, parts))
        if sent < wanted:
            self.notify()
        return sent

    def notify(self) -> None:
        """Call the receiver's `writable` when more can be written."""
        if not self._waiting and not self._gone:
            self._waiting = True
            self._loop.add_writer(self._fd, self._writable)

    def pause(self) -> None:
        self._paused = True
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        self._paused = False
        self._listen()

    def end(self) -> None:
        if not self._gone:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._close(error)

    def close(self) -> None:
        self._close(None)

    def abort(self) -> None:
        if not self._gone:
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._close(None)

    def take_over(self, readable: Callable[[], None] | None) -> None:
        """Call this instead of reading into the receiver's memory; None: read again."""
        self._instead = readable

    def fail(self, error: OSError) -> None:
        """Whoever reads or writes by `fileno` found the connection broken."""
        self._close(error)

    def fileno(self) -> int:
        return -1 if self._gone else self._fd

    def _listen(self) -> None:
        idle = self._reading or self._paused or self._ended or self._gone
        if not idle and self._receiver is not None:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        receiver = self._receiver
        if receiver is None or not self._reading:
            return  # the event was already on its way when reading stopped
        if self._instead is not None:
            self._instead()
            return
        try:
            count = self._sock.recv_into(receiver.buffer())
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._close(error)
            return
        if count:
            receiver.received(count)
        else:
            self._ended = True
            self._reading = False
            self._loop.remove_reader(self._fd)
            receiver.ended()

    def _writable(self) -> None:
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._fd)
            if self._receiver is not None:
                self._receiver.writable()

    def _close(self, error: OSError | None) -> None:
        """Close now; the receiver hears of it in a turn of its own, so that no caller is re-entered."""
        if self._gone:
            return
        self._gone = True
        self._error = error
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)
        if self._waiting:
            self._waiting = False
            self._loop.remove_writer(self._fd)
        self._sock.close()
        if self._receiver is not None:
            self._loop.call_soon(self._tell_lost)

    def _tell_lost(self) -> None:
        if self._receiver is not None:
            self._receiver.lost(self._error)


class SocketListener:
    """A `Listener` on one or several bound sockets (a name may stand for several addresses)."""

    def __init__(self, socks: list[socket.socket], accepted: Callable[..., None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._socks = socks
        self._accepted = accepted
        self._local = plain_address(socks[0].getsockname())
        for sock in socks:
            self._loop.add_reader(sock.fileno(), self._accept, sock)

    @property
    def local(self) -> Address:
        return self._local

    def close(self) -> None:
        for sock in self._socks:
            if sock.fileno() >= 0:
                self._loop.remove_reader(sock.fileno())
                sock.close()

    def _accept(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            if sock.fileno() < 0:
                return
            try:
                taken, address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._accept_failed(sock, error)
                return
            try:
                connection = SocketConnection(taken, plain_address(address))
            except OSError:  # reset between accept and here
                taken.close()
                continue
            self._accepted(connection)

    def _accept_failed(self, sock: socket.socket, error: OSError) -> None:
        """Out of descriptors or memory: those who wait stay in the backlog; try again in a moment."""
        _log.error("accept.failed", error=str(error), local=self._local)
        if error.errno in _OUT_OF_RESOURCES:
            self._loop.remove_reader(sock.fileno())
            self._loop.call_later(_ACCEPT_PAUSE, self._accept_again, sock)

    def _accept_again(self, sock: socket.socket) -> None:
        if sock.fileno() >= 0:
            self._loop.add_reader(sock.fileno(), self._accept, sock)


class SocketDatagrams:
    """A `Datagrams` socket."""

    def __init__(
        self, sock: socket.socket, received: Callable[[memoryview, Address], None], *, remote: bool
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._received = received
        self._remote = plain_address(sock.getpeername()) if remote else None
        self._local = plain_address(sock.getsockname())
        self._buffer = memoryview(bytearray(65_536))
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def local(self) -> Address:
        return self._local

    def send(self, data: Buffer, to: Address | None = None) -> None:
        with contextlib.suppress(OSError):  # best effort; a refused port shows as silence
            if to is None:
                self._sock.send(data)
            else:
                self._sock.sendto(data, to)

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _readable(self) -> None:
        for _ in range(_DATAGRAMS_PER_TURN):
            if self._sock.fileno() < 0:
                return
            try:
                count, address = self._sock.recvfrom_into(self._buffer)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an ICMP error of an earlier send
                continue
            source = plain_address(address) if address else self._remote
            if source is not None:
                self._received(self._buffer[:count], source)


def plain_address(name: object) -> Address:
    """Host and port of a socket name; IPv4 in IPv6 as IPv4, so that one source has one name."""
    if not isinstance(name, tuple):
        return ("unix", 0)
    host = str(name[0])
    return (host.removeprefix("::ffff:") if "." in host else host, int(name[1]))


async def resolve(
    host: str, port: int, kind: socket.SocketKind, *, passive: bool = False
) -> list[tuple[int, Address]]:
    """Address family and socket address of each address of `host`, without repetitions."""
    loop = asyncio.get_running_loop()
    flags = socket.AI_PASSIVE if passive else 0
    found = await loop.getaddrinfo(host or None, port, type=kind, flags=flags)
    unique: dict[tuple[int, Address], None] = {}
    for family, _, _, _, address in found:
        unique[(int(family), address)] = None  # type: ignore[index]
    return list(unique)


async def connect(host: str, port: int) -> SocketConnection:
    """Connect to the first address of `host` that answers; later ones start a little later (RFC 8305).

    Raises:
        OSError: none answers; the first address's error.
    """
    addresses = await resolve(host, port, socket.SOCK_STREAM)
    if len(addresses) == 1:
        return await _connect_one(*addresses[0])
    tasks: list[asyncio.Task[SocketConnection | OSError]] = []
    try:
        waiting: set[asyncio.Task[SocketConnection | OSError]] = set()
        remaining = list(addresses)
        while remaining or waiting:
            if remaining:
                address = remaining.pop(0)
                tasks.append(spawn(_quiet(_connect_one(*address)), f"connect {address[1][0]}"))
                waiting.add(tasks[-1])
            head_start = _HEAD_START if remaining else None
            done, waiting = await asyncio.wait(
                waiting, timeout=head_start, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                result = task.result()
                if isinstance(result, SocketConnection):
                    tasks.remove(task)
                    return result
        raise next(error for task in tasks if isinstance(error := task.result(), OSError))
    finally:
        await cancel(*tasks)
        for task in tasks:
            if not task.cancelled() and isinstance(result := task.result(), SocketConnection):
                result.close()


async def _quiet(attempt: Coroutine[Any, Any, SocketConnection]) -> SocketConnection | OSError:
    try:
        return await attempt
    except OSError as error:
        return error


async def _connect_one(family: int, address: Address) -> SocketConnection:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        try:
            await asyncio.get_running_loop().sock_connect(sock, address)
        except OSError as error:
            if error.errno is None:
                raise
            # The loop's own text is for developers: "Connect call failed ('127.0.0.1', 502)".
            raise OSError(error.errno, os.strerror(error.errno)) from None
        if sock.getsockname() == sock.getpeername():
            # Without a listener a connection to a local port of the ephemeral range can meet itself.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return SocketConnection(sock, plain_address(sock.getpeername()))
    except BaseException:
        sock.close()
        raise


async def listen(
    host: str, port: int, accepted: Callable[[SocketConnection], None]
) -> SocketListener:
    """Listen on every address of `host`; port 0 lets the system choose one for all."""
    socks: list[socket.socket] = []
    try:
        for family, address in await resolve(host, port, socket.SOCK_STREAM, passive=True):
            sock = socket.socket(family, socket.SOCK_STREAM)
            socks.append(sock)
            sock.settimeout(0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
            if len(socks) > 1 and port == 0:
                address = (address[0], socks[0].getsockname()[1], *address[2:])
            sock.bind(address)
            sock.listen(_BACKLOG)
        return SocketListener(socks, accepted)
    except OSError:
        for sock in socks:
            sock.close()
        raise


async def datagrams(
    received: Callable[[memoryview, Address], None],
    *,
    local: Address | None = None,
    remote: Address | None = None,
) -> SocketDatagrams:
    """A datagram socket bound to `local` and/or connected to `remote`."""
    known = local or remote
    if known is None:
        raise ValueError("datagrams() needs a local or a remote address")
    family, _ = (await resolve(*known, socket.SOCK_DGRAM, passive=local is not None))[0]
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.settimeout(0)
        if local is not None:
            sock.bind((await resolve(*local, socket.SOCK_DGRAM, passive=True))[0][1])
        if remote is not None:
            found = await resolve(*remote, socket.SOCK_DGRAM)
            sock.connect(next((to for kind, to in found if kind == family), found[0][1]))
        return SocketDatagrams(sock, received, remote=remote is not None)
    except OSError:
        sock.close()
        raise
