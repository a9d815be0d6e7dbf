"""What a scenario is."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from bench.candidates.base import Candidate
from bench.load import Generator, Watched

YARDSTICKS = frozenset({"kernel", "relay"})
REFERENCES = YARDSTICKS | {"python"}
OURS = frozenset({"ferrule"})
VARIANTS = frozenset({"ferrule strict", "ferrule full", "ferrule tls"})
INTERCEPTS = frozenset({"ferrule tun", "ferrule tproxy", "ferrule redirect"})
FABRIC = frozenset({"ferrule ranks"})
FAR = frozenset({"ferrule far"})
PEERS = frozenset(
    {"stunnel", "stunnel each hop", "nebula", "wireguard-go", "openvpn", "frp", "openziti"}
)
EVERYBODY = REFERENCES | OURS | VARIANTS | INTERCEPTS | PEERS


class Measured(NamedTuple):
    """What one measurement found.

    `ranks`: percentile and microseconds, where there are latencies; `samples`: of faults, milliseconds each, from which
    the figures are made (`Scenario.pooled`).
    """

    figures: dict[str, float]
    watched: Watched | None = None
    ranks: dict[str, float] | None = None
    samples: tuple[float, ...] = ()


class Scenario(NamedTuple):
    """One thing that is measured, the same for every candidate.

    `measure(generator, candidate, seconds)` raises `BenchError` when it fails. `factor` multiplies the run's seconds,
    `extra` is how many seconds it takes besides (for the estimate). `once`: in the first round only. `pooled`: it is
    measured by faults; each round has its share of the run's, given to `measure` instead of seconds, and this makes one
    measurement of the samples of all rounds. `factor` is then the seconds that a fault takes.
    """

    name: str
    title: str
    measure: Callable[[Generator, Candidate, float], Measured]
    who: frozenset[str] = EVERYBODY
    factor: float = 1.0
    extra: float = 0.0
    once: bool = False
    pooled: Callable[[Sequence[float]], Measured] | None = None
    suits: Callable[[Candidate], bool] = lambda candidate: True
