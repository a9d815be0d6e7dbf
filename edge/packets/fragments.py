"""Puts fragments together again, within bounds (RFC 791, RFC 8200 §4.5, RFC 5722). Pure.

A packet with fragments that overlap is dropped whole, with all of it that still comes; an exact repetition is not an
overlap. `now` is a monotonic time in seconds.
"""

import struct
from collections import Counter, OrderedDict
from typing import NamedTuple

from edge.packets.checksum import add_up, put
from edge.packets.ip import V6_HEADER, Packet
from overlay.errors import DecodeError

AT_ONCE = 256
"""Packets that are being put together; the oldest gives way."""
PER_SOURCE = 32
"""Of these, from one address: it pushes out its own oldest."""
BYTES = 4 * 1024 * 1024
"""Payload that is kept for all of them."""
PARTS = 128
"""Fragments of one packet."""
SECONDS = 15.0
"""From the first fragment on."""

_LENGTH = struct.Struct("!H")
_Key = tuple[bytes, bytes, int, int]


class _Open:
    """One packet that is not complete."""

    __slots__ = ("bytes", "first", "parts", "poisoned", "since", "source", "total")

    def __init__(self, source: bytes, since: float) -> None:
        self.source = source
        self.since = since
        self.parts: dict[int, bytes] = {}
        self.first = b""
        self.total = 0
        self.bytes = 0
        self.poisoned = False

    def drop(self) -> int:
        """Keep nothing of it but that it is bad; how many bytes are free now."""
        freed, self.bytes = self.bytes, 0
        self.parts.clear()
        self.first = b""
        self.poisoned = True
        return freed


class Counts(NamedTuple):
    """What there is, for status and tests."""

    open: int
    bytes: int
    dropped: int


class Reassembler:
    """All packets of one device that come in parts."""

    def __init__(self) -> None:
        self._open: OrderedDict[_Key, _Open] = OrderedDict()
        self._sources: Counter[bytes] = Counter()
        self._bytes = 0
        self._dropped = 0

    @property
    def counts(self) -> Counts:
        """How full it is."""
        return Counts(len(self._open), self._bytes, self._dropped)

    def add(self, data: memoryview, packet: Packet, now: float) -> bytes | None:
        """One fragment (`packet.fragment` is set); returns the whole packet, without a sign of fragments, when this was
        the last one missing.

        Raises:
            DecodeError: it overlaps, or there are too many.
        """
        fragment = packet.fragment
        if fragment is None:
            raise DecodeError("not a fragment")
        self.expire(now)
        protocol = packet.protocol if packet.version == 4 else -1
        key = (packet.source, packet.destination, protocol, fragment.ident)
        found = self._open.get(key)
        if found is None:
            found = self._begin(key, packet.source, now)
        if found.poisoned:
            raise DecodeError("a fragment of a packet that was dropped")
        part = bytes(data[packet.start : packet.end])
        if found.parts.get(fragment.offset) == part:
            return None
        if not self._fits(found, fragment.offset, part, more=fragment.more):
            self._bytes -= found.drop()
            self._dropped += 1
            raise DecodeError("fragments overlap, contradict each other or are too many")
        found.parts[fragment.offset] = part
        found.bytes += len(part)
        self._bytes += len(part)
        if not fragment.more:
            found.total = fragment.offset + len(part)
        if not fragment.offset:
            found.first = _headers(data, packet)
        if found.total and found.bytes == found.total:
            self._forget(key)
            return _joined(packet.version, found)
        self._shed(key)
        return None

    def expire(self, now: float) -> None:
        """Forget what is too old."""
        while self._open:
            key, oldest = next(iter(self._open.items()))
            if now - oldest.since < SECONDS:
                return
            self._dropped += not oldest.poisoned
            self._forget(key)

    def _begin(self, key: _Key, source: bytes, now: float) -> _Open:
        if self._sources[source] >= PER_SOURCE:
            self._give_up(next(one for one, kept in self._open.items() if kept.source == source))
        elif len(self._open) >= AT_ONCE:
            self._give_up(next(iter(self._open)))
        self._sources[source] += 1
        found = self._open[key] = _Open(source, now)
        return found

    def _fits(self, found: _Open, offset: int, part: bytes, *, more: bool) -> bool:
        end = offset + len(part)
        if len(found.parts) >= PARTS or (found.total and (end > found.total or not more)):
            return False
        for start, other in found.parts.items():
            if start < end and offset < start + len(other):
                return False
            if not more and start + len(other) > end:
                return False
        return True

    def _shed(self, newest: _Key) -> None:
        """Bring the sum of all below the bound; the one that grew last goes last."""
        while self._bytes > BYTES:
            oldest = next(iter(self._open))
            if oldest == newest and len(self._open) > 1:
                self._open.move_to_end(oldest)
                continue
            self._give_up(oldest)

    def _give_up(self, key: _Key) -> None:
        self._dropped += 1
        self._forget(key)

    def _forget(self, key: _Key) -> None:
        found = self._open.pop(key)
        self._bytes -= found.bytes
        self._sources[found.source] -= 1
        if not self._sources[found.source]:
            del self._sources[found.source]


def _headers(data: memoryview, packet: Packet) -> bytes:
    """What comes before the payload in the whole packet: without fragment header, lengths still to be set."""
    fragment = packet.fragment
    if packet.version == 4 or fragment is None:
        return bytes(data[: packet.start])
    headers = bytearray(data[: fragment.header])
    headers[packet.named] = packet.protocol
    return bytes(headers)


def _joined(version: int, found: _Open) -> bytes:
    headers = bytearray(found.first)
    payload = b"".join(found.parts[offset] for offset in sorted(found.parts))
    length = len(headers) + len(payload)
    if length > (65_535 if version == 4 else 65_535 + V6_HEADER):
        raise DecodeError("a packet is longer than any may be once it is put together")
    if version == 4:
        _LENGTH.pack_into(headers, 2, length)
        _LENGTH.pack_into(headers, 6, 0)
        put(headers, 10, 0)
        put(headers, 10, ~add_up(headers) & 0xFFFF)
    else:
        _LENGTH.pack_into(headers, 4, length - V6_HEADER)
    return bytes(headers) + payload
