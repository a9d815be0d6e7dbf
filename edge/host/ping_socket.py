"""ICMP sockets of this machine: unprivileged ones (`ping_group_range`) where they are allowed, else raw ones."""

import asyncio
import errno
import itertools
import socket
import struct
from collections.abc import Callable

from edge.packets.checksum import add_up
from edge.packets.ip import ICMP, ICMPV6
from edge.packets.transport import ECHO_REPLY, ECHO_REQUEST, ICMP_HEADER
from overlay.aio.sockets import read_again, resolve

_ECHO = struct.Struct("!BBHHH")
_PER_TURN = 64
_identifiers = itertools.count(0x4652)
"""Of raw sockets, which hear the replies to all of this machine's pings."""
_FORBIDDEN = (errno.EACCES, errno.EPERM)


class PingSocket:
    """Implements `edge.host.echo.Ping`."""

    def __init__(
        self, sock: socket.socket, identifier: int, replied: Callable[[int, bytes], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._raw = sock.type == socket.SOCK_RAW
        self._v4 = sock.family == socket.AF_INET
        self._identifier = identifier
        self._replied = replied
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, sequence: int, payload: bytes) -> None:
        """Ping: the kernel sets identifier and checksum where it knows better."""
        kind = ECHO_REQUEST[ICMP if self._v4 else ICMPV6]
        message = bytearray(_ECHO.pack(kind, 0, 0, self._identifier, sequence) + payload)
        if self._v4:
            struct.pack_into("!H", message, 2, ~add_up(message) & 0xFFFF)
        if self._sock.fileno() >= 0:
            try:
                self._sock.send(message)
            except BlockingIOError:
                pass  # silence, as any ping that is not answered
            except OSError:  # the same, or the ICMP error of an earlier one
                read_again(self._sock.fileno(), self._readable)

    def close(self) -> None:
        """Ping."""
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._sock.close()

    def _readable(self) -> None:
        for _ in range(_PER_TURN):
            if self._sock.fileno() < 0:
                return
            try:
                data = self._sock.recv(65_535)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an ICMP error about an earlier request
                read_again(self._sock.fileno(), self._readable)
                continue
            self._read(data)

    def _read(self, data: bytes) -> None:
        if self._raw and self._v4:
            data = data[(data[0] & 15) * 4 :]
        if len(data) < ICMP_HEADER:
            return
        kind, code, _, identifier, sequence = _ECHO.unpack_from(data)
        reply = ECHO_REPLY[ICMP if self._v4 else ICMPV6]
        mine = not self._raw or identifier == self._identifier
        if kind == reply and not code and mine:
            self._replied(sequence, data[ICMP_HEADER:])


async def open_ping(host: str, replied: Callable[[int, bytes], None]) -> PingSocket:
    """A socket that pings `host`. Make it inside the event loop.

    Raises:
        OSError: neither kind of socket is allowed, or there is no way to the host.
    """
    family, address = (await resolve(host, 0, socket.SOCK_DGRAM))[0]
    protocol = ICMP if family == socket.AF_INET else ICMPV6
    sock = _socket(family, protocol)
    try:
        sock.settimeout(0)
        sock.connect(address)
        identifier = (
            sock.getsockname()[1] if sock.type == socket.SOCK_DGRAM else next(_identifiers) & 0xFFFF
        )
        return PingSocket(sock, identifier, replied)
    except BaseException:
        sock.close()
        raise


def _socket(family: int, protocol: int) -> socket.socket:
    try:
        return socket.socket(family, socket.SOCK_DGRAM, protocol)
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
    try:
        return socket.socket(family, socket.SOCK_RAW, protocol)
    except OSError as error:
        if error.errno not in _FORBIDDEN:
            raise
        raise OSError(
            error.errno,
            "this edge may not ping: put its group into net.ipv4.ping_group_range, or give it CAP_NET_RAW",
        ) from None
