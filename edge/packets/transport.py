"""Reads TCP, UDP and ICMP headers behind those of IP (RFC 9293, RFC 768, RFC 792, RFC 4443). Pure.

`DecodeError` is all that is raised. Checksums of UDP and ICMP are checked here; those of TCP by the kernel, which
terminates it.
"""

import struct
from typing import NamedTuple

from edge.packets.checksum import holds, pseudo_header
from edge.packets.ip import ICMP, ICMPV6, TCP, UDP, Packet
from overlay.errors import DecodeError

FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
TCP_HEADER, UDP_HEADER, ICMP_HEADER = 20, 8, 8

_TCP = struct.Struct("!HHIIBB")
_UDP = struct.Struct("!HHHH")
_ICMP = struct.Struct("!BBHHH")

ECHO_REQUEST = {ICMP: 8, ICMPV6: 128}
ECHO_REPLY = {ICMP: 0, ICMPV6: 129}


class Segment(NamedTuple):
    """A TCP header; `payload` is the number of bytes behind it."""

    source: int
    destination: int
    sequence: int
    acknowledgement: int
    flags: int
    header: int
    payload: int

    @property
    def opens(self) -> bool:
        """A SYN that wants a connection, and nothing else."""
        return self.flags & (SYN | ACK | RST | FIN) == SYN

    @property
    def length(self) -> int:
        """What it takes of the sequence space."""
        return self.payload + bool(self.flags & SYN) + bool(self.flags & FIN)


class Datagram(NamedTuple):
    """A UDP header; `start` and `end` bound the payload in the packet."""

    source: int
    destination: int
    start: int
    end: int


class Message(NamedTuple):
    """An ICMP header; `start` and `end` bound what follows its 8 bytes."""

    kind: int
    code: int
    identifier: int
    sequence: int
    start: int
    end: int


def read_segment(data: memoryview, packet: Packet) -> Segment:
    """A TCP header. Raises: DecodeError."""
    if packet.protocol != TCP or packet.end - packet.start < TCP_HEADER:
        raise DecodeError("a TCP header is cut off")
    source, destination, sequence, acknowledgement, offset, flags = _TCP.unpack_from(
        data, packet.start
    )
    header = (offset >> 4) * 4
    payload = packet.end - packet.start - header
    if header < TCP_HEADER or payload < 0:
        raise DecodeError("the length in a TCP header is wrong")
    _check_ports(source, destination)
    return Segment(source, destination, sequence, acknowledgement, flags, header, payload)


def read_datagram(data: memoryview, packet: Packet, *, checked: bool = False) -> Datagram:
    """A UDP header and where its payload is.

    Args:
        data: the packet.
        packet: its headers.
        checked: the checksum is known to be right, or left to us to fill in.

    Raises:
        DecodeError: also for a checksum that is wrong, or missing in IPv6 (RFC 8200 §8.1).
    """
    if packet.protocol != UDP or packet.end - packet.start < UDP_HEADER:
        raise DecodeError("a UDP header is cut off")
    source, destination, length, checksum = _UDP.unpack_from(data, packet.start)
    if length < UDP_HEADER or packet.start + length > packet.end:
        raise DecodeError("the length in a UDP header is wrong")
    if not destination:
        raise DecodeError("UDP to port 0")
    if not checked:
        if not checksum and packet.version == 6:
            raise DecodeError("UDP over IPv6 without a checksum")
        pseudo = pseudo_header(packet.source, packet.destination, UDP, length)
        if checksum and not holds(data[packet.start : packet.start + length], pseudo):
            raise DecodeError("a UDP checksum is wrong")
    end = packet.start + length
    return Datagram(source, destination, packet.start + UDP_HEADER, end)


def read_message(data: memoryview, packet: Packet) -> Message:
    """An ICMP or ICMPv6 header; the checksum is checked. Raises: DecodeError."""
    right = packet.protocol == (ICMP if packet.version == 4 else ICMPV6)
    length = packet.end - packet.start
    if not right or length < ICMP_HEADER:
        raise DecodeError("an ICMP header is cut off, or of the other IP version")
    pseudo = 0
    if packet.version == 6:
        pseudo = pseudo_header(packet.source, packet.destination, ICMPV6, length)
    if not holds(data[packet.start : packet.end], pseudo):
        raise DecodeError("an ICMP checksum is wrong")
    kind, code, _, identifier, sequence = _ICMP.unpack_from(data, packet.start)
    return Message(kind, code, identifier, sequence, packet.start + ICMP_HEADER, packet.end)


def _check_ports(source: int, destination: int) -> None:
    if not source or not destination:
        raise DecodeError("TCP from or to port 0")
