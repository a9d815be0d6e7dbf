"""Which of a node's links a circuit takes (docs/protocol/circuit.md, C-66). Pure.

All of them lead to the host, so it is the router that is chosen: not one that has just led to nothing, then the nearer
one, as far as round trips and what waits tell them apart for certain.
"""

NEAR = 0.005
"""Below so many seconds one way links are equally near; each doubling is a step further, as jitter seldom is."""
DRAINS = 12_500_000.0
"""Bytes a second (100 Mbit/s) at which what waits on a link is thought to leave."""
FAILED_SECONDS = 30.0
"""So long a failure counts against a link; one that is dead is found dead much sooner."""
FAILED_KEPT = 64
"""Services of which refusals are remembered for each link; the oldest are forgotten first."""

NEVER = float("-inf")


def steps_away(round_trip: float | None, waiting: int, besides: float = 0.0) -> int:
    """How far a link's router is, in steps of `NEAR`.

    Args:
        round_trip: seconds; None: not measured yet, which counts as near.
        waiting: bytes that are queued on the link.
        besides: seconds that its router's load counts as (F-17).
    """
    seconds = (round_trip or 0.0) / 2 + waiting / DRAINS + besides
    return int(seconds / NEAR).bit_length()


class Failures:
    """What a link has led to: a refusal in clear speaks of the service that was asked for, silence of all of them.

    Whoever refuses may lie, so the next attempt for that service begins with another router (C-17).
    """

    __slots__ = ("_refused", "_silent")

    def __init__(self) -> None:
        self._silent = NEVER
        self._refused: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._refused)

    def silent(self, now: float) -> None:
        """Nothing came back in time."""
        self._silent = now

    def refused(self, service: str, now: float) -> None:
        """The answer was a refusal in clear."""
        self._refused.pop(service, None)
        if len(self._refused) >= FAILED_KEPT:
            del self._refused[next(iter(self._refused))]
        self._refused[service] = now

    def last(self, service: str, now: float) -> float:
        """When it last failed such a circuit, on the clock of `now`; `NEVER`: not within `FAILED_SECONDS`."""
        last = max(self._silent, self._refused.get(service, self._silent))
        return last if now - last < FAILED_SECONDS else NEVER
