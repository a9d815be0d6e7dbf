"""The packet that an ICMP error is about, as far as the error repeats it (RFC 792, RFC 4443). Pure."""

import struct
from typing import NamedTuple

from edge.packets import virtio
from edge.packets.answers import ip_header
from edge.packets.checksum import add_up, fold, pseudo_header, put
from edge.packets.ip import FRAGMENT, ICMP, ICMPV6, TCP, UDP, V4_HEADER, V6_HEADER, Packet
from edge.packets.transport import ICMP_HEADER, Message
from overlay.errors import DecodeError

_PORTS = 4


class Quoted(NamedTuple):
    """Who sent the packet to whom; `at` is where its addresses begin, `ports` where its ports do."""

    protocol: int
    source: bytes
    destination: bytes
    ports: bytes
    at: int
    ports_at: int

    @property
    def answered_by(self) -> bytes:
        """The key of the flow in the other direction."""
        return self.destination + self.source + self.ports[2:] + self.ports[:2]


def read_quoted(data: memoryview, packet: Packet, message: Message) -> Quoted:
    """What an ICMP error quotes, of TCP or UDP. Raises: DecodeError: too little of it, or of something else."""
    start, end = message.start, message.end
    size = 4 if packet.version == 4 else 16
    if packet.version == 4:
        at, header = start + 12, V4_HEADER
        if end - start < V4_HEADER or data[start] >> 4 != 4:
            raise DecodeError("an ICMP error without the packet that it is about")
        header = (data[start] & 15) * 4
        protocol = data[start + 9]
        later = bool((data[start + 6] & 0x1F) << 8 | data[start + 7])
    else:
        at, header = start + 8, V6_HEADER
        if end - start < V6_HEADER or data[start] >> 4 != 6:
            raise DecodeError("an ICMP error without the packet that it is about")
        protocol, later = data[start + 6], False
        if protocol == FRAGMENT and end - start >= V6_HEADER + 8:
            protocol = data[start + V6_HEADER]
            later = bool(data[start + 42] << 8 | data[start + 43] & 0xF8)
            header += 8
    ports_at = start + header
    if protocol not in (TCP, UDP) or later or header < size or ports_at + _PORTS > end:
        raise DecodeError("an ICMP error about what is no TCP or UDP")
    return Quoted(
        protocol,
        bytes(data[at : at + size]),
        bytes(data[at + size : at + 2 * size]),
        bytes(data[ports_at : ports_at + _PORTS]),
        at,
        ports_at,
    )


def next_mtu(data: memoryview, packet: Packet, message: Message) -> int:
    """What passes, from "fragmentation needed" or "packet too big"; 0 for another error."""
    if packet.version == 4 and (message.kind, message.code) == (3, 4):
        return message.sequence
    if packet.version == 6 and message.kind == 2:
        return int(struct.unpack_from("!I", data, packet.start + 4)[0])
    return 0


def translated(
    data: memoryview, packet: Packet, message: Message, quoted: Quoted, new: bytes, source: bytes
) -> bytes:
    """The error as the kernel's own TCP understands it: about `new` (source, destination, ports), and to its source.

    `source` is who says it, and of the same version.
    """
    body = bytearray(data[packet.start : packet.end])
    shift = packet.start
    body[quoted.at - shift : quoted.at - shift + len(new) - _PORTS] = new[:-_PORTS]
    body[quoted.ports_at - shift : quoted.ports_at - shift + _PORTS] = new[-_PORTS:]
    if packet.version == 4:
        header = body[ICMP_HEADER : quoted.ports_at - shift]
        put(header, 10, 0)
        put(body, ICMP_HEADER + 10, ~add_up(header) & 0xFFFF)
    destination = new[: len(source)]
    protocol = ICMP if packet.version == 4 else ICMPV6
    pseudo = 0
    if protocol == ICMPV6:
        pseudo = pseudo_header(source, destination, ICMPV6, len(body))
    put(body, 2, 0)
    put(body, 2, ~fold(add_up(body) + pseudo) & 0xFFFF)
    return virtio.PLAIN + bytes(ip_header(source, destination, protocol, len(body)) + body)
