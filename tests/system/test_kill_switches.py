"""Kill switches, revocation and the switch on site: what is killed is cut at once, refused, and back when restored."""

import time

import pytest

from deploy.demo.plant import Plant, listening, until
from deploy.demo.ports import free_port
from tests.support.records import search
from tests.support.seen import lone_session
from tests.support.traffic import AT_ONCE, Caller, Echo, assert_refused_at_once, reachable

pytestmark = pytest.mark.timeout(300)

PLANT = {"edges": ("edge-a", "edge-b", "edge-c", "edge-d")}
CUT_SECONDS = 1.0
"""From the end of the command, where nothing else keeps the machine busy."""


@pytest.fixture
def allowed(calm: Plant, port: int) -> int:
    """The listener's port, while hmi-a may reach plc-b.echo."""
    calm.ferrule("allow", "hmi-a", "plc-b", "echo")
    until(lambda: reachable(port), 5, "an allowed connection")
    return port


@pytest.mark.parametrize(
    "target",
    [
        ("identity", "hmi-a"),
        ("identity", "edge-a"),
        ("identity", "plc-b"),
        ("identity", "edge-b"),
        ("service", "plc-b.echo"),
        ("zone", "cell-9"),
        ("plant",),
    ],
    ids=" ".join,
)
def test_a_kill_cuts_and_refuses_and_its_restore_brings_back(
    calm: Plant, allowed: int, target: tuple[str, ...]
):
    if target == ("zone", "cell-9"):
        if not [zone for zone in calm.json("ls", "zone") if zone["name"] == "cell-9"]:
            calm.ferrule("add", "zone", "cell-9")
        calm.ferrule("set", "asset", "plc-b", "zone=cell-9")
        until(lambda: reachable(allowed), 5, "a connection into the zone")
    with Caller(allowed) as caller:
        caller.echo()
        kill = calm.json("kill", *target, "--reason", "drill", "--yes")
        caller.closed_within(AT_ONCE)
    assert_refused_at_once(allowed)
    (listed,) = calm.json("ls", "kill")
    assert listed == kill
    assert (listed["level"], listed["reason"], listed["by"]) == (target[0], "drill", "ada")
    assert listed["name"] == (target[1] if target[1:] else "")
    assert listed["until"] is None
    assert not calm.json("why", "hmi-a", "plc-b", "echo")["allowed"]
    assert all(node["state"] == "connected" for node in calm.json("status")["edges"])
    calm.ferrule("restore", *target, "--reason", "drill over")
    until(lambda: reachable(allowed), 5, "a connection after the restore")
    assert calm.json("ls", "kill") == []
    assert [each["event"] for each in search(calm, since="1m") if "kill." in each["event"]][
        -2:
    ] == [
        "kill.set",
        "kill.restore",
    ]
    if target == ("zone", "cell-9"):
        calm.ferrule("set", "asset", "plc-b", "zone=")


def test_a_killed_session_ends_and_a_new_one_opens(calm: Plant, allowed: int, echo: Echo):
    took, killed = [], []
    for _ in range(5):
        with lone_session(calm, allowed, echo) as (caller, session):
            calm.ferrule("kill", "session", session["id"], "--reason", "strange writes")
            took.append(caller.closed_within(AT_ONCE))
            killed.append(session["id"])
        assert reachable(allowed)
    assert min(took) < CUT_SECONDS

    def ended_as_killed() -> bool:
        """An end is listed once its edge has sent the event: soon, not at once."""
        history = {
            each["id"]: each["end_reason"] or "" for each in calm.json("sessions", "--history")
        }
        return all("strange writes" in history[each] for each in killed)

    until(ended_as_killed, 5, "the sessions listed as killed")


def test_kills_add_up_and_restoring_one_does_not_lift_the_other(calm: Plant, allowed: int):
    calm.ferrule("kill", "identity", "hmi-a", "--reason", "one")
    calm.ferrule("kill", "service", "plc-b.echo", "--reason", "two")
    until(lambda: not reachable(allowed), 5, "the kills")
    calm.ferrule("restore", "identity", "hmi-a")
    time.sleep(0.5)
    assert_refused_at_once(allowed)
    calm.ferrule("restore", "service", "plc-b.echo")
    until(lambda: reachable(allowed), 5, "a connection after the second restore")


def test_a_kill_for_some_time_ends_by_itself(calm: Plant, allowed: int):
    begun = time.monotonic()
    with Caller(allowed) as caller:
        caller.echo()
        kill = calm.json("kill", "identity", "hmi-a", "--reason", "lunch", "--for", "5s")
        caller.closed_within(AT_ONCE)
    assert kill["until"] > kill["since"]
    assert_refused_at_once(allowed)
    until(lambda: reachable(allowed), 8, "the end of the kill")
    assert time.monotonic() - begun > 4.5
    until(lambda: calm.json("ls", "kill") == [], 5, "the controller to list it no more")


def test_killing_the_plant_asks_back_and_without_a_terminal_does_nothing(calm: Plant, allowed: int):
    result = calm.call("ferrule", "kill", "plant", "--reason", "no hands")
    assert result.returncode == 2
    assert "--yes" in result.stderr
    assert calm.json("ls", "kill") == []
    assert reachable(allowed)


def test_the_switch_on_site_cuts_holds_over_a_restart_and_only_the_site_restores(
    calm: Plant, allowed: int
):
    edge = calm.path("edge-b")
    with Caller(allowed) as caller:
        caller.echo()
        calm.run("ferrule-edge", "kill", "--dir", edge, "--reason", "maintenance")
        caller.closed_within(AT_ONCE)
    assert_refused_at_once(allowed)
    assert calm.local("edge-b")["kill"]["reason"] == "maintenance"
    from_afar = calm.call("ferrule", "restore", "identity", "edge-b")
    assert from_afar.returncode == 1, "there is no kill of the controller's to lift"
    assert_refused_at_once(allowed)
    assert calm.terminate("edge-b") == 0
    calm.start_again("edge-b")
    calm.connected()
    assert_refused_at_once(allowed)
    assert calm.local("edge-b")["kill"]["reason"] == "maintenance"
    calm.run("ferrule-edge", "restore", "--dir", edge)
    assert calm.local("edge-b")["kill"] is None
    until(lambda: reachable(allowed), 5, "a connection after the restore on site")
    until(
        lambda: _local_events(calm) >= {"kill.local", "restore.local"},
        5,
        "the events of the switch",
    )


def test_the_callers_own_switch_closes_its_listeners_to_everybody(calm: Plant, allowed: int):
    calm.run("ferrule-edge", "kill", "--dir", calm.path("edge-a"), "--reason", "panel open")
    assert_refused_at_once(allowed)
    calm.run("ferrule-edge", "restore", "--dir", calm.path("edge-a"))
    until(lambda: reachable(allowed), 5, "a connection after the restore on site")


def test_a_switch_works_while_the_edge_is_not_running(calm: Plant, allowed: int):
    assert calm.terminate("edge-b") == 0
    calm.run("ferrule-edge", "kill", "--dir", calm.path("edge-b"), "--reason", "asleep")
    calm.start_again("edge-b")
    calm.connected()
    assert_refused_at_once(allowed)
    assert calm.terminate("edge-b") == 0
    calm.run("ferrule-edge", "restore", "--dir", calm.path("edge-b"))
    calm.start_again("edge-b")
    calm.connected()
    until(lambda: reachable(allowed), 5, "a connection after the restore on site")


def _local_events(plant: Plant) -> set[str]:
    return {each["event"] for each in search(plant, since="1m") if each["node"] == "edge-b"}


def _state(plant: Plant, name: str) -> str:
    state: str = next(
        node["state"] for node in plant.json("status")["edges"] if node["name"] == name
    )
    return state


def test_revoking_a_caller_online_cuts_it_for_ever(calm: Plant, echo: Echo):
    listen = calm.offer(echo.port, who="hmi-c", via="edge-c", protocol="echo")
    calm.ferrule("allow", "hmi-c", "plc-b", "echo")
    until(lambda: reachable(listen), 5, "an allowed connection of hmi-c")
    with Caller(listen) as caller:
        caller.echo()
        calm.ferrule("revoke", "edge", "edge-c", "--reason", "stolen")
        caller.closed_within(AT_ONCE)
    assert_refused_at_once(listen)
    assert _state(calm, "edge-c") == "revoked"
    until(lambda: not listening(listen), 5, "the listener of a revoked edge to close")
    assert "node.revoke" in {each["event"] for each in search(calm, since="1m")}
    if calm.programs["edge-c"].poll() is None:
        calm.terminate("edge-c")
    said = len(calm.log("edge-c"))
    calm.start_again("edge-c")
    until(lambda: "revoked" in calm.log("edge-c")[said:], 10, "edge-c to be told")
    assert "Traceback" not in calm.log("edge-c")
    assert_refused_at_once(listen)
    assert _state(calm, "edge-c") == "revoked"
    calm.connected()  # revoked ones aside
    if calm.programs["edge-c"].poll() is None:
        calm.terminate("edge-c")
    token = calm.path("edge-c.fresh")
    calm.ferrule("token", "edge", "edge-c", "--token-out", token)
    calm.start("edge-c", "ferrule-edge", "run", "--dir", calm.path("edge-c-new"), "--token", token)
    until(lambda: _state(calm, "edge-c") == "connected", 15, "the replaced machine")
    until(lambda: reachable(listen), 10, "its connection")


def test_an_edge_that_was_offline_when_it_was_revoked_is_refused_when_it_comes_back(
    calm: Plant, echo: Echo
):
    listen = calm.offer(echo.port, who="hmi-d", via="edge-d", protocol="echo")
    calm.ferrule("allow", "hmi-d", "plc-b", "echo")
    until(lambda: reachable(listen), 5, "an allowed connection of hmi-d")
    calm.kill("edge-d")
    calm.ferrule("revoke", "edge", "edge-d", "--reason", "lost on the way")
    connections = echo.connections
    calm.start_again("edge-d")

    def refused() -> bool:
        found = search(calm, since="1m")
        return any(each["event"] == "security.refused" and "edge-d" in str(each) for each in found)

    until(refused, 10, "the refusal of edge-d to be recorded")
    assert_refused_at_once(listen)
    assert _state(calm, "edge-d") == "revoked"
    assert echo.connections == connections


def test_revoking_the_hosting_edge_of_another_service_leaves_this_one_alone(
    calm: Plant, allowed: int
):
    token = calm.path("edge-e.token")
    calm.ferrule("add", "edge", "edge-e", "--token-out", token)
    calm.ferrule("add", "asset", "plc-e", "--edge", "edge-e", "--address", "127.0.0.1")
    calm.ferrule("add", "service", "plc-e", "echo", "--port", str(free_port()))
    with Caller(allowed) as caller:
        caller.echo()
        calm.ferrule("revoke", "edge", "edge-e", "--reason", "never used")
        time.sleep(1)
        assert caller.works()
    result = calm.call(
        "ferrule-edge", "run", "--dir", calm.path("edge-e"), "--token", token, timeout=120
    )
    assert result.returncode == 1, "the token of a revoked edge"
