"""Real sockets behind the seam: own non-blocking sockets on the running loop, no transports, no copies."""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from overlay.aio.logs import get_logger
from overlay.aio.stream_socket import Address, SocketConnection
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import Buffer, Received

_ACCEPTS_PER_TURN = 64
_DATAGRAMS_PER_TURN = 64
_BACKLOG = 1024
_HEAD_START = 0.25  # RFC 8305 §5: how long one address gets before the next is tried beside it
_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ACCEPT_PAUSE = 0.1
_IP_TRANSPARENT, _IP_BIND_ADDRESS_NO_PORT, _IPV6_TRANSPARENT = 19, 24, 75  # linux/in.h, linux/in6.h

_log = get_logger("sockets")


class SocketListener:
    """A `Listener` on one or several bound sockets (a name may stand for several addresses).

    Each connection is made by `connection` and handed to `accepted`.
    """

    def __init__(
        self,
        socks: list[socket.socket],
        accepted: Callable[..., None],
        connection: type[SocketConnection] = SocketConnection,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socks = socks
        self._accepted = accepted
        self._connection = connection
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
                connection = self._connection(taken, plain_address(address))
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
        self,
        sock: socket.socket,
        received: Received,
        *,
        remote: bool,
        refused: Callable[[], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._received = received
        self._refused = refused
        self._remote = plain_address(sock.getpeername()) if remote else None
        self._local = plain_address(sock.getsockname())
        # An address of IPv4 is what it is: there is no IPv4 in it to be named otherwise.
        self._plain = sock.family == socket.AF_INET
        self._buffers = [memoryview(bytearray(65_536)) for _ in range(2)]
        self._loop.add_reader(sock.fileno(), self._readable)

    @property
    def local(self) -> Address:
        return self._local

    def send(self, data: Buffer, to: Address | None = None) -> bool:
        try:
            if to is None:
                self._sock.send(data)
            else:
                self._sock.sendto(data, to)
        except BlockingIOError:
            return False
        except OSError:  # too large, or the ICMP error of an earlier one
            self._listen_again()
            return False
        return True

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _readable(self) -> None:
        """Each is handed on when it is known whether another follows."""
        sock, remote = self._sock, self._remote
        into, other = self._buffers
        held: tuple[memoryview, Address] | None = None
        for _ in range(_DATAGRAMS_PER_TURN):
            try:
                count, address = sock.recvfrom_into(into)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:  # an ICMP error of an earlier send
                if held is not None:
                    self._received(*held, False)  # noqa: FBT003
                    held = None
                if self._refused is not None and sock.fileno() >= 0:
                    self._refused()
                if sock.fileno() < 0:
                    return
                self._listen_again()
                continue
            if held is not None:
                self._received(*held, True)  # noqa: FBT003
                held = None
                if sock.fileno() < 0:
                    return
            if remote is not None:
                address = remote
            elif not self._plain:
                address = plain_address(address)
            held = into[:count], address
            into, other = other, into
        if held is not None:
            self._received(*held, False)  # noqa: FBT003

    def _listen_again(self) -> None:
        if self._sock.fileno() >= 0:
            read_again(self._sock.fileno(), self._readable)


def read_again(descriptor: int, readable: Callable[[], None]) -> None:
    """Go on reading a socket that had an error, which says nothing of what comes next: libuv looks at it no more from
    then on, unless it is told to anew.
    """
    loop = asyncio.get_running_loop()
    loop.remove_reader(descriptor)
    loop.add_reader(descriptor, readable)


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
    for family in (socket.AF_INET, socket.AF_INET6):
        try:  # an address needs no resolver, which would be asked in another thread
            socket.inet_pton(family, host)
        except OSError:
            continue
        return [(family, (host, port))]
    loop = asyncio.get_running_loop()
    flags = socket.AI_PASSIVE if passive else 0
    found = await loop.getaddrinfo(host or None, port, type=kind, flags=flags)
    unique: dict[tuple[int, Address], None] = {}
    for family, _, _, _, address in found:
        unique[(int(family), address)] = None  # type: ignore[index]
    return list(unique)


def source(remote: Address) -> str:
    """From which address the kernel would connect there now: asked of its routes, nothing is sent."""
    family = socket.AF_INET6 if ":" in remote[0] else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.connect(remote)
            return str(sock.getsockname()[0])
    except OSError:
        return ""


async def connect(host: str, port: int, *, source: str = "") -> SocketConnection:
    """Connect to the first address of `host` that answers; later ones start a little later (RFC 8305).

    Args:
        source: an address to connect from, which need not be this host's own (CAP_NET_ADMIN).

    Raises:
        OSError: none answers; the first address's error.
    """
    addresses = await resolve(host, port, socket.SOCK_STREAM)
    if len(addresses) == 1:
        return await _connect_one(*addresses[0], source)
    tasks: list[asyncio.Task[SocketConnection | OSError]] = []
    try:
        waiting: set[asyncio.Task[SocketConnection | OSError]] = set()
        remaining = list(addresses)
        while remaining or waiting:
            if remaining:
                address = remaining.pop(0)
                tasks.append(
                    spawn(_quiet(_connect_one(*address, source)), f"connect {address[1][0]}")
                )
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


def make_transparent(sock: socket.socket) -> None:
    """Let it be bound to addresses that are not this host's. Raises: OSError: PermissionError without CAP_NET_ADMIN."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)


def _bind_foreign(sock: socket.socket, source: str) -> None:
    """From an address that may be another host's. Raises: OSError: PermissionError without CAP_NET_ADMIN."""
    make_transparent(sock)
    if (
        sock.type == socket.SOCK_STREAM
    ):  # the port is chosen for the whole connection, not for the address
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
    sock.bind((source, 0))


async def _connect_one(family: int, address: Address, source: str) -> SocketConnection:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.settimeout(0)
        if source:
            _bind_foreign(sock, source)
        code = sock.connect_ex(address)
        if code == errno.EINPROGRESS:
            code = 0
            if not _is_connected(sock):  # to this very host it takes no time
                await _writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if sock.getsockname() == (peer := sock.getpeername()):
            # Without a listener a connection to a local port of the ephemeral range can meet itself.
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return SocketConnection(sock, plain_address(peer))
    except BaseException:
        sock.close()
        raise


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


async def _writable(sock: socket.socket) -> None:
    """Wait until a connection attempt has ended. The loop's `sock_connect` does it in twice the system calls."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_writer(sock.fileno(), ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_writer(sock.fileno())


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
    received: Received,
    *,
    local: Address | None = None,
    remote: Address | None = None,
    source: str = "",
    refused: Callable[[], None] | None = None,
) -> SocketDatagrams:
    """A datagram socket bound to `local` and/or connected to `remote`; `source` as in `connect`, `refused` as in
    `overlay.aio.world.Network`.
    """
    known = local or remote
    if known is None:
        raise ValueError("datagrams() needs a local or a remote address")
    family, _ = (await resolve(*known, socket.SOCK_DGRAM, passive=local is not None))[0]
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.settimeout(0)
        if local is not None:
            sock.bind((await resolve(*local, socket.SOCK_DGRAM, passive=True))[0][1])
        if source:
            _bind_foreign(sock, source)
        if remote is not None:
            found = await resolve(*remote, socket.SOCK_DGRAM)
            sock.connect(next((to for kind, to in found if kind == family), found[0][1]))
        return SocketDatagrams(sock, received, remote=remote is not None, refused=refused)
    except OSError:
        sock.close()
        raise
