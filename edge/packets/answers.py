"""Packets that a TUN device answers with: TCP reset, ICMP errors, echo replies, UDP datagrams. Pure.

What is returned is written to the device, its virtio-net header included. Where the kernel can, it sums the payload
(RFC 1071 is linear, and Python is slow).
"""

import struct
from collections.abc import Iterable, Iterator

from edge.packets import virtio
from edge.packets.checksum import add_up, fold, pseudo_header, put
from edge.packets.ip import (
    FRAGMENT,
    ICMP,
    ICMPV6,
    TCP,
    UDP,
    V4_HEADER,
    V6_HEADER,
    Packet,
    fragment_header,
    v4_header,
    v6_header,
)
from edge.packets.transport import (
    ACK,
    ECHO_REPLY,
    RST,
    TCP_HEADER,
    UDP_HEADER,
    Message,
    Segment,
)

QUOTED_V4 = 548
QUOTED_V6 = 1232
"""How much of a packet its ICMP error repeats: the error is 576 (RFC 1812 §4.3.2.3) or 1,280 bytes at most
(RFC 4443 §2.4).
"""
UNREACHABLE = {4: 3, 6: 1}
PROHIBITED = {4: 13, 6: 1}
"""Codes of "communication administratively prohibited"."""
NO_PORT = {4: 3, 6: 4}
NO_HOST = {4: 1, 6: 3}

_TCP = struct.Struct("!HHIIBBHHH")
_UDP = struct.Struct("!HHHH")
_V4_UDP = struct.Struct("!BBHHHBBH4s4sHHHH")
_ICMP = struct.Struct("!BBHI")
_ECHO = struct.Struct("!BBHHH")


def reset(packet: Packet, segment: Segment) -> bytes:
    """The RST for a segment that belongs to no connection (RFC 9293 §3.10.7.1)."""
    if segment.flags & ACK:
        numbers = (segment.acknowledgement, 0)
        flags = RST
    else:
        numbers = (0, (segment.sequence + segment.length) & 0xFFFFFFFF)
        flags = RST | ACK
    header = bytearray(
        _TCP.pack(segment.destination, segment.source, *numbers, 0x50, flags, 0, 0, 0)
    )
    source, destination = packet.destination, packet.source
    put(header, 16, pseudo_header(source, destination, TCP, TCP_HEADER))
    start = V4_HEADER if packet.version == 4 else V6_HEADER
    return virtio.partial_checksum(start, 16) + bytes(
        ip_header(source, destination, TCP, TCP_HEADER) + header
    )


def unreachable(data: memoryview, packet: Packet, codes: dict[int, int]) -> bytes:
    """An ICMP "destination unreachable" about a packet, as if from its destination (RFC 792, RFC 4443 §3.1)."""
    return _error(data, packet, UNREACHABLE[packet.version], codes[packet.version], 0)


def too_big(data: memoryview, packet: Packet, mtu: int) -> bytes:
    """Fragmentation needed (RFC 1191), or packet too big (RFC 4443 §3.2): `mtu` is what would pass."""
    if packet.version == 4:
        return _error(data, packet, 3, 4, min(mtu, 0xFFFF))
    return _error(data, packet, 2, 0, mtu)


def _error(data: memoryview, packet: Packet, kind: int, code: int, rest: int) -> bytes:
    quoted = QUOTED_V4 if packet.version == 4 else QUOTED_V6
    body = bytes(data[: min(packet.end, quoted)])
    return _icmp(packet.destination, packet.source, _ICMP.pack(kind, code, 0, rest) + body)


def echo_reply(
    source: bytes, destination: bytes, identifier: int, sequence: int, payload: bytes
) -> bytes:
    """The answer to an echo request, from the address that was asked."""
    kind = ECHO_REPLY[ICMP if len(source) == 4 else ICMPV6]
    return _icmp(source, destination, _ECHO.pack(kind, 0, 0, identifier, sequence) + payload)


def _icmp(source: bytes, destination: bytes, body: bytes) -> bytes:
    protocol = ICMP if len(source) == 4 else ICMPV6
    message = bytearray(body)
    pseudo = 0
    if protocol == ICMPV6:
        pseudo = pseudo_header(source, destination, ICMPV6, len(message))
    put(message, 2, ~fold(add_up(message) + pseudo) & 0xFFFF)
    return virtio.PLAIN + bytes(ip_header(source, destination, protocol, len(message)) + message)


class Datagrams:
    """UDP datagrams of one flow: what is the same in all of them is summed once.

    Args:
        source: whose answers they are.
        destination: the client.
        ports: of both.
    """

    def __init__(self, source: bytes, destination: bytes, ports: tuple[int, int]) -> None:
        self._ends = source, destination
        self._ports = ports
        self._pseudo = add_up(source) + add_up(destination) + UDP
        v4 = len(source) == 4
        self._header = add_up(v4_header(source, destination, UDP, -V4_HEADER, ident=0)) if v4 else 0
        self._offload = virtio.partial_checksum(V4_HEADER if v4 else V6_HEADER, 6)

    def packets(self, payload: bytes, *, ident: int, mtu: int) -> Iterable[bytes]:
        """One datagram: one packet, or fragments where IPv6 needs them (IPv4's are made on the way).

        Args:
            payload: at most 65,507 bytes.
            ident: names the fragments; 16 bits for IPv4, 32 for IPv6.
            mtu: the longest packet for the client.
        """
        source, destination = self._ends
        ports = self._ports
        length = UDP_HEADER + len(payload)
        pseudo = fold(self._pseudo + length)
        if len(source) == 4:
            whole, ident = V4_HEADER + length, ident & 0xFFFF
            right = ~fold(self._header + whole + ident) & 0xFFFF
            headers = _V4_UDP.pack(
                0x45, 0, whole, ident, 0, 64, UDP, right, source, destination, *ports, length, pseudo
            )  # fmt: skip
            return (b"".join((self._offload, headers, payload)),)
        header = _UDP.pack(*ports, length, pseudo)
        if V6_HEADER + length <= mtu:
            ip = v6_header(source, destination, UDP, length)
            return (b"".join((self._offload, ip, header, payload)),)
        body = bytearray(header + payload)
        put(body, 6, 0)
        put(body, 6, ~fold(add_up(body) + pseudo) & 0xFFFF or 0xFFFF)
        return _fragments(source, destination, bytes(body), ident, mtu)


def _fragments(
    source: bytes, destination: bytes, body: bytes, ident: int, mtu: int
) -> Iterator[bytes]:
    room = (mtu - V6_HEADER - 8) & ~7
    for offset in range(0, len(body), room):
        part = body[offset : offset + room]
        extra = fragment_header(UDP, offset, ident, more=offset + room < len(body))
        ip = ip_header(source, destination, FRAGMENT, len(extra) + len(part))
        yield virtio.PLAIN + bytes(ip) + extra + part


def ip_header(
    source: bytes, destination: bytes, protocol: int, length: int, *, ident: int | None = None
) -> bytearray:
    """The header of either version; IPv4's checksum is set."""
    if len(source) == 16:
        return v6_header(source, destination, protocol, length)
    header = v4_header(source, destination, protocol, length, ident=ident)
    put(header, 10, ~add_up(header) & 0xFFFF)
    return header


def answerable(message: Message | None, packet: Packet) -> bool:
    """Whether an ICMP error may be sent about a packet: never about another error, or part of a packet that is not its
    first (RFC 1122 §3.2.2, RFC 4443 §2.4).
    """
    if packet.fragment is not None and packet.fragment.offset:
        return False
    if packet.protocol == ICMP:
        return message is not None and message.kind in (8, 13, 15, 17)
    if packet.protocol == ICMPV6:
        return message is not None and message.kind >= 128
    return True
