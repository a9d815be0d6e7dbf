"""The controller dies (SIGKILL): circuits run, open and are cut on site; afterwards each event arrives exactly once."""

import pytest

from deploy.demo.plant import Plant, until
from tests.support.records import assert_whole, attempts, export, on_disk, tally
from tests.support.seen import idle, live
from tests.support.traffic import AT_ONCE, Caller, Echo, assert_refused_at_once, reachable

pytestmark = pytest.mark.timeout(300)

DENIED, OPENED = 7, 12


def test_the_plant_goes_on_without_its_controller_and_loses_no_event(
    plant: Plant, port: int, echo: Echo
):
    other = plant.offer(echo.port, protocol="never")
    plant.ferrule("allow", "hmi-a", "plc-b", "echo", "--for", "2h")
    until(lambda: reachable(port), 5, "an allowed connection")
    idle(plant)
    allowed = tally(attempts(plant, "plc-b.echo", "allowed"))
    denied = tally(attempts(plant, "plc-b.never", "denied"))
    with Caller(port) as running:
        running.echo()
        plant.kill("controller")
        assert running.works(), "a running circuit"
        for _ in range(OPENED):
            assert reachable(port), "a new circuit"
        for _ in range(DENIED):
            assert_refused_at_once(other)

        # An edge that restarts lives from what it kept on disk; events reach it in groups, within 50 ms.
        until(lambda: on_disk(plant, "edge-a", "plc-b.never", "denied") >= DENIED, 2, "the spool")
        plant.kill("edge-a")
        running.closed_within(AT_ONCE)
    plant.start_again("edge-a")
    until(lambda: reachable(port), 15, "a connection through a restarted edge")

    # The switch on site needs nobody, and holds over a restart.
    with Caller(port) as running:
        running.echo()
        plant.run("ferrule-edge", "kill", "--dir", plant.path("edge-b"), "--reason", "smoke")
        running.closed_within(AT_ONCE)
    assert_refused_at_once(port)
    plant.kill("edge-b")
    plant.start_again("edge-b")
    until(lambda: plant.routers_of("edge-b"), 10, "edge-b to dial again")
    assert plant.local("edge-b")["kill"]["reason"] == "smoke"
    assert_refused_at_once(port)
    plant.run("ferrule-edge", "restore", "--dir", plant.path("edge-b"))
    until(lambda: reachable(port), 10, "a connection after the restore on site")

    plant.start_again("controller")
    plant.connected()
    until(
        lambda: tally(attempts(plant, "plc-b.never", "denied")) >= denied + DENIED, 20, "the events"
    )
    assert tally(attempts(plant, "plc-b.never", "denied")) == denied + DENIED
    # The hosting edge records these, and it may be back a moment after the one that records the others.
    arrived = allowed + OPENED + 3
    until(lambda: tally(attempts(plant, "plc-b.echo", "allowed")) >= arrived, 20, "edge-b's events")
    until(lambda: not live(plant), 10, "every session of the old boot to be ended")
    assert tally(attempts(plant, "plc-b.echo", "allowed")) >= arrived
    counts = assert_whole(export(plant))
    assert set(counts) >= {"edge-a", "edge-b", "router-1"}
    assert plant.json("audit", "verify")["ok"]


def test_a_second_death_in_the_middle_of_many_attempts_loses_and_repeats_nothing(
    plant: Plant, port: int
):
    before = tally(attempts(plant, "plc-b.echo", "allowed"))
    for attempt in range(30):
        if attempt == 10:
            plant.kill("controller")
        if attempt == 20:
            plant.start_again("controller")
        assert reachable(port)
    plant.connected()
    until(lambda: tally(attempts(plant, "plc-b.echo", "allowed")) >= before + 30, 20, "30 records")
    assert tally(attempts(plant, "plc-b.echo", "allowed")) == before + 30
    assert_whole(export(plant, "second.jsonl"))


def test_the_controller_keeps_logins_and_policy_over_its_death(plant: Plant, port: int):
    conduits = plant.json("ls", "conduit")
    plant.kill("controller")
    plant.start_again("controller")
    plant.ferrule_when_up("status")
    assert plant.json("ls", "conduit") == conduits
    assert reachable(port)
