"""All scenarios, in the order in which a round runs them."""

from bench.scenarios import bulk, connections, datagrams, decisions, failover, far, memory, polls
from bench.scenarios.scenario import Scenario

SCENARIOS: tuple[Scenario, ...] = (
    *memory.SCENARIOS,  # first: what the programs need before anything else has grown them
    *bulk.SCENARIOS,
    *polls.SCENARIOS,
    *connections.SCENARIOS,
    *datagrams.SCENARIOS,
    *decisions.SCENARIOS,
    *far.SCENARIOS,
    *failover.SCENARIOS,
)
BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
