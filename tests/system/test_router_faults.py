"""Routers that are killed or frozen under traffic, at either end of a path of two: nothing is lost, repeated or closed."""

import signal
from collections.abc import Iterator

import pytest

from deploy.demo.plant import until
from tests.support.seen import live
from tests.support.steady import Bulk, Polls
from tests.support.traffic import Echo, reachable
from tests.support.wide_plant import NEAR, WidePlant

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def plant(request: pytest.FixtureRequest) -> Iterator[WidePlant]:
    with WidePlant() as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def _allowed(plant: WidePlant, port: int) -> None:
    plant.ferrule("allow", "hmi-a", "plc-b", "echo")
    until(lambda: reachable(port), 10, "an allowed connection")


def router_of(plant: WidePlant, edge: str) -> str:
    """The router next to this edge that carries the polls, which began first."""
    until(lambda: len(live(plant)) == 2, 10, "both sessions, and no others")
    path = live(plant)[0]["path"]
    return str(path[1] if edge == path[0] else path[-2])


def carrying(plant: WidePlant) -> set[str]:
    """Everybody on the path of a session."""
    return {name for session in live(plant) for name in session["path"]}


@pytest.mark.parametrize("side", NEAR)
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "frozen"])
def test_polls_and_bulk_go_on_over_other_routers(
    plant: WidePlant, port: int, echo: Echo, side: str, fault: signal.Signals
):
    plant.connected()
    before = echo.connections
    with Polls(port) as polls, Bulk(port) as bulk:
        polls.more()
        bulk.more()
        name = router_of(plant, side)
        if fault is signal.SIGKILL:
            plant.kill(name)
        else:
            plant.signal(name, fault)
        try:
            polls.more(20)
            bulk.more()
            until(lambda: name not in carrying(plant), 10, f"all paths without {name}")
        finally:
            if fault is signal.SIGKILL:
                plant.start_again(name)
            else:
                plant.signal(name, signal.SIGCONT)
        polls.more()
        bulk.more()
        assert echo.connections == before + 2
        session = live(plant)[0]
        found = plant.json("trace", session["id"])
        assert [hop["node"] for hop in found["hops"]] + ["edge-b"] == found["path"]
        assert len(found["hops"]) >= 3
        until(lambda: measured(plant, session["id"]), 15, "all hops to be measured now")
        assert plant.local("edge-a")["circuits"]["resumes"] > 0
        counted = plant.metrics("edge-a")
        assert counted["ferrule_edge_resumed_total"] > 0
        assert counted["ferrule_edge_stalled_seconds_total"] > 0
        assert counted['ferrule_edge_circuits{side="calling"}'] >= 2
        assert counted["ferrule_edge_denied_total"] == plant.local("edge-a")["circuits"]["denied"]
        if side == "edge-b":
            until(lambda: any(one["moves"] for one in live(plant)), 5, "the moves to be listed")


def measured(plant: WidePlant, session: str) -> bool:
    found = plant.json("trace", session)
    if any(hop["age"] != 0 for hop in found["hops"]):
        return False
    every = [hop["round_trip_ms"] for hop in found["hops"]]
    assert found["round_trip_ms"] == pytest.approx(sum(every), abs=0.01)
    return True
