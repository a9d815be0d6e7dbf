"""How large a DATA frame may be, so that a slow line is never blocked for long by one of them (C-36). Pure.

The sender learns the path's rate from acknowledgements: what was acknowledged between a frame's departure and its own
acknowledgement, by the time in between. A frame is at most what passes in `BLOCKS_FOR`. A circuit begins with small
frames; one that has little to say proves nothing about the path and changes nothing.
"""

from overlay import limits

BLOCKS_FOR = 0.05
"""Seconds for which one frame may occupy the path."""
FIRST_FRAME = 16 * 1024
SMALLEST_FRAME = 4 * 1024
_GROWTH = 4


class Pace:
    """The size of one direction's frames. `frame` is plaintext bytes; times are seconds of one clock."""

    __slots__ = ("_acknowledged", "_mark", "_sent_at", "_until", "frame")

    def __init__(self) -> None:
        self.frame = FIRST_FRAME
        self._acknowledged = 0
        self._mark: int | None = None
        self._sent_at = 0.0
        self._until = 0

    def sent(self, sequence: int, now: float) -> None:
        """The frame with this number left. Only one at a time is followed."""
        if self._mark is None:
            self._mark = sequence
            self._sent_at = now
            self._until = self._acknowledged

    def acknowledged(self, ack: int, count: int, now: float) -> None:
        """All frames below `ack` have arrived, `count` bytes more than before."""
        self._acknowledged += count
        if self._mark is None or ack <= self._mark:
            return
        self._mark = None
        passed = self._acknowledged - self._until
        elapsed = now - self._sent_at
        if elapsed <= 0:
            return
        wanted = int(passed / elapsed * BLOCKS_FOR)
        if wanted > self.frame:
            self.frame = min(wanted, _GROWTH * self.frame, limits.MAX_DATA)
        elif passed >= self.frame:
            self.frame = max(wanted, SMALLEST_FRAME)

    def other_path(self) -> None:
        """What was on its way says nothing about the path from now on."""
        self._mark = None
