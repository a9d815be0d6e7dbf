"""The Internet checksum: whole (RFC 1071), and corrected after a change (RFC 1624). Pure.

A *sum* here is a one's complement sum of 16-bit words, folded to 16 bits; the *checksum* in a header is its complement.
"""

import struct

_WORD = struct.Struct("!H")


def fold(total: int) -> int:
    """A sum of sums, at least 0, folded to 16 bits."""
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def add_up(data: bytes | bytearray | memoryview) -> int:
    """The sum of `data`, which is padded with a zero byte when its length is odd.

    2^16 is 1 modulo 65,535, so the number that the bytes spell has the same remainder as the sum of its words.
    """
    value = int.from_bytes(data, "big")
    if len(data) % 2:
        value <<= 8
    if not value:
        return 0
    return value % 0xFFFF or 0xFFFF


def difference(old: bytes, new: bytes) -> int:
    """What is added to a sum when `old` becomes `new`; both of the same, even length."""
    return fold((~add_up(old) & 0xFFFF) + add_up(new))


def corrected(checksum: int, change: int) -> int:
    """The checksum after a change (RFC 1624, equation 3): a wrong one stays wrong."""
    return ~fold((~checksum & 0xFFFF) + change) & 0xFFFF


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """The sum of the pseudo header of TCP, UDP or ICMPv6 (RFC 9293 §3.1, RFC 8200 §8.1)."""
    return fold(
        add_up(source) + add_up(destination) + protocol + (length >> 16) + (length & 0xFFFF)
    )


def holds(data: memoryview, pseudo: int = 0) -> bool:
    """Whether the checksum inside `data` is right."""
    return fold(add_up(data) + pseudo) == 0xFFFF


def put(header: bytearray, at: int, checksum: int) -> None:
    """Write a checksum."""
    _WORD.pack_into(header, at, checksum)
