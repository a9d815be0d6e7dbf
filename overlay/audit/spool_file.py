"""The bytes of a spool file: per event `length 4 | CRC-32 4 | bytes` (docs/protocol/audit.md, U-02). Pure.

A program may be killed while it appends, so the end of a file may be torn; a disk may damage the middle. Reading
finds every event that is whole, however much rubbish lies between.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from overlay.audit.record import event_of
from overlay.errors import DecodeError
from overlay.limits import EVENT_BATCH_BYTES, MAX_EVENT
from overlay.wire.codec import Signed, decode

_HEAD = struct.Struct("!II")


class Stored(NamedTuple):
    """One event of a file: its number and its bytes as signed."""

    number: int
    signed: bytes


class Contents(NamedTuple):
    """What a file holds. `end` is where the last whole event ends: what follows was torn. `damaged` counts the places
    before that where bytes could not be read."""

    events: list[Stored]
    end: int
    damaged: int


def pack(signed: bytes) -> bytes:
    """One event as it is appended.

    Raises:
        ValueError: larger than `MAX_EVENT`.
    """
    if len(signed) > MAX_EVENT:
        raise ValueError(f"an event of {len(signed)} bytes is above the limit of {MAX_EVENT}")
    return _HEAD.pack(len(signed), zlib.crc32(signed)) + signed


def unpack(raw: bytes) -> Contents:
    """All whole events in the order of the file; numbers rise, and what would break that is taken as damage."""
    events: list[Stored] = []
    damaged = place = end = 0
    last = 0
    while place < len(raw):
        found = _event_at(raw, place)
        if found is None or found.number <= last:
            place += 1
            continue
        if place != end:
            damaged += 1
        events.append(found)
        last = found.number
        place = end = place + _HEAD.size + len(found.signed)
    return Contents(events, end, damaged)


def _event_at(raw: bytes, place: int) -> Stored | None:
    if len(raw) - place < _HEAD.size:
        return None
    length, checksum = _HEAD.unpack_from(raw, place)
    start = place + _HEAD.size
    if not 0 < length <= MAX_EVENT or len(raw) - start < length:
        return None
    signed = raw[start : start + length]
    if zlib.crc32(signed) != checksum:
        return None
    try:
        return Stored(event_of(signed).number, signed)
    except DecodeError:
        return None


def one_batch(events: Sequence[bytes]) -> tuple[bytes, tuple[bytes, ...]]:
    """The first of these events that travel together: their one signer, and they, of `EVENT_BATCH_BYTES` unless one is
    larger.
    """
    signer, size = decode(Signed, events[0]).signer, 0
    chosen: list[bytes] = []
    for signed in events:
        size += len(signed)
        if chosen and (size > EVENT_BATCH_BYTES or decode(Signed, signed).signer != signer):
            break
        chosen.append(signed)
    return signer, tuple(chosen)
