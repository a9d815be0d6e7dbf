"""What a scenario is."""

from collections.abc import Callable
from typing import NamedTuple

from bench.candidates.base import Candidate
from bench.load import Generator, Watched

REFERENCES = frozenset({"kernel", "relay"})
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
    """What one measurement found; `ranks`: percentile and microseconds, where there are latencies."""

    figures: dict[str, float]
    watched: Watched | None = None
    ranks: dict[str, float] | None = None


class Scenario(NamedTuple):
    """One thing that is measured, the same for every candidate.

    `measure(generator, candidate, seconds)` raises `BenchError` when it fails. `factor` multiplies the run's seconds,
    `extra` is how many seconds it takes besides (for the estimate). `once`: in the first round only.
    """

    name: str
    title: str
    measure: Callable[[Generator, Candidate, float], Measured]
    who: frozenset[str] = EVERYBODY
    factor: float = 1.0
    extra: float = 0.0
    once: bool = False
    suits: Callable[[Candidate], bool] = lambda candidate: True
