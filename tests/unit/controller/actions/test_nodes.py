"""What the hub gets: authority, map, assignments, status; and who is told of changes."""

import asyncio
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from controller import signing
from controller.actions import nodes
from controller.actions import requests as r
from controller.actions.core import RecordLimiter
from controller.actions.presence import Presence
from controller.store.snapshot import load_plant
from overlay import limits
from overlay.errors import Code, LimitError
from overlay.fabric.authority import FabricMap
from overlay.fabric.state import AuthorityState, MapState
from overlay.identity.certificate import Role
from overlay.identity.trust import Signers, open_signed
from overlay.policy import model as policy
from overlay.wire.bodies import DATAGRAMS, STREAM, TreeHead
from tests.support.controllers import ADMIN, Controller, Mill
from tests.support.pki import NOW, SECOND
from tests.unit.controller.actions.test_conduits import allow, authority, grants


async def test_a_node_takes_every_authority_in_turn(plant: Mill):
    """What this controller signs is what the nodes' own rules accept (A-02)."""
    signers = Signers(plant.actions.anchor)
    state = AuthorityState(signers)
    kept = []
    for step in range(6):
        if step % 2:
            await plant.actions.kill(ADMIN, r.NewKill(level="plant", reason=str(step)))
        plant.controller.pass_(5)
        signed = await plant.actions.authority()
        kept.append(signed)
        body = state.offer(signed, plant.actions.now())
        assert body is not None
        assert body.time == plant.actions.now()
        assert body.head
    assert [len(kill.reason) for kill in state.held.body.kills] == [1, 1, 1]  # type: ignore[union-attr]
    assert all(state.offer(signed, plant.actions.now()) is None for signed in kept)
    assert await plant.actions.authority_version() == state.version


async def test_the_head_in_the_authority_is_over_all_records(plant: Mill):
    body = await authority(plant)
    head, _ = open_signed(
        TreeHead, body.head, plant.actions.signers, plant.actions.now(), role=Role.CONTROLLER
    )
    (last,) = await plant.actions.audit_tail(ADMIN, limit=1)
    assert head.size == last.seq


async def test_the_map_has_one_content_per_version(plant: Mill):
    actions = plant.actions
    first = await actions.fabric_map()
    assert await actions.fabric_map() == first
    await actions.add_zone(ADMIN, r.NewZone(name="z"))
    assert await actions.fabric_map() == first
    await actions.add_router(
        ADMIN, r.NewRouter(name="router-2", address="192.0.2.2:1", dials=("router-1",))
    )
    signers = Signers(actions.anchor)
    state = MapState(signers, AuthorityState(signers))
    assert state.offer(first, actions.now()) is not None
    second = state.offer(await actions.fabric_map(), actions.now())
    assert second is not None
    assert [(one.name, one.address, one.dials) for one in second.routers] == [
        ("router-1", "192.0.2.1:7443", ()),
        ("router-2", "192.0.2.2:1", ("router-1",)),
    ]


async def test_what_an_edge_has_to_do(plant: Mill):
    actions = plant.actions
    await actions.add_service(ADMIN, r.NewService(asset="plc-b", protocol="own", port="5-9"))
    await actions.add_service(ADMIN, r.NewService(asset="plc-b", protocol="snmp"))
    await actions.add_listener(
        ADMIN, r.NewListener(edge="edge-a", service="plc-b.snmp", listen="[::1]:1161")
    )
    given = await actions.assignments_for(plant.edge_a.leaf)
    assert [(one.service, one.listen, one.who, one.transport) for one in given.listeners] == [
        ("plc-b.modbus", "127.0.0.1:15020", "hmi-a", STREAM),
        ("plc-b.snmp", "[::1]:1161", "edge-a", DATAGRAMS),
    ]
    assert given.hosted == ()
    hosted = (await actions.assignments_for(plant.edge_b.leaf)).hosted
    assert [
        (one.service, one.address, one.port, one.port_end, one.transport) for one in hosted
    ] == [
        ("plc-b.modbus", "192.168.1.20", 502, 502, STREAM),
        ("plc-b.own", "192.168.1.20", 5, 9, STREAM),
        ("plc-b.snmp", "192.168.1.20", 161, 161, DATAGRAMS),
    ]
    router = await actions.assignments_for(plant.router.leaf)
    assert (router.listeners, router.hosted) == ((), ())
    fabric, _ = open_signed(
        FabricMap, router.fabric, actions.signers, actions.now(), role=Role.CONTROLLER
    )
    assert [one.name for one in fabric.routers] == ["router-1"]
    before = given.version
    await actions.remove_object(ADMIN, "listener", "edge-a:127.0.0.1:15020")
    assert (await actions.assignments_for(plant.edge_a.leaf)).version > before


async def test_assignments_wait_for_an_address(plant: Mill):
    await plant.actions.add_asset(ADMIN, r.NewAsset(name="new", edges=("edge-b",)))
    assert len((await plant.actions.assignments_for(plant.edge_b.leaf)).hosted) == 1


async def test_an_edge_learns_of_no_service_without_a_grant_or_listener(plant: Mill):
    await plant.actions.add_service(ADMIN, r.NewService(asset="plc-b", protocol="ssh"))
    given = await plant.actions.assignments_for(plant.edge_a.leaf)
    assert {one.service for one in given.listeners} == {"plc-b.modbus"}
    assert await plant.actions.grants_for(plant.edge_a.leaf) == ()


async def test_grants_follow_every_kind_of_who(plant: Mill):
    actions = plant.actions
    await actions.add_zone(ADMIN, r.NewZone(name="hall"))
    await actions.add_zone(ADMIN, r.NewZone(name="cell", parent="hall"))
    changes = r.Changes(changes={"zone": "cell", "tag": "hmi"})
    await actions.set_object(ADMIN, "asset", "hmi-a", changes)
    for who in ("hmi-a", "edge-a", "hall", "tag:hmi"):
        made = await actions.allow(ADMIN, allow(who=who))
        (grant,) = await grants(plant, plant.edge_a)
        assert grant.who == ("edge-a" if who == "edge-a" else "hmi-a")
        assert grant.who_zones == (() if who == "edge-a" else ("cell", "hall"))
        await actions.deny(ADMIN, r.Deny(conduit=made.id))


async def test_status_of_nodes(plant: Mill):
    actions = plant.actions
    await actions.add_edge(ADMIN, r.NewEdge(name="edge-c"))
    plant.controller.pass_(60)
    await actions.node_disconnected(plant.edge_b.leaf, "gone")
    await actions.node_disconnected(plant.edge_b.leaf, "gone")  # said twice, counted once
    await actions.revoke(ADMIN, r.Revoke(kind="edge", name="edge-a", reason="stolen"))
    status = await actions.status(ADMIN)
    assert status.plant == "mill"
    assert [(one.name, one.state) for one in status.controllers] == [("controller", "connected")]
    assert [(one.name, one.state, one.version) for one in status.routers] == [
        ("router-1", "connected", "0.1.0")
    ]
    assert [(one.name, one.state) for one in status.edges] == [
        ("edge-a", "revoked"),
        ("edge-b", "lost"),
        ("edge-c", "waiting"),
    ]
    assert status.edges[1].since == "2027-01-15T08:01:00.000000Z"
    assert status.edges[2].version is None


async def test_an_edge_is_connected_with_links_to_two_routers_where_there_are_two(plant: Mill):
    actions = plant.actions

    async def state() -> str:
        return (await actions.status(ADMIN)).edges[0].state

    actions.node_links("edge-a", ["router-1"])
    assert await state() == "connected"
    await plant.controller.router("router-2", "192.0.2.2:1")
    assert await state() == "lost"
    actions.node_links("edge-a", ["router-1", "router-2"])
    assert await state() == "connected"


async def test_status_says_what_hangs_on_a_single_path(plant: Mill):
    actions = plant.actions

    async def alerts() -> list[tuple[str, str]]:
        return [(one.kind, one.name) for one in (await actions.status(ADMIN)).alerts]

    lone = ("service", "plc-b")
    assert await alerts() == [("plant", "mill"), lone]
    await plant.controller.router("router-2", "192.0.2.2:1")
    for edge in ("edge-a", "edge-b"):
        actions.node_links(edge, ["router-1", "router-2"])
    assert await alerts() == [lone]
    actions.node_links("edge-a", ["router-1"])  # which makes it lost, too
    assert await alerts() == [("edge", "edge-a"), lone]
    await change_edges(plant, "edge-a:0", "edge-b:1")
    assert await alerts() == [("edge", "edge-a")]
    await actions.node_disconnected(plant.edge_a.leaf, "gone")
    assert await alerts() == [lone]


async def change_edges(plant: Mill, *edges: str) -> None:
    await plant.actions.set_object(ADMIN, "asset", "plc-b", r.Changes(changes={"edge": edges}))


async def test_overlapping_control_circuits_count_as_one_node(plant: Mill):
    await plant.edge_a.connect()
    await plant.actions.node_disconnected(plant.edge_a.leaf, "the older one")
    assert (await plant.actions.status(ADMIN)).edges[0].state == "connected"
    await plant.actions.node_disconnected(plant.edge_a.leaf, "the newer one")
    assert (await plant.actions.status(ADMIN)).edges[0].state == "lost"


def test_presence_of_an_older_enrolment_does_not_end_the_newer_one():
    presence = Presence()
    presence.connected("edge-a", "edge", 1, "1", 1, NOW)
    presence.connected("edge-a", "edge", 2, "1", 1, NOW)
    assert not presence.disconnected("edge-a", 1)
    assert presence.disconnected("edge-a", 2)


async def test_one_reads_the_plant_for_all_who_want_it_at_once(
    plant: Mill, monkeypatch: pytest.MonkeyPatch
):
    reads = 0
    load = load_plant

    async def counted(session: AsyncSession, now: int) -> policy.Plant:
        nonlocal reads
        reads += 1
        return await load(session, now)

    monkeypatch.setattr("controller.actions.core.load_plant", counted)
    await plant.actions.add_zone(ADMIN, r.NewZone(name="z"))
    reads = 0
    found = await asyncio.gather(*(plant.actions.snapshot() for _ in range(20)))
    assert reads == 1
    assert all("z" in one.zone for one in found)
    await plant.actions.kill(ADMIN, r.NewKill(level="plant", reason="drill"))
    reads = 0
    assert len((await plant.actions.snapshot()).kills) == 1, "never an old one"
    assert reads == 1


async def test_others_get_a_turn_while_many_grants_are_signed(
    plant: Mill, monkeypatch: pytest.MonkeyPatch
):
    await plant.actions.allow(ADMIN, allow())
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    at_once: list[int] = []
    sign = signing.sign_grant

    def watched(*parts: Any) -> bytes:
        at_once.append(turns)
        return sign(*parts)

    monkeypatch.setattr(signing, "sign_grant", watched)
    task = asyncio.ensure_future(others())
    given = list(await plant.actions.grants_for(plant.edge_a.leaf)) * 50
    assert len(await plant.actions.sign_grants(given)) == 50
    task.cancel()
    assert max(at_once.count(turn) for turn in at_once) <= nodes.SIGNED_AT_ONCE


def test_links_are_news_only_when_they_are_others():
    presence = Presence()
    assert not presence.links("edge-a", ["router-1"]), "nobody of that name is there"
    presence.connected("edge-a", "edge", 1, "1", 1, NOW)
    assert presence.links("edge-a", ["router-1", "router-2"])
    assert not presence.links("edge-a", ["router-2", "router-1"])
    assert presence.links("edge-a", ["router-1"])


def test_a_node_that_restarted_stays_when_the_end_of_its_last_circuit_is_noticed_later():
    presence = Presence()
    presence.connected("edge-a", "edge", 1, "1", 1, NOW)
    presence.connected("edge-a", "edge", 1, "1", 2, NOW)
    assert presence.restarted("edge-a")
    assert not presence.disconnected("edge-a", 1), "that was the circuit of before"
    assert presence.disconnected("edge-a", 1)


@pytest.mark.parametrize(
    ("change", "topics"),
    [
        (lambda a: a.add_zone(ADMIN, r.NewZone(name="z")), {"policy", "audit"}),
        (lambda a: a.allow(ADMIN, allow()), {"policy", "audit"}),
        (lambda a: a.kill(ADMIN, r.NewKill(level="plant")), {"authority", "sessions", "audit"}),
        (lambda a: a.make_token(ADMIN, "edge", "edge-a"), {"presence", "audit"}),
        (
            lambda a: a.revoke(ADMIN, r.Revoke(kind="router", name="router-1", reason="x")),
            {"authority", "policy", "map", "presence", "audit"},
        ),
    ],
)
async def test_subscribers_hear_what_changed(plant: Mill, change, topics):
    news = plant.actions.subscribe()
    await change(plant.actions)
    assert await news.wait() == topics
    waiting = asyncio.ensure_future(news.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    news.close()
    assert await waiting == frozenset()


async def test_a_refused_change_is_no_news_but_its_record(plant: Mill):
    news = plant.actions.subscribe()
    with pytest.raises(Exception, match="taken"):
        await plant.actions.add_zone(ADMIN, r.NewZone(name="plc-b"))
    waiting = asyncio.ensure_future(news.wait())
    await asyncio.sleep(0.01)
    assert not waiting.done()
    news.close()
    await waiting


async def test_a_change_that_is_cancelled_is_whole_or_not_there(plant: Mill):
    """Whenever an impatient caller goes, log and tables agree and the next change works."""
    for turns in range(0, 60, 4):
        task = asyncio.ensure_future(plant.actions.add_zone(ADMIN, r.NewZone(name=f"z{turns}")))
        for _ in range(turns):
            await asyncio.sleep(0.0002)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    zones = {one.name for one in await plant.actions.list_objects(ADMIN, "zone")}  # type: ignore[attr-defined]
    records = await plant.actions.audit_search(ADMIN, r.Search())
    made = {one.detail["name"] for one in records if one.detail.get("kind") == "zone"}
    assert zones == made
    assert (await plant.actions.audit_verify(ADMIN)).ok
    await plant.actions.add_zone(ADMIN, r.NewZone(name="last"))


async def test_the_controller_renews_its_own_leaf_and_goes_on(made: Controller):
    before = made.actions.credentials
    made.pass_(21 * 86_400)
    await made.actions.tick()
    after = made.actions.credentials
    assert after.chain != before.chain
    assert after.key.public == before.key.public
    (last,) = await made.actions.audit_tail(ADMIN, limit=1)
    assert last.event == "node.renew"
    made.pass_(20 * 86_400)  # the old leaf has ended
    signers = Signers(made.actions.anchor)
    assert AuthorityState(signers).offer(await made.actions.authority(), made.actions.now())
    assert (await made.actions.audit_verify(ADMIN)).ok


async def test_the_clerk_comes_again_when_something_is_due(made: Controller):
    assert await made.actions.tick() == 60 * SECOND
    await made.actions.kill(ADMIN, r.NewKill(level="plant", for_="20s"))
    assert await made.actions.tick() == 20 * SECOND


async def test_faults_on_links_are_recorded_and_masses_merged(plant: Mill):
    await plant.actions.link_fault("router-1", Code.TAMPER, "a record does not authenticate")
    (last,) = await plant.actions.audit_tail(ADMIN, limit=1)
    assert (last.event, last.outcome, last.via) == ("security.tamper", "failed", "router-1")
    for _ in range(30):
        await plant.actions.link_fault("router-1", Code.PROTOCOL, "an unknown frame")
    records = await plant.actions.audit_search(ADMIN, r.Search(who="router-1"))
    assert [one.event for one in records].count("security.refused") == 9


def test_masses_are_merged_and_none_is_lost():
    merger = RecordLimiter()
    taken = [merger.take(NOW) for _ in range(100)]
    assert taken[:10] == [1] * 10
    assert set(taken[10:]) == {0}
    assert merger.take(NOW + RecordLimiter.PERIOD) == 91


def test_a_grant_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch):
    from controller.signing import make_grant, sign_grant
    from overlay.policy.evaluate import GrantSpec
    from tests.support.pki import Pki

    pki = Pki()
    leaf = pki.node(Role.EDGE, "edge-a").leaf
    assert leaf is not None
    spec = GrantSpec(
        conduit="c1", who="h" * 63, via="e" * 63, service="s" * 127, asset="a" * 63,
        hosts=("h" * 63,) * 16, transport=0, integrity=0, not_before=NOW, end=0, max_session=0,
        hold=0, who_zones=("z" * 63,) * 16, asset_zones=("z" * 63,) * 16,
    )  # fmt: skip
    grant = make_grant(spec, leaf, 1, NOW)
    assert len(sign_grant(pki.controller(), grant)) <= limits.MAX_GRANT  # the largest there can be
    monkeypatch.setattr(limits, "MAX_GRANT", 1000)
    with pytest.raises(LimitError):
        sign_grant(pki.controller(), grant)
