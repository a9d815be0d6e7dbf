"""Does an asset answer? Judged over several checks, so that one lost packet moves nobody (K-11). Pure."""

from enum import StrEnum
from typing import NamedTuple

FALL = 3
"""Checks in a row that must fail until an asset counts as down."""
RISE = 2
"""Checks in a row that must succeed until one that is down counts as up again."""


class State(StrEnum):
    """What is known of a service; `UNKNOWN` counts as up."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"


class Health:
    """One service of one asset, seen from one edge. It is not down before it has failed `FALL` times."""

    def __init__(self) -> None:
        self.state = State.UNKNOWN
        self.since = 0
        """Plant time in microseconds; 0: never checked."""
        self.reason = ""
        """How the last check failed; empty when it did not."""
        self.checks = 0
        self.failures = 0
        self._run = 0

    def seen(self, failure: str, now: int) -> bool:
        """A check is over; `failure` is empty when the asset answered. Whether that changed what it counts as.

        The first answer of all is news only for `state`: nobody was told anything else before.
        """
        failed = bool(failure)
        self.checks += 1
        self.failures += failed
        self._run = self._run + 1 if failed == bool(self.reason) else 1
        self.reason = failure
        if self.state is State.UNKNOWN and not failed:
            self.state, self.since = State.UP, now
            return False
        if failed and self.state is not State.DOWN and self._run >= FALL:
            self.state, self.since = State.DOWN, now
            return True
        if not failed and self.state is State.DOWN and self._run >= RISE:
            self.state, self.since = State.UP, now
            return True
        return False

    @property
    def in_doubt(self) -> bool:
        """The last checks say something else than what it counts as: the next one should come soon."""
        return bool(self.reason) is not (self.state is State.DOWN)


class Change(NamedTuple):
    """A service went down, or came up again."""

    asset: str
    service: str
    address: str
    up: bool
    reason: str
