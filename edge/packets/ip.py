"""Reads IPv4 and IPv6 headers, with options, extension headers and fragments (RFC 791, RFC 8200). Pure.

What is no packet, or one that nobody sends in good faith, is `DecodeError`; nothing else is raised. A next header that
is not known here is never taken for TCP or UDP.
"""

import struct
from typing import NamedTuple

from overlay.errors import DecodeError

ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, AUTHENTICATION, DESTINATION = 0, 43, 44, 51, 60

MAX_PACKET = 65_575
"""Bytes: an IPv6 header and the longest payload. IPv4 packets are at most 65,535."""
MAX_HEADERS = 8
"""Extension headers of one packet; more are sent only to get past somebody who counts."""
V4_HEADER, V6_HEADER = 20, 40

_V4 = struct.Struct("!BBHHHBBH4s4s")
_V6 = struct.Struct("!IHBB16s16s")
_FRAGMENT = struct.Struct("!BxHI")
_END, _NOTHING = 0, 1
_SOURCE_ROUTES = frozenset({131, 137})
_DONT_FRAGMENT, _MORE, _OFFSET = 0x4000, 0x2000, 0x1FFF
_SKIPPED = frozenset({HOP_BY_HOP, ROUTING, DESTINATION, AUTHENTICATION})


class Fragment(NamedTuple):
    """A part of a packet: `offset` in bytes; `header` is where the fragment header begins (IPv6), 0 for IPv4."""

    ident: int
    offset: int
    more: bool
    header: int = 0


class Packet(NamedTuple):
    """Where things are in a packet.

    Attributes:
        version: 4 or 6.
        source: 4 or 16 bytes.
        destination: the same.
        protocol: what follows the headers of IP.
        start: where that begins.
        end: where the packet ends, at most the length of what was read.
        named: where the number of `protocol` stands.
        hops: hops left.
        fragment: which part of a packet this is; None for a whole one.
    """

    version: int
    source: bytes
    destination: bytes
    protocol: int
    start: int
    end: int
    named: int
    hops: int
    fragment: Fragment | None


def read_packet(data: memoryview) -> Packet:
    """Read the headers of IP. Raises: DecodeError."""
    if not data:
        raise DecodeError("an empty packet")
    version = data[0] >> 4
    if version == 4:
        return _read_v4(data)
    if version == 6:
        return _read_v6(data)
    raise DecodeError(f"a packet of IP version {version}")


def _read_v4(data: memoryview) -> Packet:
    if len(data) < V4_HEADER:
        raise DecodeError("an IPv4 packet is shorter than its header")
    first, _, length, ident, cut, hops, protocol, _, source, destination = _V4.unpack_from(data)
    start = (first & 15) * 4
    if start < V4_HEADER or start > length or length > len(data):
        raise DecodeError("the lengths in an IPv4 header contradict each other")
    if start > V4_HEADER:
        _check_options(data[V4_HEADER:start])
    if cut & 0x8000:
        raise DecodeError("a reserved flag of IPv4 is set")
    fragment = None
    if cut & (_MORE | _OFFSET):
        fragment = Fragment(ident, (cut & _OFFSET) * 8, bool(cut & _MORE))
        _check_fragment(fragment, length - start)
    return Packet(4, source, destination, protocol, start, length, 9, hops, fragment)


def _check_options(options: memoryview) -> None:
    at = 0
    while at < len(options) and options[at] != _END:
        if options[at] == _NOTHING:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if not 2 <= size <= len(options) - at:
            raise DecodeError("the length of an option of IPv4 is wrong")
        if options[at] in _SOURCE_ROUTES:
            raise DecodeError("an option that leads on to somewhere else (RFC 7126 §4.3)")
        at += size


def _read_v6(data: memoryview) -> Packet:
    if len(data) < V6_HEADER:
        raise DecodeError("an IPv6 packet is shorter than its header")
    _, length, following, hops, source, destination = _V6.unpack_from(data)
    end = V6_HEADER + length
    if end > len(data):
        raise DecodeError("an IPv6 packet is shorter than it says")
    at, named, count = V6_HEADER, 6, 0
    while following in _SKIPPED or following == FRAGMENT:
        count += 1
        if count > MAX_HEADERS:
            raise DecodeError("an IPv6 packet has too many extension headers")
        if at + 8 > end:
            raise DecodeError("an extension header of IPv6 is cut off")
        if following == HOP_BY_HOP and at != V6_HEADER:
            raise DecodeError("hop-by-hop options that are not the first header")
        if following == FRAGMENT:
            following, cut, ident = _FRAGMENT.unpack_from(data, at)
            fragment = Fragment(ident, cut & 0xFFF8, bool(cut & 1), at)
            if fragment.offset or fragment.more:
                _check_fragment(fragment, end - at - 8)
                return Packet(6, source, destination, following, at + 8, end, named, hops, fragment)
            named, at = at, at + 8  # an atomic fragment is a whole packet (RFC 6946)
            continue
        if following == ROUTING and data[at + 3]:
            raise DecodeError("a routing header that leads on to somewhere else (RFC 5095)")
        units = data[at + 1]
        size = (units + 2) * 4 if following == AUTHENTICATION else (units + 1) * 8
        if at + size > end:
            raise DecodeError("an extension header of IPv6 is cut off")
        following, named, at = data[at], at, at + size
    return Packet(6, source, destination, following, at, end, named, hops, None)


def _check_fragment(fragment: Fragment, length: int) -> None:
    if not length:
        raise DecodeError("a fragment without a byte")
    if fragment.more and length % 8:
        raise DecodeError("a fragment in the middle is not a multiple of 8 bytes")
    if fragment.offset + length > 65_535:
        raise DecodeError("a fragment reaches beyond the longest packet")


def v4_header(
    source: bytes, destination: bytes, protocol: int, length: int, *, ident: int | None = None
) -> bytearray:
    """An IPv4 header without options for `length` bytes of payload; with an `ident` it may be fragmented."""
    flags = _DONT_FRAGMENT if ident is None else 0
    return bytearray(
        _V4.pack(
            0x45, 0, V4_HEADER + length, ident or 0, flags, 64, protocol, 0, source, destination
        )
    )


def v6_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytearray:
    """An IPv6 header for `length` bytes of payload."""
    return bytearray(_V6.pack(6 << 28, length, protocol, 64, source, destination))


def fragment_header(protocol: int, offset: int, ident: int, *, more: bool) -> bytes:
    """The fragment header of IPv6."""
    return _FRAGMENT.pack(protocol, offset | more, ident)
