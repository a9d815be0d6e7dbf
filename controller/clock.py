"""The controller's clock, from which all plant time comes. It never goes back, whatever the machine's clock does."""

from overlay.aio.world import Clock
from overlay.wire.timestamps import SECOND

WRONG_BY = 300 * SECOND
"""A wall clock that is this far behind plant time is said to be wrong (A-22)."""


class PlantClock:
    """Plant time in microseconds.

    Follows the wall clock while that goes forward. When it is set back, plant time goes on at half speed (by
    CLOCK_BOOTTIME) until the wall clock has caught up, so that nothing ended comes to life and nothing stands still.
    `floor` is the largest plant time that the store knows.
    """

    def __init__(self, clock: Clock, floor: int = 0) -> None:
        self._clock = clock
        self._last = max(floor, 0)
        self._boot = clock.boot()

    def now(self) -> int:
        """The time, never less than the last answer."""
        wall, boot = self._clock.wall(), self._clock.boot()
        if wall >= self._last:
            self._last = wall
        else:
            self._last += int((boot - self._boot) * SECOND / 2)
        self._boot = boot
        return self._last

    def behind(self) -> int:
        """By how many microseconds the machine's wall clock is behind plant time; 0 when it is not."""
        return max(0, self.now() - self._clock.wall())
