"""Routers that stop, die or freeze under traffic: no byte is lost or repeated, no program's connection is closed."""

import pytest

from deploy.demo.plant import Plant, until
from tests.support.seen import live
from tests.support.steady import Bulk, Polls

PLANT = {"routers": 2}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", autouse=True)
def _allowed(plant: Plant, port: int) -> None:
    plant.ferrule("allow", "hmi-a", "plc-b", "echo")


def used(plant: Plant) -> set[str]:
    """Routers that carry something now."""
    return {name for session in live(plant) for name in session["path"] if "router" in name}


def test_a_router_that_is_stopped_sends_its_circuits_away_first(plant: Plant, port: int):
    """L-36."""
    plant.connected()
    with Polls(port) as polls, Bulk(port) as bulk:
        for name in plant.router_names:
            polls.more()
            bulk.more()
            polls.forget()
            assert plant.terminate(name) == 0
            polls.more()
            bulk.more()
            assert name not in used(plant)
            plant.start_again(name)
            plant.connected()


def test_a_router_that_is_drained_carries_nothing_and_can_be_removed(plant: Plant, port: int):
    """L-37: with one command, and with no program noticing."""
    plant.connected()
    with Polls(port) as polls, Bulk(port) as bulk:
        polls.more()
        bulk.more()
        for name in plant.router_names:
            other = next(one for one in plant.router_names if one != name)
            assert plant.json("drain", "router", name)["draining"] is True
            until(lambda: used(plant) == {other}, 15, f"all to leave {name}")  # noqa: B023
            polls.more()
            bulk.more()
            with Polls(port) as new:
                new.more()
                until(lambda: used(plant) == {other}, 15, f"{name} to stay empty")  # noqa: B023
            assert plant.json("drain", "router", name, "--undo")["draining"] is False
        plant.ferrule("drain", "router", "router-1")
        until(lambda: used(plant) == {"router-2"}, 15, "all to leave router-1")
        plant.ferrule("rm", "router", "router-1")
        until(lambda: plant.routers_of("edge-a") == ["router-2"], 15, "router-1 to be left")
        polls.more()
        bulk.more()
