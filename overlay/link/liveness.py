"""Whether the other side of a link still answers: keepalive and suspicion (docs/protocol/link.md, L-31, L-35). Pure.

A link is *suspect* when a PING of this side stays without any answer for some round trips, long before it counts as
dead: circuits may then go on over another link, and whoever was wrong has sent a few frames twice.
"""

from enum import Enum

from overlay import limits

PROBE_AFTER = 0.1
"""An eager side that has said something and heard nothing for so long sends PING, or for 1.5 round trips."""
QUIET_AFTER = 0.25
"""The same where much came lately and the other side had the last word."""
ACTIVE_FOR = 3.0
"""So long after the last traffic of circuits silence is worth a question."""
ACTIVE_BYTES = 512
"""More than PING and PONG take between two looks: traffic of circuits."""
SUSPECT_AFTER = 0.2
"""A PING is unanswered after 4 round trips, and never before this."""
SUSPECT_BULK_AFTER = 0.6
"""The same on a bulk lane, whose event loops are busy, and whose circuits nobody waits for every 20 ms."""
SUSPECT_AT_MOST = 1.5
"""Likewise, however slow the link and however often the suspicion was wrong."""
LOOK = 0.1
"""An eager side with circuits looks so often; without, at `QUIET_AFTER`, since one may begin any time."""
SECOND_LOOK = 0.02
"""Before it suspects anybody: this program itself may have been held up, and the answer be there already."""
FORGIVE_AFTER = 10.0
"""Every wrong suspicion doubles the patience with a link; so long without one halves it again."""


class Verdict(Enum):
    """What a look at the time says."""

    PING = "say PING"
    SUSPECT = "the other side does not answer"
    DEAD = "the link is dead"


class Liveness:
    """Times are seconds of one clock. `eager`: look early, since another link may be used instead; `least`: no PING is
    unanswered before."""

    __slots__ = (
        "_active", "_bytes", "_forgiven", "_least", "_looked_twice", "_patience", "_pinged", "_probe", "_varies",
        "eager", "heard", "round_trip", "said", "suspect",
    )  # fmt: skip

    def __init__(self, now: float, *, eager: bool = False, least: float = SUSPECT_AFTER) -> None:
        self._least = least
        self.eager = eager
        self.heard = now
        """When anything came in last."""
        self.said = now
        self.suspect = False
        self.round_trip: float | None = None
        """Smoothed (RFC 6298); None before the first PONG."""
        self._varies = 0.0
        self._pinged = now
        self._probe: float | None = None
        self._looked_twice = False
        self._patience = 1.0
        self._forgiven = now
        self._active = now
        self._bytes = 0

    @property
    def timeout(self) -> float:
        """Seconds after which a PING is unanswered."""
        trip = self.round_trip or 0.0
        least = max(self._least, 4 * trip, trip + 4 * self._varies)
        return min(SUSPECT_AT_MOST, least * self._patience)

    def answered(self, elapsed: float) -> None:
        """PONG came, so many seconds after its PING."""
        trip = self.round_trip
        if trip is None:
            self.round_trip, self._varies = elapsed, elapsed / 2
        else:
            self._varies += (abs(elapsed - trip) - self._varies) / 4
            self.round_trip = trip + (elapsed - trip) / 8

    def recover(self) -> bool:
        """Something came in from a suspect: the suspicion was wrong, or is over."""
        was, self.suspect = self.suspect, False
        if was:
            self._patience = min(8.0, 2 * self._patience)
            self._forgiven = self.heard
        return was

    def moving(self, now: float, total: int) -> None:
        """Eager: so many bytes have passed both ways since the beginning."""
        if total - self._bytes > ACTIVE_BYTES:
            self._active = now
        self._bytes = total

    def look(self, now: float, *, paused: bool, busy: bool) -> Verdict | None:
        """Call it at `deadline`. `paused`: this side does not read now; `busy`: circuits are open on the link."""
        if paused:
            self.heard = max(self.heard, now - limits.PING_INTERVAL)
        if now - self.heard >= limits.DEAD_AFTER:
            return Verdict.DEAD
        if self._patience > 1 and now - self._forgiven >= FORGIVE_AFTER:
            self._patience, self._forgiven = self._patience / 2, now
        probe = self._probe
        if probe is not None and (self.heard > probe or paused):
            probe = self._probe = None
            self._looked_twice = False
        if probe is not None and not self.suspect and self.eager:
            if now - probe < self.timeout:
                return None
            if not self._looked_twice:
                self._looked_twice = True
                return None
            self.suspect = True
            return Verdict.SUSPECT
        if now >= self._due(busy=busy):
            self._pinged = now
            if probe is None:
                self._probe = now
            return Verdict.PING
        return None

    def deadline(self, now: float, *, busy: bool) -> float:
        """When to look next."""
        due = self._due(busy=busy)
        if self._probe is not None and self.eager and not self.suspect:
            again = self._probe + self.timeout if not self._looked_twice else now + SECOND_LOOK
            due = min(due, max(again, now + SECOND_LOOK))
        if self.eager:
            due = min(due, now + (LOOK if busy else QUIET_AFTER))
        return min(due, self.heard + limits.DEAD_AFTER)

    def _due(self, *, busy: bool) -> float:
        """When PING is to be said next."""
        due = max(min(self.heard, self.said), self._pinged) + limits.PING_INTERVAL
        if not self.eager or not busy:
            return due
        if self.suspect:  # is it back?
            return min(due, self._pinged + QUIET_AFTER)
        if self._probe is not None and self.heard <= self._probe:
            return due
        if self.said > self.heard:
            wait = max(PROBE_AFTER, 1.5 * (self.round_trip or 0.0))
            due = min(due, max(self.heard, self._pinged) + wait)
        elif self.heard - self._active < ACTIVE_FOR:
            due = min(due, max(self.heard, self._pinged) + QUIET_AFTER)
        return due
