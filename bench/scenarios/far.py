"""Bulk over a long way, against plain TCP on the same one."""

from bench.candidates.base import Candidate
from bench.candidates.fabric import Far
from bench.load import Generator
from bench.scenarios.scenario import FAR, Measured, Scenario

WARM_UP = 4.0
"""Seconds in which both find out what the path carries."""
LEAST = 3.0
"""Seconds of measuring, however short the run's are: thirty round trips."""


def bulk(generator: Generator, candidate: Candidate, seconds: float) -> Measured:
    """One stream of plain TCP through the kernel of the router's namespace, then one through Ferrule."""
    del generator  # which lives in other namespaces
    assert isinstance(candidate, Far)
    server, net = candidate.server, candidate.net
    here = net.name("a")
    direct = (net.addresses["b"], server.bulk_port)
    plain = server.rate(here, direct, WARM_UP, max(LEAST, seconds))
    ours = server.rate(here, candidate.bulk_address, WARM_UP, max(LEAST, seconds))
    return Measured(
        {"far_mbit_per_s": ours / 1e6, "plain_mbit_per_s": plain / 1e6, "of_plain": ours / plain}
    )


SCENARIOS = (
    Scenario(
        "bulk-far",
        "one stream over a round trip of 100 ms, client to server",
        bulk,
        FAR,
        factor=2.0,
        extra=2 * WARM_UP,
    ),
)
