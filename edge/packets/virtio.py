"""The virtio-net header before each packet of a TUN device with IFF_VNET_HDR (virtio 1.2 §5.1.6), little-endian. Pure.

Offsets in it count from the first byte of the packet.
"""

import struct
from typing import NamedTuple

from overlay.errors import DecodeError

SIZE = 10
NEEDS_CHECKSUM, DATA_VALID = 1, 2
GSO_NONE, GSO_TCPV4, GSO_UDP_FRAGMENTS, GSO_TCPV6, GSO_UDP = 0, 1, 3, 4, 5
GSO_ECN = 0x80
PLAIN = bytes(SIZE)
"""The header of a packet with nothing left to do."""

_HEADER = struct.Struct("<BBHHHH")


class Offload(NamedTuple):
    """What is left to be done with a packet: `start` and `offset` say where a partial checksum is."""

    flags: int
    gso_type: int
    header_length: int
    gso_size: int
    start: int
    offset: int

    @property
    def partial(self) -> bool:
        """The checksum field holds the sum of the pseudo header only."""
        return bool(self.flags & NEEDS_CHECKSUM)

    @property
    def checked(self) -> bool:
        """The checksum is right as far as this machine is concerned: verified, or never computed."""
        return bool(self.flags & (NEEDS_CHECKSUM | DATA_VALID))

    @property
    def train(self) -> int:
        """The size of each datagram, when this is a train of UDP datagrams; else 0."""
        return self.gso_size if self.gso_type & ~GSO_ECN == GSO_UDP else 0


def read_offload(data: memoryview) -> Offload:
    """Read the header in front of a packet. Raises: DecodeError."""
    if len(data) < SIZE:
        raise DecodeError("the header of virtio-net is cut off")
    found = Offload(*_HEADER.unpack_from(data))
    kind = found.gso_type & ~GSO_ECN
    if kind not in (GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP):
        raise DecodeError(f"packets of kind {kind} were not asked for")
    if kind and not found.gso_size:
        raise DecodeError("a super-packet of parts without a size")
    if found.partial and SIZE + found.start + found.offset + 2 > len(data):
        raise DecodeError("a partial checksum lies outside the packet")
    return found


def partial_checksum(
    start: int, offset: int, *, gso_type: int = GSO_NONE, gso_size: int = 0
) -> bytes:
    """The header for a packet whose checksum at `start + offset` the kernel finishes."""
    header_length = start + 8 if gso_type else 0
    return _HEADER.pack(NEEDS_CHECKSUM, gso_type, header_length, gso_size, start, offset)
