"""What a caller may spend before and after the API knows who it is. Pure: the caller hands in the time.

Buckets refill steadily and hold a burst. A table of them is bounded: the key that was quiet longest goes first,
and a key that went is as good as one never seen, so an attacker with many addresses gains only fresh buckets.
"""

from collections import OrderedDict
from dataclasses import dataclass

CONNECTIONS = 512
CONNECTIONS_PER_SOURCE = 64
CONNECTIONS_RESERVED = 128
"""Of all connections, for addresses from which somebody has logged in before."""
WELCOME = 1024
"""Addresses that are remembered because somebody has logged in from there."""
TLS_SECONDS = 5.0
REQUEST_SECONDS = 15.0
"""For the head of a request to be complete, and for an idle connection."""
BODY_SECONDS = 10.0
ANSWER_SECONDS = 30.0
LINGER_SECONDS = 1.0
MAX_HEAD_LINE = 8190
MAX_HEADERS = 64
MAX_BODY_BEFORE_LOGIN = 4096
STREAMS = 64
STREAMS_PER_LOGIN = 8
STREAM_STALL_SECONDS = 30.0
"""A reader of a stream that takes nothing for this long is let go."""
MAX_WAIT_SECONDS = 30.0
BUCKETS = 4096


@dataclass(frozen=True)
class Rate:
    """`burst` at once, then `per_second`."""

    burst: float
    per_second: float


STRANGER = Rate(burst=60, per_second=5)
"""Requests of one address that end without a known login."""
LOGIN = Rate(burst=10, per_second=0.5)
"""Login attempts of one address; each costs an Argon2id hash."""
KNOWN = Rate(burst=400, per_second=200)
"""Requests of one login."""


class Buckets:
    """One bucket per key, at most `size` of them."""

    def __init__(self, rate: Rate, size: int = BUCKETS) -> None:
        self._rate = rate
        self._size = size
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._levels)

    def __contains__(self, key: str) -> bool:
        return key in self._levels

    def wait(self, key: str, now: float) -> float:
        """Seconds until `take` would succeed; 0 when it would now. Takes nothing."""
        level = self._level(key, now)
        return 0.0 if level >= 1 else (1 - level) / self._rate.per_second

    def take(self, key: str, now: float) -> float:
        """Take one and return 0, or take none and return the seconds to wait."""
        level = self._level(key, now)
        if level < 1:
            return (1 - level) / self._rate.per_second
        self._levels[key] = (level - 1, now)
        self._levels.move_to_end(key)
        if len(self._levels) > self._size:
            self._levels.popitem(last=False)
        return 0.0

    def _level(self, key: str, now: float) -> float:
        level, since = self._levels.get(key, (self._rate.burst, now))
        return min(self._rate.burst, level + max(0.0, now - since) * self._rate.per_second)
