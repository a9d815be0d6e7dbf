"""Whether the other side of a link still answers: keepalive and suspicion (docs/protocol/link.md, L-31, L-35). Pure.

A link is *suspect* when a PING of this side stays without any answer for some round trips, long before it counts as
dead: circuits may then go on over another link, and whoever was wrong has sent a few frames twice.
"""

import math
from enum import Enum

from overlay import limits

PROBE_AFTER = 0.1
"""An eager side whose circuits have said something sends PING when nothing was heard for so long since, or for 1.5
round trips."""
QUIET_AFTER = 0.25
"""The same where much came lately and the other side had the last word."""
ACTIVE_FOR = 3.0
"""So long after the last traffic of circuits silence is worth a question."""
ACTIVE_BYTES = 8192
"""More than PING, PONG and what nodes tell each other take between two looks: traffic of circuits. Where less came the
other side may well have nothing to say."""
SUSPECT_AFTER = 0.2
"""A PING is unanswered after 4 round trips, and never before this."""
SUSPECT_BULK_AFTER = 0.6
"""The same on a bulk lane, whose event loops are busy, and whose circuits nobody waits for every 20 ms."""
SUSPECT_AT_MOST = 1.5
"""Likewise, however slow the link and however often the suspicion was wrong."""
MUCH_AHEAD = 8192
"""Bytes before a PING that have not arrived yet: for more a slow way may need longer than patience lasts."""
AHEAD_LOOK = 0.05
"""Between two looks at how far they have come."""
SECOND_LOOK = 0.02
"""Before it suspects anybody: this program itself may have been held up, and the answer be there already."""
DOUBT_PAUSE = 1.0
"""Between two PINGs only because something changed at this host (L-39)."""
FORGIVE_AFTER = 10.0
"""Every wrong suspicion doubles the patience with a link; so long without one halves it again."""

_NEVER = float("-inf")
_GRAIN = 1e-5
"""PING names its time in whole µs."""


class Verdict(Enum):
    """What a look at the time says."""

    PING = "say PING"
    SUSPECT = "the other side does not answer"
    DEAD = "the link is dead"
    LOST = "the other side does not answer any more, since the way to it became another"


class Liveness:
    """Times are seconds of one clock. `leads`: this side sees to it that the link is never silent, the other side waits
    a second longer; `eager`: look early, since another link may be used instead; `least`: no PING is unanswered before.

    A slow way is not a silent peer: while what was said before a PING still arrives, nobody waits for its answer.
    """

    __slots__ = (
        "_acknowledged", "_active", "_ahead", "_back", "_bytes", "_doubted", "_first", "_forgiven", "_last_look",
        "_leads", "_least", "_looked_twice", "_lost", "_patience", "_pinged", "_probe", "_said", "_varies", "_waits",
        "asked", "eager", "heard", "moved", "round_trip", "said", "suspect",
    )  # fmt: skip

    def __init__(
        self, now: float, *, leads: bool = True, eager: bool = False, least: float = SUSPECT_AFTER
    ) -> None:
        self._leads = leads
        self._least = least
        self.eager = eager
        self.heard = now
        """When anything came in last."""
        self.said = now
        """When anything left last."""
        self.asked = _NEVER
        """When a circuit said something last; what answers PING, or is news, wants no answer."""
        self.suspect = False
        self.round_trip: float | None = None
        """Smoothed (RFC 6298); None before the first PONG."""
        self.moved = now
        """When the other side's kernel was last seen to have acknowledged more."""
        self._acknowledged = self._said = 0
        self._ahead = 0
        """What this side had said before its PING, where much of it was still on the way; else 0."""
        self._waits = _NEVER
        """Since when nothing but the PING is on the way, as far as is known."""
        self._varies = 0.0
        self._pinged = now
        self._probe: float | None = None
        self._looked_twice = False
        self._lost: float | None = None
        self._last_look = False
        self._doubted = _NEVER
        self._patience = 1.0
        self._forgiven = now
        self._active = _NEVER
        self._back = _NEVER
        self._first = _NEVER
        self._bytes = 0

    @property
    def timeout(self) -> float:
        """Seconds after which a PING is unanswered."""
        trip = self.round_trip or 0.0
        least = max(self._least, 4 * trip, trip + 4 * self._varies)
        return min(SUSPECT_AT_MOST, least * self._patience)

    @property
    def _wait(self) -> float:
        """Seconds in which what a circuit said should be answered."""
        return max(PROBE_AFTER, 1.5 * (self.round_trip or 0.0))

    def answered(self, elapsed: float) -> None:
        """PONG came, so many seconds after its PING. One that was said before a suspicion ended tells how long the
        other side was silent, and nothing of round trips."""
        said = self.heard - elapsed
        if self._lost is not None and said >= self._lost - _GRAIN:
            self._lost = None
        if self._probe is not None and said >= self._probe - _GRAIN:
            # By the clock alone it would stay unanswered where a round trip is shorter than the clock's grain.
            self._probe, self._looked_twice = None, False
        if said < self._back:
            return
        trip = self.round_trip
        if trip is None or elapsed < trip / 2:
            # So short is the way; what was measured before was a router that had just begun, or a queue.
            self.round_trip, self._varies = elapsed, elapsed / 2
        else:
            self._varies += (abs(elapsed - trip) - self._varies) / 4
            self.round_trip = trip + (elapsed - trip) / 8

    def recover(self) -> bool:
        """Something came in from a suspect: the suspicion was wrong, or, where no patience would have been enough, is
        over."""
        was, self.suspect = self.suspect, False
        if was:
            self._back = self.heard
            if self._probe is None or self.heard - self._probe < SUSPECT_AT_MOST:
                self._patience = min(8.0, 2 * self._patience)
            self._forgiven = self.heard
        return was

    def doubt(self, now: float, *, lost: bool) -> bool:
        """Something changed at this host (L-39); whether PING is to be said now. `lost`: the way to the other side is
        another one, and without a PONG this link is over."""
        asked = self._probe is not None and self.heard <= self._probe
        if lost and self._lost is None:
            self._lost, self._last_look = now, False
        elif asked or now - self._doubted < DOUBT_PAUSE:
            return False
        self._doubted = self._pinged = now
        if not asked:
            self._probe, self._looked_twice, self._ahead = now, False, 0
        return True

    def ask(self, now: float) -> float:
        """A circuit says something, the first after a look. When to look whether more was said and not answered."""
        if self.asked <= self.heard:
            self._first = now
        self.asked = now
        return now + self._wait

    def moving(self, now: float, total: int) -> None:
        """So many bytes have passed both ways since the beginning; at each look."""
        if total - self._bytes > ACTIVE_BYTES:
            self._active = now
        self._bytes = total

    def carried(self, now: float, said: int, acknowledged: int) -> None:
        """Bytes since the beginning that this side has said, and that the other side's kernel has; before each look."""
        if acknowledged > self._acknowledged:
            self.moved = now
            if self._arriving:
                self._waits = now
        self._said, self._acknowledged = said, acknowledged

    @property
    def _arriving(self) -> bool:
        """Something that was said before the PING has not come to the other side yet."""
        return self._acknowledged < self._ahead

    def look(self, now: float, *, busy: bool) -> Verdict | None:
        """Call it at `deadline`. `busy`: circuits are open on the link."""
        if now - max(self.heard, self._waits) >= limits.DEAD_AFTER:
            return Verdict.DEAD
        if self._lost is not None and now >= self._lost + self._last_wait:
            if self._last_look:
                return Verdict.LOST
            self._last_look = True
            return None
        if self._patience > 1 and now - self._forgiven >= FORGIVE_AFTER:
            self._patience, self._forgiven = self._patience / 2, now
        probe = self._probe
        if probe is not None and self.heard > probe:
            probe = self._probe = None
            self._looked_twice = False
        if probe is not None and not self.suspect and self.eager:
            if now - max(probe, self._waits) < self.timeout:
                self._looked_twice = False
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
                much = self._said - self._acknowledged > MUCH_AHEAD
                self._ahead = self._said if much else 0
            return Verdict.PING
        return None

    def deadline(self, now: float, *, busy: bool) -> float:
        """When to look next."""
        due = self._due(busy=busy)
        probe = self._probe
        if probe is not None and self.heard <= probe and self.eager and not self.suspect:
            due = min(due, max(max(probe, self._waits) + self.timeout, now + SECOND_LOOK))
        if probe is not None and self._arriving:
            due = min(due, now + AHEAD_LOOK)
        if self._lost is not None:
            last = self._lost + self._last_wait
            due = min(due, now + SECOND_LOOK if self._last_look else last)
        return min(due, max(self.heard, self._waits) + limits.DEAD_AFTER)

    @property
    def _last_wait(self) -> float:
        """Seconds for the PONG on which everything depends; other bytes may have been on their way before."""
        assert self._lost is not None  # noqa: S101 - who asks has looked
        return SUSPECT_AT_MOST if self.heard > self._lost else self.timeout

    def _due(self, *, busy: bool) -> float:
        """When PING is to be said next. Keepalive comes at whole seconds, with all else that a program does then."""
        later = limits.PING_INTERVAL if self._leads else 2 * limits.PING_INTERVAL
        due: float = math.floor(max(min(self.heard, self.said), self._pinged) + later)
        if not self.eager or not busy:
            return due
        if self.suspect:  # is it back?
            return min(due, self._pinged + QUIET_AFTER)
        if self._probe is not None and self.heard <= self._probe:
            return due
        if self.asked > self.heard:
            return min(due, max(self.heard, self._pinged, self._first) + self._wait)
        if self.heard - self._active < ACTIVE_FOR:
            due = min(due, max(self.heard, self._pinged) + QUIET_AFTER)
        if self.asked > self._pinged:
            # Next to traffic, too, or only a side that is slow just then would ever be measured.
            due = min(due, math.floor(self._pinged + limits.PING_INTERVAL))
        return due
