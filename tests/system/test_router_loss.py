"""Routers that stop, die or freeze under traffic: no byte is lost or repeated, no program's connection is closed."""

import re

import pytest

from deploy.demo.plant import Plant, until
from tests.support.seen import live
from tests.support.steady import Bulk, Polls
from tests.support.traffic import reachable

PLANT = {"routers": 2}

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module", autouse=True)
def _allowed(plant: Plant, port: int) -> None:
    plant.ferrule("allow", "hmi-a", "plc-b", "echo")
    until(lambda: reachable(port), 10, "an allowed connection")


def used(plant: Plant) -> set[str]:
    """Routers that carry something now."""
    return {name for session in live(plant) for name in session["path"] if "router" in name}


def used_first(plant: Plant) -> tuple[str, str]:
    """The router that carries the polls, which began first, and the other one."""
    until(lambda: len(live(plant)) == 2, 10, "both sessions, and no others")
    name = str(live(plant)[0]["path"][1])
    return name, next(one for one in plant.router_names if one != name)


def stopped(plant: Plant, name: str) -> tuple[list[int], list[int]]:
    """SIGTERM; the circuits of programs that each process of the router counted when it began to leave, and when it had
    waited for them, its links still up."""
    before = len(plant.log(name))
    assert plant.terminate(name) == 0
    said = plant.log(name)[before:]
    leaving, left = (
        [int(one) for one in re.findall(rf"\brouter\.{word}\b.*?\bcircuits\W+(\d+)", said)]
        for word in ("leaving", "left")
    )
    assert len(leaving) == len(left) >= 1
    return leaving, left


def test_a_router_that_is_stopped_sends_its_circuits_away_first(plant: Plant, port: int):
    """L-36: before it exits none of them is there any more, by its own count."""
    with Polls(port) as polls, Bulk(port) as bulk:
        polls.more()
        bulk.more()
        name, other = used_first(plant)
        leaving, left = stopped(plant, name)
        assert sum(leaving) >= 1
        assert sum(left) == 0
        polls.more()
        bulk.more()
        until(lambda: used(plant) == {other}, 10, f"all paths over {other}")
        plant.start_again(name)


def test_a_router_that_is_drained_carries_nothing_and_can_be_removed(plant: Plant, port: int):
    """L-37: with one command, and with no program noticing."""
    plant.connected()
    with Polls(port) as polls, Bulk(port) as bulk:
        polls.more()
        bulk.more()
        name, other = used_first(plant)
        assert plant.json("drain", "router", name)["draining"] is True
        until(lambda: used(plant) == {other}, 15, f"all to leave {name}")
        with Polls(port) as new:
            new.more()
            until(lambda: len(live(plant)) == 3, 10, "the new session")
            assert used(plant) == {other}
            assert sum(stopped(plant, name)[0]) == 0, (
                "by its own count, too, before it was told to stop"
            )
            plant.start_again(name)
        plant.connected()
        assert plant.json("drain", "router", name, "--undo")["draining"] is False
        plant.ferrule("drain", "router", name)
        plant.ferrule("rm", "router", name)
        until(lambda: plant.routers_of("edge-a") == [other], 15, f"{name} to be left")
        polls.more()
        bulk.more()
