"""How busy a router is, as it tells its neighbours, and what a way through it costs for that (docs/protocol/link.md,
F-17). Pure.

PING tells of the event loop that answers it only; a worker for bulk that is at its end delays none.
"""

from overlay import limits

STEPS = (0.6, 0.8, 0.95)
"""Shares of a core, of the busiest process, from which on the load is 1, 2, 3."""
CALMER = 0.15
"""So far below its step a load has to fall before it counts as less, so that circuits are not sent to and fro."""
SMOOTH_SECONDS = 5.0
"""Over about so long the share is averaged."""
COSTS = (0, 10_000, 40_000, 160_000)
"""What a way through the router costs besides, in µs: 10 ms is two steps of C-66."""


class Busy:
    """The share of a core that one process uses, from the CPU seconds that it has used so far."""

    def __init__(self) -> None:
        self._before: tuple[float, float] | None = None
        self.share = 0.0

    def look(self, now: float, cpu: float) -> float:
        """The smoothed share; call it every second or so. `now` is seconds of any clock."""
        before, self._before = self._before, (now, cpu)
        if before is None or now <= before[0]:
            return self.share
        elapsed = now - before[0]
        used = min(1.0, max(0.0, (cpu - before[1]) / elapsed))
        self.share += (used - self.share) * min(1.0, elapsed / SMOOTH_SECONDS)
        return self.share


class Level:
    """The load that is told: a step, which a share has to leave clearly."""

    def __init__(self) -> None:
        self.now = 0

    def look(self, share: float) -> bool:
        """Whether it has changed."""
        before = self.now
        while self.now < limits.LOAD_MOST and share >= STEPS[self.now]:
            self.now += 1
        while self.now and share < STEPS[self.now - 1] - CALMER:
            self.now -= 1
        return self.now != before
