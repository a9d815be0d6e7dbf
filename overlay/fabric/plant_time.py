"""Plant time: the controller's time carried forward by a clock that nobody sets. Pure.

docs/protocol/control.md, A-20 to A-22. All times are microseconds since 1970; `boot` is CLOCK_BOOTTIME in seconds,
`wall` the machine's own clock.
"""

from overlay import limits
from overlay.wire.timestamps import SECOND

CLOCK_TOLERANCE = 300 * SECOND
"""A wall clock that is further away from plant time is an event (A-22)."""


class PlantTime:
    """What time it is for grants and kills; with `floor`, the part of it that survives on disk.

    The floor rises from what a controller said (a timely answer, an authority, the start of the own leaf) and goes on
    with CLOCK_BOOTTIME, never with the wall clock: a rewound clock revives nothing and keeps nothing alive, and one in
    the far future locks nothing once it is put right.
    """

    def __init__(self, floor: int = 0) -> None:
        self.floor = floor
        self._answer: tuple[int, float] | None = None
        self._carried: float | None = None
        """Up to when the floor was carried on; None: not looked at since the program started."""

    @property
    def answered(self) -> bool:
        """A controller has told the time since this program started."""
        return self._answer is not None

    def now(self, boot: float, wall: int) -> int:
        """The last answer carried forward, before the first the wall clock; never below the floor (A-20)."""
        if self._answer is None:
            self._carry(boot)
            return max(self.floor, wall)
        time, asked = self._answer
        self.floor = max(self.floor, time + _micros(boot - asked))
        return self.floor

    def answer(self, time: int, asked: float, boot: float) -> bool:
        """A controller answered `time` to what was asked at `asked`; False: too long ago to count (A-20)."""
        if not 0 <= boot - asked < limits.FRESH_FOR:
            return False
        self._answer = (time, asked)
        self.floor = max(self.floor, time + _micros(boot - asked))
        return True

    def learn(self, time: int, boot: float) -> None:
        """A time that a controller signed: plant time is not before it."""
        if self._answer is None:
            self._carry(boot)
        self.floor = max(self.floor, time)

    def _carry(self, boot: float) -> None:
        """The floor was true when it was last looked at, so by now it is later: grants end also without an answer."""
        if self.floor and self._carried is not None:
            self.floor += _micros(boot - self._carried)
        self._carried = boot

    def wall_is_off(self, boot: float, wall: int) -> bool:
        """The wall clock differs from plant time by more than five minutes; unknown before the first answer (A-22)."""
        return self.answered and abs(wall - self.now(boot, wall)) > CLOCK_TOLERANCE


class Freshness:
    """Whether the authority is fresh (K-03), and since when. `boot` is CLOCK_BOOTTIME in seconds."""

    def __init__(self) -> None:
        self._asked: float | None = None
        self._since = 0.0

    def answered(self, asked: float, boot: float) -> None:
        """A controller echoed the nonce of what was asked at `asked`."""
        if not 0 <= boot - asked < limits.FRESH_FOR:
            return
        if not self._lasts(boot):
            self._since = boot
        self._asked = asked if self._asked is None else max(self._asked, asked)

    def fresh(self, boot: float) -> bool:
        """The answer's 15 s are not over."""
        return self._lasts(boot)

    def refresh_binds(self, boot: float) -> bool:
        """Fresh for longer than the grace of 30 s, in which `hold_until` still counts (G-02)."""
        return self._lasts(boot) and boot - self._since >= limits.STALE_GRACE

    def _lasts(self, boot: float) -> bool:
        return self._asked is not None and 0 <= boot - self._asked < limits.FRESH_FOR


def _micros(seconds: float) -> int:
    return max(0, int(seconds * SECOND))
