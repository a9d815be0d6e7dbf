"""Routers that stop, die or freeze under traffic: no byte is lost or repeated, no program's connection is closed."""

import pytest

from deploy.demo.plant import Plant
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
