"""Routers that are killed or frozen under traffic, at either end of a path of two: nothing is lost, repeated or closed."""

import signal
import time
from collections.abc import Iterator

import pytest

from deploy.demo.plant import until
from tests.support.seen import live
from tests.support.steady import Bulk, Polls
from tests.support.traffic import Echo
from tests.support.wide_plant import NEAR, WidePlant

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def plant(request: pytest.FixtureRequest) -> Iterator[WidePlant]:
    with WidePlant() as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def _allowed(plant: WidePlant, port: int) -> None:
    plant.ferrule("allow", "hmi-a", "plc-b", "echo")


def router_of(plant: WidePlant, edge: str) -> str:
    """The router of this side that carries the sessions now."""
    found: set[str] = set()

    def one() -> bool:
        found.clear()
        found.update(n for session in live(plant) for n in session["path"] if n in NEAR[edge])
        return len(found) == 1

    until(one, 10, f"one router of {edge} that carries all")
    return found.pop()


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
        polls.forget()
        if fault is signal.SIGKILL:
            plant.kill(name)
        else:
            plant.signal(name, fault)
        try:
            polls.more(20)
            bulk.more()
            print(name, fault, polls.longest)
            assert name not in {n for session in live(plant) for n in session["path"]}
        finally:
            if fault is signal.SIGKILL:
                plant.start_again(name)
            else:
                time.sleep(4)  # its links are dead at the others by then
                plant.signal(name, signal.SIGCONT)
        polls.more()
        bulk.more()
        assert echo.connections == before + 2
