"""Plant time: the controller's time carried forward by a clock that nobody sets. Pure.

docs/protocol/control.md, A-20 to A-22. All times are microseconds since 1970; `boot` is CLOCK_BOOTTIME in seconds,
`wall` the machine's own clock.
"""

from overlay import limits

SECOND = 1_000_000
CLOCK_TOLERANCE = 300 * SECOND
"""A wall clock that is further away from plant time is an event (A-22)."""


class PlantTime:
    """What time it is for grants, certificates and kills. It never goes back.

    Two maxima survive on disk. `floor` comes from controllers' answers and always binds. `seen` is the largest time
    used while there was no answer; it binds until the next answer only, so that a wall clock that was wrong by years
    and was then put right does not hold the node in the future, and a rewound one revives nothing.
    """

    def __init__(self, floor: int = 0, seen: int = 0) -> None:
        self.floor = floor
        self.seen = max(floor, seen)
        self._answer: tuple[int, float] | None = None
        self._start: tuple[int, float] | None = None

    @property
    def answered(self) -> bool:
        """A controller has told the time since this program started."""
        return self._answer is not None

    def now(self, boot: float, wall: int) -> int:
        """Plant time, microseconds."""
        if self._answer is not None:
            time, asked = self._answer
            self.floor = max(self.floor, time + _micros(boot - asked))
            return self.floor
        if self._start is None:
            self._start = (max(wall, self.seen), boot)
        start, since = self._start
        self.seen = max(self.seen, wall, start + _micros(boot - since))
        return self.seen

    def answer(self, time: int, asked: float, boot: float) -> bool:
        """A controller answered `time` to what was asked at `asked`; False: too long ago to count (K-03)."""
        if not 0 <= boot - asked < limits.FRESH_FOR:
            return False
        self._answer = (time, asked)
        self.floor = max(self.floor, time + _micros(boot - asked))
        self.seen = self.floor
        return True

    def learn(self, time: int) -> None:
        """A time that a controller signed (an authority, a certificate's start): plant time is not before it."""
        self.floor = max(self.floor, time)
        self.seen = max(self.seen, time)

    def wall_is_off(self, boot: float, wall: int) -> bool:
        """The wall clock differs from plant time by more than five minutes; unknown before the first answer."""
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
