"""Nodes, routers and the hub together: enrolment, control, publishing, events, renewal (E-01 to E-08, K-01 to K-08)."""

import asyncio
import contextlib
import itertools
from typing import Any

import pytest

from overlay import limits
from overlay.aio.link_driver import LinkDriver
from overlay.aio.shelf import unseal
from overlay.audit.event import EventName, Outcome
from overlay.control.messages import Assignments, ListenerEntry, Measure
from overlay.errors import ProtocolError
from overlay.fabric.authority import Authority, Kill
from overlay.identity.trust import Credentials, sign_body
from overlay.policy.grant import Grant
from overlay.wire.bodies import Publish
from router.fabric import Fabric
from tests.support.pki import DAY, SECOND
from tests.support.simulated_plant import DIR, TOKEN, Node, SimulatedPlant
from tests.support.simulation import Simulation

GRANT = Grant(
    id=b"g" * 16, conduit="7", caller_key=b"k" * 32, who="hmi-a", via="edge-a", service="plc-b.modbus",
    asset="plc-b", hosts=("edge-b",), transport=0, integrity=0, not_before=0, refresh_by=0,
    hold_until=0, end=0, max_session=0, who_zones=(), asset_zones=(), epoch=1,
)  # fmt: skip
KILL = Kill(b"k" * 16, "plant", "", "stop", 0, 0)


def simulate(story, seed: int = 0):
    sim = Simulation(seed)

    async def run():
        await story(SimulatedPlant(sim))

    sim.run(run())


async def small_plant(plant: SimulatedPlant, routers: int = 1) -> Node:
    """A controller, routers and one connected edge."""
    plant.start_controller()
    for number in range(1, routers + 1):
        plant.start_router(f"router-{number}")
    edge = plant.edge("edge-a")
    await plant.until(lambda: edge.connected and edge.agent.fresh())
    await plant.until(lambda: len(plant.actions.nodes["edge-a"].links) == routers)
    return edge


def test_a_router_and_an_edge_enrol_and_are_connected():
    async def story(plant):
        edge = await small_plant(plant)
        await plant.until(lambda: plant.actions.nodes["router-1"].connected == 1)
        assert plant.actions.nodes["edge-a"].links == ("router-1",)
        assert edge.hooks.maps[-1].routers[0].name == "router-1"
        assert edge.agent.name == "edge-a"
        assert not edge.over

    simulate(story)


def test_whoever_starts_first_waits_for_the_others():
    async def story(plant):
        plant.actions.add_router("router-1", "router-1:8441")
        edge = plant.edge("edge-a")
        await asyncio.sleep(100)
        assert not edge.over, "an unreachable router is no reason to end"
        plant.sim.host("router-1").world.disk.files[TOKEN] = plant.actions.make_token(
            "router-1"
        ).encode()
        plant.start_router("router-1")
        await asyncio.sleep(100)
        assert not edge.over
        assert not edge.agent.state.enrolled
        plant.start_controller()
        assert await plant.until(lambda: edge.connected) < 8

    simulate(story)


def test_a_router_that_the_controller_cannot_dial_enrols_through_another():
    async def story(plant):
        await small_plant(plant)
        plant.sim.net.cut("controller", "router-2")
        plant.start_router("router-2")
        await plant.until(lambda: plant.actions.nodes["router-2"].generation == 1)

    simulate(story)


@pytest.mark.parametrize("why", ["expired", "unknown", "taken"])
def test_a_refused_token_ends_the_program_with_the_reason(why):
    async def story(plant):
        await small_plant(plant)
        edge = plant.edge("edge-b")
        (row,) = [row for row in plant.actions.tokens.values() if row.name == "edge-b"]
        if why == "expired":
            row.expires = 0
        elif why == "unknown":
            plant.actions.tokens.clear()
        else:
            row.owner = b"x" * 32
        await plant.until(lambda: edge.over)
        assert "The controller refuses the token: the token is not valid" in str(edge.error)
        assert "`ferrule token edge edge-b --token-out FILE`" in str(edge.error)
        assert plant.actions.nodes["edge-b"].generation == 0

    simulate(story)


def test_a_machine_that_is_not_enrolled_needs_a_token():
    async def story(plant):
        edge = Node(plant.sim.host("edge-a"))
        edge.start(named=False)
        await plant.until(lambda: edge.over)
        assert "start it with --token FILE" in str(edge.error)
        edge.start("rubbish")
        await plant.until(lambda: edge.over)
        assert "holds no token that can be used" in str(edge.error)
        edge.start(plant.actions.add_router("router-1", "router-1:8441"))
        await plant.until(lambda: edge.over)
        assert "The token is for router router-1" in str(edge.error)
        del edge.host.world.disk.files[TOKEN]
        edge.start()
        await plant.until(lambda: edge.over)
        assert "There is no token file" in str(edge.error)

    simulate(story)


def test_an_enrolled_folder_ignores_the_token():
    async def story(plant):
        edge = await small_plant(plant)
        for token in ("rubbish", None):
            edge.host.crash()
            if token is None:
                del edge.host.world.disk.files[TOKEN]
            edge.start(token)
            await plant.until(lambda: edge.connected)
        edge.host.crash()
        edge.start(named=False)
        await plant.until(lambda: edge.connected)

    simulate(story)


@pytest.mark.parametrize("seed", range(10))
def test_an_interrupted_enrolment_repeats_with_the_same_key(seed):
    async def story(plant):
        await small_plant(plant)
        edge = plant.edge("edge-b")
        for _ in range(4):
            await asyncio.sleep(plant.sim.rng.random() * 0.12)
            edge.host.crash()
            edge.start()
        await plant.until(lambda: edge.connected)
        assert plant.actions.nodes["edge-b"].generation == 1
        (row,) = [row for row in plant.actions.tokens.values() if row.name == "edge-b"]
        assert row.owner == edge.agent.credentials().key.public
        assert not any("pending" in path.name for path in edge.host.world.disk.files)

    simulate(story, seed)


def test_a_folder_belongs_to_one_program_and_one_role():
    async def story(plant):
        edge = await small_plant(plant)
        other = type(edge)(edge.host)
        other.start()
        await plant.until(lambda: other.over)
        assert "is in use by another running program" in str(other.error)

    simulate(story)


@pytest.mark.parametrize(
    "name", ["identity.pem", "authority", "map", "grants", "time", "boot", "spool", "signers"]
)
def test_a_damaged_file_is_one_clear_sentence(name):
    async def story(plant):
        plant.actions.grants["edge-a"] = [GRANT]
        edge = await small_plant(plant)
        await asyncio.sleep(61)
        edge.stop.set()
        await plant.until(lambda: edge.over)
        edge.host.world.disk.files[DIR / name] = b"rubbish"
        edge.start()
        await plant.until(lambda: edge.over)
        assert str(edge.error).startswith(f"{DIR / name} is damaged: restore it from a backup")

    simulate(story)


def test_assignments_and_grants_come_change_and_go():
    async def story(plant):
        edge = await small_plant(plant)
        assert not edge.hooks.assignments[-1].listeners
        listener = ListenerEntry("plc-b.modbus", "127.0.0.1:5020", "hmi-a", 0)
        plant.actions.assignments["edge-a"] = Assignments(2, b"", (listener,), ())
        plant.actions.grants["edge-a"] = [GRANT]
        plant.actions.publish("policy")
        assert await plant.until(lambda: GRANT.id in edge.hooks.grants) < 0.2
        assert edge.hooks.assignments[-1].listeners == (listener,)
        plant.actions.grants["edge-a"] = []
        plant.actions.publish("policy")
        assert await plant.until(lambda: not edge.hooks.grants) < 0.2

    simulate(story)


def test_grants_are_refreshed_at_half_of_their_time_and_survive_a_restart_without_controller():
    async def story(plant):
        plant.actions.grants["edge-a"] = [GRANT]
        edge = await small_plant(plant)
        first = edge.hooks.grants[GRANT.id].refresh_by
        await asyncio.sleep(290)
        assert edge.hooks.grants[GRANT.id].refresh_by == first
        await asyncio.sleep(20)
        second = edge.hooks.grants[GRANT.id].refresh_by
        assert second - first >= 295 * SECOND
        plant.controller.crash()
        edge.host.crash()
        edge.start()
        await asyncio.sleep(5)
        assert edge.hooks.grants[GRANT.id].refresh_by == second
        assert edge.hooks.assignments
        assert not edge.connected

    simulate(story)


def test_a_kill_reaches_every_node_at_once_and_is_on_disk():
    async def story(plant):
        edge = await small_plant(plant)
        plant.actions.kill(KILL)
        assert await plant.until(lambda: edge.hooks.authorities[-1].kills == (KILL,)) < 0.2
        await asyncio.sleep(0.1)
        edge.host.crash()
        plant.controller.crash()
        plant.sim.host("router-1").crash()
        edge.start()
        await plant.until(lambda: bool(edge.hooks.authorities), 5)
        assert edge.hooks.authorities[-1].kills == (KILL,)

    simulate(story)


def test_a_router_that_withholds_kills_gains_seconds_at_most(monkeypatch):
    """K-08: the authority comes inside the control circuit, too."""
    monkeypatch.setattr(Fabric, "publish", lambda *_: None)

    async def story(plant):
        edge = await small_plant(plant)
        plant.actions.kill(KILL)
        await plant.until(lambda: edge.hooks.authorities[-1].kills == (KILL,), 5.5)

    simulate(story)


def test_without_the_controller_the_authority_goes_stale_and_comes_back_fresh():
    async def story(plant):
        edge = await small_plant(plant)
        assert edge.agent.fresh()
        assert not edge.agent.refresh_binds()
        await asyncio.sleep(40)
        assert edge.agent.refresh_binds()
        plant.controller.crash()
        assert 5 < await plant.until(lambda: not edge.agent.fresh()) < 16
        plant.start_controller()
        await plant.until(edge.agent.fresh, 20)
        assert edge.connected
        assert not edge.agent.refresh_binds(), "30 s of grace"

    simulate(story)


def test_a_controller_without_its_store_answers_no_freshness():
    async def story(plant):
        edge = await small_plant(plant)
        plant.actions.away = True
        await plant.until(lambda: not edge.agent.fresh(), 20)
        plant.actions.away = False
        await plant.until(edge.agent.fresh, 30)

    simulate(story)


def test_edges_dial_all_routers_and_are_back_at_once_when_one_returns():
    async def story(plant):
        edge = await small_plant(plant, routers=3)
        assert edge.agent.router_names() == ("router-1", "router-2", "router-3")
        plant.sim.host("router-2").crash()
        await plant.until(lambda: plant.actions.nodes["edge-a"].links == ("router-1", "router-3"))
        await asyncio.sleep(120)
        plant.start_router("router-2")
        assert await plant.until(lambda: len(edge.agent.router_names()) == 3) < 3
        assert await plant.until(lambda: len(plant.actions.nodes["edge-a"].links) == 3) < 0.5
        assert edge.connected

    simulate(story)


def test_a_router_that_left_the_plant_is_dialed_no_more():
    async def story(plant):
        edge = await small_plant(plant, routers=2)
        del plant.actions.nodes["router-2"]
        plant.actions.map_version += 1
        plant.actions.publish("map")
        await plant.until(lambda: edge.agent.router_names() == ("router-1",), 5)
        await asyncio.sleep(30)
        assert edge.agent.router_names() == ("router-1",)
        assert edge.agent.link_errors() == {}

    simulate(story)


def test_a_node_that_was_revoked_while_it_was_away_is_refused_when_it_comes_back():
    async def story(plant):
        edge = await small_plant(plant)
        edge.host.crash()
        plant.actions.revoke("edge-a")
        await asyncio.sleep(5)
        edge.start()
        await asyncio.sleep(30)
        assert not edge.connected
        assert not edge.agent.links
        assert "revoked" in edge.agent.link_errors()["router-1"]

    simulate(story)


def test_a_revoked_node_is_cut_at_once():
    async def story(plant):
        edge = await small_plant(plant)
        plant.actions.revoke("edge-a")
        assert await plant.until(lambda: not edge.agent.links) < 0.3
        assert not edge.connected
        await asyncio.sleep(10)
        assert plant.actions.nodes["edge-a"].connected == 0

    simulate(story)


def test_renewal_drops_neither_links_nor_the_control_circuit():
    async def story(plant):
        plant.actions.life = 600 * SECOND
        edge = await small_plant(plant)
        old, link = edge.agent.state.leaf, edge.agent.links[0]
        await asyncio.sleep(380)
        assert edge.agent.state.leaf == old
        await asyncio.sleep(40)
        new = edge.agent.state.leaf
        assert new.public != old.public, "a new key"
        assert new.generation == old.generation
        assert edge.agent.links == [link]
        assert edge.connected
        names = [event.event for event in plant.actions.events("edge-a")]
        assert names.count(EventName.NODE_RENEW) == 1
        assert EventName.LINK_DOWN not in names
        await asyncio.sleep(100)
        assert edge.agent.links != [link], "before the old certificate ends the link begins anew"
        assert edge.agent.links[0].peer is not None
        await plant.until(edge.agent.fresh)

    simulate(story)


def test_an_expired_certificate_may_renew_and_nothing_else():
    async def story(plant):
        plant.actions.life = 600 * SECOND
        edge = await small_plant(plant)
        old = edge.agent.state.leaf
        edge.host.crash()
        seen = len(plant.actions.nodes["edge-a"].boots)
        await asyncio.sleep(800)
        edge.start()
        await plant.until(lambda: edge.enrolled)
        await plant.until(lambda: edge.connected, 30)
        assert edge.agent.state.leaf.not_after > old.not_after
        assert len(plant.actions.nodes["edge-a"].boots) == seen + 1

    simulate(story)


def test_an_expired_certificate_of_a_revoked_node_does_not_renew():
    async def story(plant):
        plant.actions.life = 600 * SECOND
        edge = await small_plant(plant)
        old = edge.agent.state.leaf
        edge.host.crash()
        await asyncio.sleep(800)
        plant.actions.revoke("edge-a")
        edge.start()
        await asyncio.sleep(60)
        assert edge.agent.state.leaf == old
        assert not edge.connected

    simulate(story)


def test_an_expired_router_renews_and_the_plant_is_whole_again():
    async def story(plant):
        plant.actions.life = 600 * SECOND
        edge = await small_plant(plant)
        plant.sim.host("router-1").crash()
        await asyncio.sleep(200)
        edge.host.crash()
        await asyncio.sleep(600)
        plant.start_router("router-1")
        edge.start()
        await plant.until(lambda: edge.connected and edge.agent.fresh(), 60)

    simulate(story)


@pytest.mark.parametrize("seed", range(6))
def test_every_event_arrives_once_whoever_is_killed(seed):
    async def story(plant):
        edge = await small_plant(plant)
        durable: list[str] = []
        for step in range(25):
            alive = edge.connected
            for number in range(4):
                edge.record(f"{step}.{number}")
            await asyncio.sleep(plant.sim.rng.random())
            victim = plant.sim.rng.choice(["edge", "controller", "router", "none"])
            if victim == "edge":
                edge.host.crash()
                edge.start()
            elif victim == "controller":
                plant.controller.crash()
                plant.start_controller()
            elif victim == "router":
                plant.sim.host("router-1").crash()
                plant.start_router("router-1")
            else:
                await asyncio.sleep(1)
                durable += [f"{step}.{number}" for number in range(4)] if alive else []
        await plant.until(lambda: edge.connected)
        spool = edge.agent.recorder._spool
        assert spool is not None
        await plant.until(lambda: spool.acknowledged == spool.last, 90)
        plant.actions.check_log()
        found = [one.reason for one in plant.actions.events("edge-a")]
        recorded = [one for one in found if "." in one]
        assert len(recorded) == len(set(recorded))
        assert durable
        assert set(durable) <= set(recorded)

    simulate(story, seed)


@pytest.mark.parametrize(("pause", "most"), [(0.002, 25), (0.1, None)], ids=["many", "few"])
def test_many_events_travel_together_and_few_at_once(pause, most):
    async def story(plant):
        batches: list[int] = []
        record = plant.actions.record_events

        async def counted(leaf, first, events, chain=(), makes=0):
            batches.append(len(events))
            return await record(leaf, first, events, chain, makes)

        edge = await small_plant(plant)
        await asyncio.sleep(2)
        plant.actions.record_events = counted
        for number in range(40 if most is None else 1500):
            edge.agent.record(EventName.SECURITY_CLOCK, Outcome.FAILED, reason=f"number {number}")
            await asyncio.sleep(pause)
        await asyncio.sleep(2)
        if most is None:
            assert sum(batches) >= len(batches) >= 40
        else:
            assert sum(batches) >= 1500
            assert len(batches) <= most

    simulate(story)


def test_the_last_events_arrive_before_a_program_ends():
    async def story(plant):
        edge = await small_plant(plant)
        edge.stop.set()
        took = await plant.until(lambda: edge.over)
        assert took < 4
        assert edge.error is None
        assert plant.actions.events("edge-a")[-1].event is EventName.NODE_STOP

    simulate(story)


def test_a_program_ends_in_time_with_nobody_there():
    async def story(plant):
        edge = await small_plant(plant)
        plant.controller.crash()
        plant.sim.host("router-1").crash()
        await asyncio.sleep(60)
        edge.stop.set()
        assert await plant.until(lambda: edge.over) < 4

    simulate(story)


def test_a_wrong_clock_is_an_event_and_stops_nothing():
    async def story(plant):
        edge = await small_plant(plant)
        edge.host.world.clock.skew = -20 * 60 * SECOND
        await asyncio.sleep(10)
        assert edge.agent.fresh()
        assert abs(edge.agent.plant_now() - plant.actions.now()) < SECOND
        found = [
            one for one in plant.actions.events("edge-a") if one.event is EventName.SECURITY_CLOCK
        ]
        assert len(found) == 1
        assert "20 minutes" in found[0].reason

    simulate(story)


@pytest.mark.parametrize("skew", [-400 * DAY, 400 * DAY])
def test_a_node_whose_clock_is_wrong_by_a_year_comes_back(skew):
    async def story(plant):
        edge = await small_plant(plant)
        edge.stop.set()
        await plant.until(lambda: edge.over)
        edge.host.world.clock.skew = skew
        edge.start()
        await plant.until(lambda: edge.connected and edge.agent.fresh(), 20)
        assert abs(edge.agent.plant_now() - plant.actions.now()) < SECOND

    simulate(story)


def test_time_does_not_go_back_over_a_restart():
    async def story(plant):
        edge = await small_plant(plant)
        await asyncio.sleep(600)
        before = edge.agent.plant_now()
        edge.host.crash()
        plant.controller.crash()
        edge.host.world.clock.skew = -DAY
        edge.start()
        await plant.until(lambda: edge.enrolled)
        await asyncio.sleep(2)
        assert edge.agent.plant_now() >= before - 60 * SECOND

    simulate(story)


def test_a_full_disk_stops_new_circuits_only():
    async def story(plant):
        edge = await small_plant(plant)
        edge.host.world.disk.full = True
        edge.record("while full")
        await asyncio.sleep(30)
        assert edge.connected
        assert edge.agent.fresh()
        assert not edge.agent.room()
        plant.actions.kill(KILL)
        await plant.until(lambda: edge.hooks.authorities[-1].kills == (KILL,), 1)
        edge.host.world.disk.full = False
        await plant.until(edge.agent.room, 5)
        await plant.until(
            lambda: any(o.reason == "while full" for o in plant.actions.events("edge-a")), 5
        )
        await asyncio.sleep(3)
        assert unseal(object, edge.host.world.disk.files[DIR / "authority"])

    simulate(story)


def test_live_circuits_are_reported():
    async def story(plant):
        edge = await small_plant(plant)
        edge.hooks.circuits = [(b"c" * 16, 12, 34)]
        await plant.until(lambda: plant.actions.nodes["edge-a"].live == ((b"c" * 16, 12, 34),), 6)

    simulate(story)


def session_of(plant: SimulatedPlant, name: str) -> Any:
    assert plant.hub is not None
    return next(one for one in plant.hub._sessions if one.name == name)


def test_a_node_at_rest_says_twice_what_is_live_and_then_every_half_minute(monkeypatch):
    async def story(plant):
        edge = await small_plant(plant)
        told: list[tuple[float, int]] = []
        real = plant.actions.node_live

        async def node_live(leaf, circuits):
            if leaf.identity.name == "edge-a":
                told.append((asyncio.get_running_loop().time(), len(circuits)))
            await real(leaf, circuits)

        monkeypatch.setattr(plant.actions, "node_live", node_live)
        await asyncio.sleep(12)
        told.clear()
        await asyncio.sleep(300)
        assert 8 <= len(told) <= 10
        assert max(after[0] - one[0] for one, after in itertools.pairwise(told)) < 36
        edge.hooks.circuits = [(b"c" * 16, 1, 2)]
        told.clear()
        await asyncio.sleep(12)
        assert [count for _, count in told][:2] == [1, 1]
        edge.hooks.circuits = []
        told.clear()
        await asyncio.sleep(16)
        assert [count for _, count in told] == [0, 0], "it is missing twice within 11 s (K-06)"

    simulate(story)


def test_a_node_measures_its_links_when_the_controller_asks():
    """K-12."""

    async def story(plant):
        await small_plant(plant, routers=2)
        both = ["router-1", "router-2"]
        assert await plant.hub.measure("nobody", both) == {}
        found = await plant.hub.measure("edge-a", both)
        assert sorted(found) == both
        assert all(0 < took < 100_000 for took in found.values())
        await asyncio.sleep(2 * limits.MEASURE_PAUSE)
        assert await plant.hub.measure("edge-a", ["router-9"]) == {}, "no link to it"
        await asyncio.sleep(2 * limits.MEASURE_PAUSE)
        carrying = session_of(plant, "edge-a")._stream.path[1]
        (other,) = {*both} - {carrying}
        plant.sim.host(other).freeze()
        found = await plant.hub.measure("edge-a", both)
        assert list(found) == [carrying], "the other one does not answer"

    simulate(story)


def test_who_is_asked_to_measure_in_masses_measures_once_a_second(monkeypatch):
    """K-12."""

    async def story(plant):
        edge = await small_plant(plant)
        probes = []
        probe = LinkDriver.probe

        def counted(link: LinkDriver) -> int:
            probes.append(link)
            return probe(link)

        monkeypatch.setattr(LinkDriver, "probe", counted)
        session = session_of(plant, "edge-a")
        for number in range(100):
            await session._say(Measure(number, ("router-1",)))
        await asyncio.sleep(limits.MEASURE_PAUSE / 2)
        assert len(probes) == 1
        await asyncio.sleep(10 * limits.MEASURE_PAUSE)
        assert len(probes) <= 2, "one more may wait"
        assert edge.connected

    simulate(story)


def test_a_control_circuit_outlives_its_router():
    async def story(plant):
        edge = await small_plant(plant, routers=2)
        assert plant.actions.nodes["edge-a"].connected == 1
        boots = len(plant.actions.nodes["edge-a"].boots)
        plant.sim.host("router-1").crash()
        await asyncio.sleep(limits.RESUME_TIME)
        assert edge.agent.fresh()
        assert len(plant.actions.nodes["edge-a"].boots) == boots, "it was resumed, not dialed anew"

    simulate(story)


def test_a_grant_that_no_controller_signed_ends_the_circuit_and_never_the_node(monkeypatch):
    """K-07."""

    async def story(plant):
        edge = await small_plant(plant)
        forger = plant.actions.pki.edge("edge-a")
        bad = sign_body(GRANT, forger.key, forger.anchor)

        async def forged(*_: object) -> list[bytes]:
            return [bad]

        honest = plant.actions.sign_grants
        plant.actions.grants["edge-a"] = [GRANT]
        plant.actions.sign_grants = forged
        plant.actions.publish("policy")
        await plant.until(lambda: not edge.connected, 5)
        before = len(plant.actions.nodes["edge-a"].boots)
        await asyncio.sleep(60)
        assert not edge.over
        assert edge.hooks.grants == {}
        assert len(plant.actions.nodes["edge-a"].boots) - before < 60, "with growing pauses"
        plant.actions.sign_grants = honest
        await plant.until(lambda: edge.connected and edge.agent.fresh(), 10)
        assert set(edge.hooks.grants) == {GRANT.id}

    simulate(story)


class Neighbour:
    """As much of a link as `link_control` looks at."""

    def __init__(self, peer: Credentials | None) -> None:
        self.peer = None if peer is None else peer.leaf
        self.name = "" if self.peer is None else self.peer.identity.name


def neighbour(peer: Credentials | None) -> Any:
    """Typed as anything, since it stands for a `LinkDriver`."""
    return Neighbour(peer)


def test_what_others_publish_is_checked_before_it_counts():
    async def story(plant):
        edge = await small_plant(plant)
        pki, agent = plant.actions.pki, edge.agent
        router, controller = pki.router("router-1"), pki.controller()
        version = agent.state.authority.version

        def publish(by: Credentials, link: Any, number: int = 99) -> list[bytes]:
            body = Authority(number, plant.actions.now(), (KILL,), (), ())
            signed = sign_body(body, by.key, pki.anchor, by.chain)
            return agent.link_control(link, Publish(signed))

        for link in (neighbour(pki.edge("edge-b")), neighbour(None)):
            with pytest.raises(ProtocolError, match="only routers and controllers publish"):
                publish(controller, link)
        with pytest.raises(ProtocolError, match="cannot be read"):
            agent.link_control(neighbour(router), Publish(b"rubbish"))
        assert publish(router, neighbour(router)) == [], "a router signs no authority"
        assert agent.state.authority.version == version
        assert publish(controller, neighbour(router), version - 1) == [], "an old one is no news"
        assert agent.state.authority.kill_of(GRANT, agent.plant_now()) is None
        assert len(publish(controller, neighbour(router))) == 1
        assert publish(controller, neighbour(router), 98) == []
        assert agent.state.authority.kill_of(GRANT, agent.plant_now()) == KILL
        await asyncio.sleep(1)
        refused = [
            o for o in plant.actions.events("edge-a") if o.event is EventName.SECURITY_REFUSED
        ]
        assert [one.who for one in refused] == ["router-1"]

    simulate(story)


def test_an_authority_that_was_only_signed_anew_makes_nobody_judge_again():
    """A-02: one version, one content."""

    async def story(plant):
        edge = await small_plant(plant)
        pki, agent, hooks = plant.actions.pki, edge.agent, edge.hooks
        controller, link = pki.controller(), neighbour(pki.router("router-1"))
        changed, renewed = len(hooks.authorities), len(hooks.renewed)
        for version, later in ((99, 0), (99, 1_000_000), (100, 2_000_000)):
            body = Authority(version, plant.actions.now() + later, (KILL,), (), ())
            signed = sign_body(body, controller.key, pki.anchor, controller.chain)
            assert len(agent.link_control(link, Publish(signed))) == 1
        assert [one.version for one in hooks.authorities[changed:]] == [99, 100]
        assert len(hooks.renewed) == renewed + 1

    simulate(story)


def test_a_mutated_publication_raises_the_documented_error_only():
    async def story(plant):
        edge = await small_plant(plant)
        pki, agent = plant.actions.pki, edge.agent
        controller, link = pki.controller(), neighbour(pki.router("router-1"))
        body = Authority(99, plant.actions.now(), (KILL,), (), ())
        good = sign_body(body, controller.key, pki.anchor, controller.chain)
        for place in range(0, len(good), 7):
            bad = bytearray(good)
            bad[place] ^= 1 + place % 255
            with contextlib.suppress(ProtocolError):
                assert agent.link_control(link, Publish(bytes(bad))) == []
        assert agent.state.authority.version < 99

    simulate(story)
