"""Pure: what one direction of a wire does to packets. Times are seconds of one clock, sizes are bytes, rates bit/s.

A packet meets, in this order: the cut, loss, the line (a token bucket before a queue that drops what does not fit, as
a modem's), and the way (delay, jitter, reordering). What is drawn comes from the `Random` that is handed in, so the
same seed and the same arrivals give the same departures.
"""

from heapq import heappop, heappush
from random import Random
from typing import NamedTuple

MOST_WAITING = 32_768
"""Packets that are on the way at the same time; one more is dropped, and counted."""


class Impairment(NamedTuple):
    """How bad one direction is; as it stands it is perfect.

    delay: one way.
    jitter: each packet takes up to so much longer, evenly spread; nobody overtakes because of it.
    loss: share of the packets that are lost, each by itself.
    reorder: share of the packets that take `reorder_by` longer, and are overtaken meanwhile.
    rate: of the line, in bits of packets; 0: no limit.
    burst: bytes that leave at once when the line was idle.
    queue: bytes that may wait for the line.
    cut: nothing arrives, not even what is on its way.
    """

    delay: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    reorder: float = 0.0
    reorder_by: float = 0.005
    rate: float = 0.0
    burst: int = 3_000
    queue: int = 128 * 1024
    cut: bool = False

    def wrong(self) -> str:
        """What makes no sense, in a sentence; empty when all is well."""
        for name in ("delay", "jitter", "reorder_by", "rate"):
            if not 0 <= getattr(self, name) < float("inf"):
                return f"{name} has to be 0 or more"
        for name in ("loss", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                return f"{name} is a share between 0 and 1"
        if self.burst < 1 or self.queue < 1:
            return "burst and queue have to hold a packet"
        return ""


class Counts(NamedTuple):
    """What became of the packets of one direction, and the bytes that arrived."""

    delivered: int = 0
    lost: int = 0
    overflowed: int = 0
    cut: int = 0
    overtaken: int = 0
    bytes: int = 0


class Direction:
    """One direction of a wire. `impairment` may be replaced at any time."""

    def __init__(self, impairment: Impairment, random: Random) -> None:
        self.impairment = impairment
        self._random = random
        self._way: list[tuple[float, int, bytes]] = []
        self._number = 0
        self._free = 0.0
        """When the line will have sent all that it has taken."""
        self._last = 0.0
        """When the latest packet arrives that is not overtaken."""
        self._counts = dict.fromkeys(Counts._fields, 0)

    @property
    def counts(self) -> Counts:
        """What has become of the packets so far."""
        return Counts(**self._counts)

    def arrive(self, packet: bytes, now: float) -> None:
        """A packet has come in."""
        how = self.impairment
        if how.cut:
            self._counts["cut"] += 1
            return
        if how.loss and self._random.random() < how.loss:
            self._counts["lost"] += 1
            return
        leaves = self._line(len(packet), now) if how.rate else now
        if leaves is None or len(self._way) >= MOST_WAITING:
            self._counts["overflowed"] += 1
            return
        there = leaves + how.delay
        if how.jitter:
            there += self._random.random() * how.jitter
        there = max(there, self._last)
        if how.reorder and self._random.random() < how.reorder:
            self._counts["overtaken"] += 1
            there += how.reorder_by
        else:
            self._last = there
        self._number += 1
        heappush(self._way, (there, self._number, packet))

    def _line(self, size: int, now: float) -> float | None:
        """When a packet has left the line; None: its queue is full.

        A token bucket without tokens: `_free` runs ahead of the clock by what waits, behind it by at most a burst.
        """
        how = self.impairment
        free = max(self._free, now - how.burst * 8 / how.rate)
        if (free - now) * how.rate / 8 + size > how.queue:
            return None
        self._free = free + size * 8 / how.rate
        return max(now, self._free)

    def due(self, now: float) -> list[bytes]:
        """Take the packets that have arrived by now, in the order in which they do."""
        way = self._way
        found = []
        while way and way[0][0] <= now:
            found.append(heappop(way)[2])
        if self.impairment.cut:
            self._counts["cut"] += len(found)
            return []
        self._counts["delivered"] += len(found)
        self._counts["bytes"] += sum(map(len, found))
        return found

    def next(self) -> float | None:
        """When the next packet arrives, None: none is on its way."""
        return self._way[0][0] if self._way else None

    def change(self, impairment: Impairment, now: float) -> None:
        """It is as bad as this from now on. What is on its way keeps its time, but no later packet waits for it when
        the delay has become shorter; a cut loses it.
        """
        if impairment.cut:
            self._counts["cut"] += len(self._way)
            self._way.clear()
        self.impairment = impairment
        self._last = now
        self._free = min(self._free, now)
