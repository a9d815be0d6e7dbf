"""Packets that a TUN device answers with: TCP reset, ICMP errors, echo replies, UDP datagrams. Pure.

Each function returns what is written to the device, its virtio-net header included. Where the kernel can, it sums the
payload (RFC 1071 is linear, and Python is slow).
"""

import struct
from collections.abc import Iterator

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


def datagrams(
    source: bytes,
    destination: bytes,
    ports: tuple[int, int],
    payload: bytes,
    *,
    ident: int,
    mtu: int,
) -> Iterator[bytes]:
    """A UDP datagram: one packet, or fragments where IPv6 needs them (IPv4's are made on the way).

    Args:
        source: whose answer it is.
        destination: the client.
        ports: of both.
        payload: at most 65,507 bytes.
        ident: names the fragments; 16 bits for IPv4, 32 for IPv6.
        mtu: the longest packet for the client.
    """
    length = UDP_HEADER + len(payload)
    pseudo = pseudo_header(source, destination, UDP, length)
    header = bytearray(_UDP.pack(*ports, length, pseudo))
    if len(source) == 4:
        ip = ip_header(source, destination, UDP, length, ident=ident & 0xFFFF)
        yield virtio.partial_checksum(V4_HEADER, 6) + bytes(ip + header) + payload
    elif V6_HEADER + length <= mtu:
        ip = ip_header(source, destination, UDP, length)
        yield virtio.partial_checksum(V6_HEADER, 6) + bytes(ip + header) + payload
    else:
        put(header, 6, 0)
        put(header, 6, ~fold(add_up(bytes(header) + payload) + pseudo) & 0xFFFF or 0xFFFF)
        yield from _fragments(source, destination, bytes(header) + payload, ident, mtu)


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
