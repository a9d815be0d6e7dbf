"""Whether a circuit belongs in a bulk lane (docs/protocol/circuit.md, C-65). Pure.

A poll must not wait behind bulk, and bulk must not be moved to and fro: a circuit that moves much is noticed soon, and
goes back only when it has been quiet for a while.
"""

BULK_BYTES = 1024 * 1024
BULK_SECONDS = 0.5
"""More than so much in both directions within this time (17 Mbit/s) is bulk; a video of 200 Mbit/s moves 12 times
as much."""
EXPRESS_BYTES = 256 * 1024
EXPRESS_SECONDS = 5
"""Less than so much in each of so many seconds (2 Mbit/s) is none any more."""
LANE_PAUSE = 30.0
"""Seconds for which a lane that refused or was lost is not asked again."""


class LaneChoice:
    """One circuit's. `moved` is always the sum of bytes of both directions, times are seconds of one clock.

    Args:
        bulk: where it is.
    """

    __slots__ = ("_mark", "_quiet", "_since", "bulk")

    def __init__(self, now: float, moved: int, *, bulk: bool = False) -> None:
        self.start(now, moved, bulk=bulk)

    def start(self, now: float, moved: int, *, bulk: bool) -> None:
        """It is in this lane from now on."""
        self.bulk = bulk
        self._quiet = 0
        self._since = now
        self._mark = moved

    def moves(self, now: float, moved: int) -> bool:
        """Whether it should change lanes now. Ask several times in each of the spans above."""
        elapsed, size = now - self._since, moved - self._mark
        if not self.bulk:
            if elapsed > BULK_SECONDS:
                self._since, self._mark = now, moved
                return False
            return size > BULK_BYTES
        if size >= EXPRESS_BYTES:
            self._since, self._mark, self._quiet = now, moved, 0
        elif elapsed >= 1.0:
            self._since, self._mark = now, moved
            self._quiet += 1
        return self._quiet >= EXPRESS_SECONDS


def lane_of(circuit_id: bytes, lanes: int) -> int:
    """The lane of a circuit at a router that has so many bulk lanes, one or more."""
    return 1 + circuit_id[0] % lanes
