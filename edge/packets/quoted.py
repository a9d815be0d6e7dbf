"""The packet that an ICMP error is about, as far as the error repeats it (RFC 792, RFC 4443). Pure."""

import struct
from typing import NamedTuple

from edge.packets.ip import FRAGMENT, TCP, UDP, V4_HEADER, V6_HEADER, Packet
from edge.packets.transport import Message
from overlay.errors import DecodeError

_PORTS = 4
_REPEATED = 8
"""Bytes of the transport's header that every error repeats (RFC 792)."""


class Quoted(NamedTuple):
    """Who sent the packet to whom; `sequence` is the number of a TCP segment."""

    protocol: int
    source: bytes
    destination: bytes
    ports: bytes
    sequence: int

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
    if protocol not in (TCP, UDP) or later or header < size or ports_at + _REPEATED > end:
        raise DecodeError("an ICMP error about what is no TCP or UDP")
    return Quoted(
        protocol,
        bytes(data[at : at + size]),
        bytes(data[at + size : at + 2 * size]),
        bytes(data[ports_at : ports_at + _PORTS]),
        int.from_bytes(data[ports_at + _PORTS : ports_at + _REPEATED], "big"),
    )


def next_mtu(data: memoryview, packet: Packet, message: Message) -> int:
    """What passes, from "fragmentation needed" or "packet too big"; 0 for another error."""
    if packet.version == 4 and (message.kind, message.code) == (3, 4):
        return message.sequence
    if packet.version == 6 and message.kind == 2:
        return int(struct.unpack_from("!I", data, packet.start + 4)[0])
    return 0
