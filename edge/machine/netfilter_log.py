"""Packets of which the kernel's rules say `log group N`, over netlink; needs CAP_NET_ADMIN.

Layouts: linux/netfilter/nfnetlink_log.h.
"""

import asyncio
import socket
import struct
from collections.abc import Callable

from edge.machine.netfilter import ACK, ask, attribute, messages, open_socket
from overlay.aio.logs import get_logger
from overlay.aio.sockets import read_again

PER_TURN = 64
"""Datagrams of netlink read in one turn of the event loop."""
_PACKET, _CONFIG = 0x400, 0x401
_COMMAND, _MODE, _TIMEOUT, _PAYLOAD = 1, 2, 4, 9
_BIND, _COPY_PACKET = 1, 2
_WHOLE = 0xFFFF
_ATTRIBUTE = struct.Struct("=HH")
_HUNDREDTHS = 5
"""For so long the kernel collects packets before it tells of them."""

_log = get_logger("netfilter")


class PacketLog:
    """One group. `told` gets each packet.

    Raises:
        OSError: the kernel has no such log, another program reads this group, or CAP_NET_ADMIN is missing.
    """

    def __init__(self, group: int, told: Callable[[memoryview], None]) -> None:
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._socket = open_socket()
        try:
            copy = struct.pack(">IBx", _WHOLE, _COPY_PACKET)
            attributes = (
                attribute(_COMMAND, bytes([_BIND]))
                + attribute(_MODE, copy)
                + attribute(_TIMEOUT, struct.pack(">I", _HUNDREDTHS))
            )
            ask(self._socket, _CONFIG, ACK, socket.AF_UNSPEC, group, attributes)
            self._socket.settimeout(0)
        except BaseException:
            self._socket.close()
            raise
        self._loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Read nothing more; the group is free again."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()

    def _readable(self) -> None:
        for _ in range(PER_TURN):
            try:
                data = self._socket.recv(65_536)
            except BlockingIOError:
                return
            except OSError as error:  # the kernel had more to tell than there was room for
                _log.warning("netfilter.log", reason=str(error))
                read_again(self._socket.fileno(), self._readable)
                return
            for kind, body in messages(data):
                if kind == _PACKET:
                    packet = _payload(body[4:])
                    if packet:
                        self._told(memoryview(packet))


def _payload(data: bytes) -> bytes:
    at = 0
    while at + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not 4 <= length <= len(data) - at:
            break
        if kind & 0x3FFF == _PAYLOAD:
            return data[at + 4 : at + length]
        at += (length + 3) & ~3
    return b""
