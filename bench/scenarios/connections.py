"""Connect, one poll, close: how long one takes, and how many go in a second."""

from functools import partial

from bench.candidates.base import Candidate
from bench.load import Generator, Load
from bench.scenarios.polls import latencies
from bench.scenarios.scenario import EVERYBODY, VARIANTS, Measured, Scenario

AT_ONCE = 50


def connect(
    generator: Generator, candidate: Candidate, seconds: float, *, at_once: int
) -> Measured:
    """So many clients at once, each of which connects, polls once, closes, and begins again."""
    (times,), watched = generator.run(
        candidate, [Load("connect", (str(at_once),), candidate.address)], seconds
    )
    figures = latencies(times) | {
        "per_s": times["count"] / times["seconds"],
        "failed": float(times["failed"]),
    }
    return Measured(figures, watched, times["ranks"])


SCENARIOS = (
    Scenario(
        "connect-1",
        "connect and first answer, one after the other",
        partial(connect, at_once=1),
        EVERYBODY,
    ),
    Scenario(
        "connect-50",
        "connect, one poll, close, 50 at a time",
        partial(connect, at_once=AT_ONCE),
        EVERYBODY - VARIANTS,
    ),
)
