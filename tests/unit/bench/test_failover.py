"""What is made of the stalls that were seen."""

import pathlib
from typing import cast

import pytest

from bench.candidates.fabric import Ranks
from bench.errors import BenchError
from bench.impairment.plant import NetworkPlant
from bench.load import Generator
from bench.options import PROFILES, Plan
from bench.progress import Progress
from bench.run import Run
from bench.scenarios import failover
from bench.scenarios.failover import SCENARIOS, Path, measured
from bench.scenarios.scenario import Measured


class Torn:
    """A plant in which a link is gone for good."""

    def missing(self) -> list[str]:
        return ["a-r1"]


class StandIn(Ranks):
    """Nothing runs behind it."""

    name = "stand-in"

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__(folder)
        self.plant = cast("NetworkPlant", Torn())


def test_percentiles_are_of_faults_that_happened():
    found = measured(range(1, 51)).figures
    assert found == {"stall_p50_ms": 25, "stall_p99_ms": 50, "stall_max_ms": 50, "faults": 50}


def test_a_single_fault_is_its_own_percentile():
    assert set(measured([20.0]).figures.values()) == {20.0, 1.0}


def plan_of(faults: int, rounds: int, output: pathlib.Path) -> Plan:
    return Plan("long", rounds, 5.0, 1.0, faults, ("ferrule ranks",), SCENARIOS, output)


@pytest.mark.parametrize(("faults", "rounds"), [(1, 1), (1, 5), (20, 5), (50, 10), (7, 3)])
def test_the_rounds_share_the_faults_of_a_place(faults: int, rounds: int, tmp_path: pathlib.Path):
    plan = plan_of(faults, rounds, tmp_path)
    shares = [plan.amount(SCENARIOS[0], number) for number in range(1, rounds + 1)]
    assert sum(shares) == faults
    assert max(shares) - min(shares) <= 1


def test_fifty_faults_in_each_place_take_forty_minutes_at_most(tmp_path: pathlib.Path):
    assert PROFILES["long"].faults == 50
    assert plan_of(50, 10, tmp_path).estimate(["ferrule ranks"]) < 40 * 60


def test_the_faults_of_all_rounds_make_one_measurement(tmp_path: pathlib.Path):
    given = []

    def strike(generator: object, candidate: object, faults: float) -> Measured:
        given.append(faults)
        return measured([float(len(given) * 10 + number) for number in range(round(faults))])

    one = SCENARIOS[0]._replace(measure=strike, who=frozenset({"stand-in"}))
    run = Run(plan_of(7, 3, tmp_path)._replace(scenarios=(one,)), Progress())
    run.rounds([StandIn(tmp_path)], Generator(tmp_path, 0.0))
    assert given == [2, 2, 3]
    (found,) = run.result.measurements
    assert found.samples == [10, 11, 20, 21, 30, 31, 32]
    assert found.figures["faults"] == 7
    assert found.figures["stall_p99_ms"] == 32


def test_a_link_that_does_not_come_back_ends_the_wait_and_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
):
    monkeypatch.setattr(failover, "BACK", 0.05)
    with pytest.raises(BenchError, match="not back: a-r1"):
        failover.whole(StandIn(tmp_path))


def test_what_is_cut_lies_on_the_path():
    path = Path(("r1", "r4", "r6"))
    assert [path.cable(n) for n in range(3)] == [("a", "r1"), ("r1", "r4"), ("b", "r6")]
