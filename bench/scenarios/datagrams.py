"""Datagrams of 200 bytes: how many arrive, how many are lost, what they cost."""

from functools import partial

from bench.candidates.base import Candidate
from bench.errors import BenchError
from bench.load import Generator, Load
from bench.scenarios.scenario import EVERYBODY, Measured, Scenario

SIZE = 200
RATE = 10_000


def datagrams(generator: Generator, candidate: Candidate, seconds: float, *, rate: int) -> Measured:
    """One sender at a rate, 0: as fast as it goes; counted by the server."""
    assert candidate.datagram_address is not None
    (counts,), watched = generator.run(
        candidate, [Load("datagrams", (str(rate), str(SIZE)), candidate.datagram_address)], seconds
    )
    if not counts["sent"]:
        raise BenchError("no datagram could be sent")
    figures = {
        "datagrams_per_s": counts["received"] / counts["seconds"],
        "loss_percent": max(0.0, 1 - counts["received"] / counts["sent"]) * 100,
    }
    if watched.cpu:
        figures["cpu_percent"] = max(watched.cpu.values()) / seconds * 100
    return Measured(figures, watched)


def carries(candidate: Candidate) -> bool:
    """Whether datagrams get through."""
    return candidate.datagram_address is not None


SCENARIOS = (
    Scenario(
        "datagrams-10k",
        "10,000 datagrams of 200 bytes a second",
        partial(datagrams, rate=RATE),
        EVERYBODY,
        extra=0.4,
        suits=carries,
    ),
    Scenario(
        "datagrams-max",
        "datagrams of 200 bytes as fast as they go",
        partial(datagrams, rate=0),
        EVERYBODY,
        extra=0.4,
        suits=carries,
    ),
)
