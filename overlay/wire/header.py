"""The fixed 24-byte link frame header (docs/protocol/link.md, L-10).

::

     0               1               2               3
    +---------------+---------------+-------------------------------+
    |     kind      |     flags     |        reserved (zero)        |
    +---------------+---------------+-------------------------------+
    |                         payload length                        |
    +---------------------------------------------------------------+
    |                      circuit (link-local)                     |
    |                                                               |
    +---------------------------------------------------------------+
    |                            sequence                           |
    |                                                               |
    +---------------------------------------------------------------+

All integers are big-endian. The upper four flag bits are end-to-end (covered by the circuit's seal),
the lower four belong to the link.
"""

import struct
from enum import IntEnum, IntFlag
from typing import NamedTuple, Protocol

from overlay import limits
from overlay.errors import DecodeError

HEADER_SIZE = 24
_LAYOUT = struct.Struct("!BBHIQQ")
_END_TO_END = struct.Struct("!BBIQ")
END_TO_END_FLAGS = 0xF0


class Kind(IntEnum):
    """Frame kinds; the numbers are the wire's."""

    OPEN = 1
    ACCEPT = 2
    READY = 3
    REFUSE = 4
    DATA = 5
    DATAGRAM = 6
    CREDIT = 7
    CHECKPOINT = 8
    CLOSE = 9
    RESET = 10
    RESUME = 11
    PING = 12
    PONG = 13
    CONTROL = 14
    GOAWAY = 15


class Flag(IntFlag):
    """Header flags; the upper four bits are end-to-end."""

    NONE = 0
    FLIGHT = 0x01
    """CREDIT: the caller's last TLS flight follows the sealed part."""
    LAST = 0x02
    """CREDIT, CLOSE: the sender says nothing more on this hop (L-38)."""
    SEALED = 0x10
    """REFUSE: the payload is sealed with the host's control key."""
    GRANT = 0x20
    """CREDIT: a refreshed grant follows the sealed part and is associated data of its tag."""
    SIGNED = 0x40
    """DATA, DATAGRAM: a 64-byte signature follows the ciphertext (strict integrity)."""


CLEAR_KINDS = frozenset({Kind.DATA, Kind.DATAGRAM})
"""Kinds whose payload a link in `header` mode does not seal again: it is sealed end to end."""

_OWN_FLAGS = dict.fromkeys(Kind, Flag.NONE) | {
    Kind.CREDIT: Flag.FLIGHT | Flag.GRANT | Flag.LAST,
    Kind.CLOSE: Flag.LAST,
    Kind.REFUSE: Flag.SEALED,
    Kind.DATA: Flag.SIGNED,
    Kind.DATAGRAM: Flag.SIGNED,
}
# Plain numbers, because the complement of an IntFlag leaves out the bits that have no name, and arithmetic with
# enumerations is slow.
_RULES = {
    int(kind): (kind, 0xFF & ~int(own), limits.MAX_PAYLOAD[kind])
    for kind, own in _OWN_FLAGS.items()
}
"""By number: the kind, the flags that it does not have, the longest payload."""
_unpack = _LAYOUT.unpack
_new = tuple.__new__  # twice as fast as calling a NamedTuple


class Header(NamedTuple):
    """One frame header. `length` counts payload bytes as the sender of the frame sees them, in bytes."""

    kind: Kind
    flags: int
    length: int
    circuit: int
    sequence: int

    def encode(self) -> bytes:
        """24 bytes for the wire."""
        return encode_header(self)

    def end_to_end(self) -> bytes:
        """The fields that travel unchanged from edge to edge, as associated data (C-21)."""
        return end_to_end_fields(self.kind, self.flags, self.length, self.sequence)


class HeaderFields(Protocol):
    """A header, or what else begins like one (a queued frame)."""

    @property
    def kind(self) -> Kind:
        """As `Header.kind`."""
        ...

    @property
    def flags(self) -> int:
        """As `Header.flags`."""
        ...

    @property
    def length(self) -> int:
        """As `Header.length`."""
        ...

    @property
    def circuit(self) -> int:
        """As `Header.circuit`."""
        ...

    @property
    def sequence(self) -> int:
        """As `Header.sequence`."""
        ...


pack_header = _LAYOUT.pack
"""24 bytes for the wire from kind, flags, 0, length, circuit, sequence."""


def encode_header(of: HeaderFields) -> bytes:
    """24 bytes for the wire."""
    return pack_header(of.kind, of.flags, 0, of.length, of.circuit, of.sequence)


pack_fields = _END_TO_END.pack
"""14 bytes from kind, end-to-end flags, length, sequence; see `end_to_end_fields`."""


def end_to_end_fields(kind: int, flags: int, length: int, sequence: int) -> bytes:
    """Kind, end-to-end flags, length and sequence: what the circuit's seal and hashes cover (C-21)."""
    return pack_fields(kind, flags & END_TO_END_FLAGS, length, sequence)


def decode_header(raw: bytes | bytearray | memoryview) -> Header:
    """Read one header.

    Raises:
        DecodeError: wrong size, unknown kind, a flag the kind does not have, reserved bits set,
            or a length above the kind's limit.
    """
    if len(raw) != HEADER_SIZE:
        raise DecodeError(f"a header has {HEADER_SIZE} bytes, not {len(raw)}")
    number, flags, reserved, length, circuit, sequence = _unpack(raw)
    rule = _RULES.get(number)
    if rule is None:
        raise DecodeError(f"unknown frame kind {number}")
    kind, foreign, longest = rule
    if reserved or flags & foreign:
        raise DecodeError(f"{kind.name}: reserved bits or foreign flags are set")
    if length > longest:
        raise DecodeError(f"{kind.name}: {length} bytes are above the limit")
    return _new(Header, (kind, flags, length, circuit, sequence))
