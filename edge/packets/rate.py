"""How often one source gets an answer (RFC 1812 §4.3.2.8): a bucket for each, and one for all. Pure.

`now` is a monotonic time in seconds.
"""

from collections import OrderedDict
from collections.abc import Hashable

PER_SECOND, BURST = 50.0, 100.0
"""Answers to one source."""
ALL_PER_SECOND, ALL_BURST = 2000.0, 4000.0
"""Answers to all of them."""
SOURCES = 4096
"""Sources that are remembered; the one that was quiet longest is forgotten."""


class Bucket:
    """`tokens` at the time `at`."""

    __slots__ = ("at", "tokens")

    def __init__(self, tokens: float, at: float) -> None:
        self.tokens = tokens
        self.at = at

    def take(self, per_second: float, burst: float, now: float) -> bool:
        """Whether one more may be now."""
        self.tokens = min(burst, self.tokens + (now - self.at) * per_second)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class RateLimit:
    """Of one kind of answer. `withheld` counts what was not sent."""

    def __init__(self, per_second: float = PER_SECOND, burst: float = BURST) -> None:
        self.withheld = 0
        self._rate = (per_second, burst)
        self._all = Bucket(ALL_BURST, 0.0)
        self._sources: OrderedDict[Hashable, Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sources)

    def allows(self, source: Hashable, now: float) -> bool:
        """Whether one more answer to `source` may go now."""
        bucket = self._sources.get(source)
        if bucket is None:
            if len(self._sources) >= SOURCES:
                self._sources.popitem(last=False)
            bucket = self._sources[source] = Bucket(self._rate[1], now)
        else:
            self._sources.move_to_end(source)
        if bucket.take(*self._rate, now) and self._all.take(ALL_PER_SECOND, ALL_BURST, now):
            return True
        self.withheld += 1
        return False
