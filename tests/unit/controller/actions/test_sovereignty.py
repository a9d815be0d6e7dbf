"""Kill, restore, revoke: levels, what adds up, what outlives what."""

import pytest

from controller import signing
from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.errors import Conflict, Invalid, NotFound, TooMany
from overlay import limits
from overlay.audit.event import EventName, Outcome
from overlay.errors import InputError, TrustError
from tests.support.controllers import ADMIN, Mill
from tests.support.pki import NOW, SECOND
from tests.unit.controller.actions.test_conduits import allow, authority, grants, opened

CIRCUIT = "ab" * 16
Target = tuple[t.KillLevel, str]


async def kills(plant: Mill) -> list[tuple[str, str]]:
    return [(one.level, one.name) for one in (await authority(plant)).kills]


@pytest.mark.parametrize(
    ("level", "name", "canonical"),
    [
        ("identity", "HMI-A", "hmi-a"),
        ("identity", "edge-b", "edge-b"),
        ("identity", "ada", "ada"),
        ("service", "plc-b.Modbus", "plc-b.modbus"),
        ("zone", "cell", "cell"),
        ("plant", "", ""),
    ],
)
async def test_a_kill_is_published_and_lifted(plant: Mill, level, name, canonical):
    await plant.actions.add_zone(ADMIN, r.NewZone(name="cell"))
    before = (await authority(plant)).version
    news = plant.actions.subscribe()
    made = await plant.actions.kill(ADMIN, r.NewKill(level=level, name=name, reason="drill"))
    assert "authority" in await news.wait()
    news.close()
    assert (made.level, made.name, made.reason, made.by, made.until) == (
        level, canonical, "drill", "ada", None,
    )  # fmt: skip
    assert await kills(plant) == [(level, canonical)]
    assert (await authority(plant)).version == before + 1
    assert await plant.actions.list_objects(ADMIN, "kill") == [made]
    lifted = await plant.actions.restore(ADMIN, r.Restore(level=level, name=name, reason="over"))
    assert (lifted.restored, lifted.still) == ((made.id,), ())
    assert await kills(plant) == []
    assert (await authority(plant)).version == before + 2
    events = [one.event for one in await plant.actions.audit_tail(ADMIN, limit=2)]
    assert events == ["kill.set", "kill.restore"]


@pytest.mark.parametrize(
    ("level", "name", "error", "named"),
    [
        ("identity", "hmi-x", NotFound, "hmi-a"),
        ("identity", "router-1", Invalid, "revoke"),
        ("identity", "", InputError, "empty"),
        ("service", "plc-b.s7", NotFound, "plc-b"),
        ("service", "plc-b", InputError, "plc-b"),
        ("zone", "hmi-a", Invalid, "kill identity hmi-a"),
        ("zone", "nowhere", NotFound, "nowhere"),
        ("plant", "mill", Invalid, "no name"),
    ],
)
async def test_what_cannot_be_killed_is_said(plant: Mill, level, name, error, named):
    with pytest.raises(error, match=named):
        await plant.actions.kill(ADMIN, r.NewKill(level=level, name=name))
    assert await kills(plant) == []


async def test_kills_add_up_and_restore_lifts_only_its_own(plant: Mill):
    targets: list[Target] = [("plant", ""), ("identity", "edge-a"), ("identity", "edge-b")]
    for level, name in targets:
        plant.controller.pass_(1)  # they are listed by age
        await plant.actions.kill(ADMIN, r.NewKill(level=level, name=name))
    plant_kill = (await authority(plant)).kills[0]
    lifted = await plant.actions.restore(ADMIN, r.Restore(level="identity", name="edge-a"))
    assert lifted.still == (plant_kill.id.hex(),)
    assert await kills(plant) == [("plant", ""), ("identity", "edge-b")]
    with pytest.raises(NotFound, match="plant and identity edge-b"):
        await plant.actions.restore(ADMIN, r.Restore(level="identity", name="edge-a"))


async def test_restore_names_what_else_covers_the_target(plant: Mill):
    await plant.actions.add_zone(ADMIN, r.NewZone(name="hall"))
    await plant.actions.add_zone(ADMIN, r.NewZone(name="cell", parent="hall"))
    await plant.actions.set_object(ADMIN, "asset", "plc-b", r.Changes(changes={"zone": "cell"}))
    targets: list[Target] = [
        ("zone", "hall"), ("zone", "cell"), ("identity", "edge-b"), ("identity", "plc-b"),
        ("identity", "hmi-a"), ("service", "plc-b.modbus"),
    ]  # fmt: skip
    for level, name in targets:
        await plant.actions.kill(ADMIN, r.NewKill(level=level, name=name))
    ids = {(one.level, one.name): one.id.hex() for one in (await authority(plant)).kills}
    service = await plant.actions.restore(ADMIN, r.Restore(level="service", name="plc-b.modbus"))
    covering = {("zone", "hall"), ("zone", "cell"), ("identity", "edge-b"), ("identity", "plc-b")}
    assert set(service.still) == {ids[one] for one in covering}
    inner = await plant.actions.restore(ADMIN, r.Restore(level="zone", name="cell"))
    assert inner.still == (ids["zone", "hall"],)


async def test_two_kills_of_one_target_are_lifted_together(plant: Mill):
    for _ in range(2):
        await plant.actions.kill(ADMIN, r.NewKill(level="plant"))
    assert len((await plant.actions.restore(ADMIN, r.Restore(level="plant"))).restored) == 2
    assert await kills(plant) == []


async def test_a_kill_for_a_time_ends_by_itself_and_says_so(plant: Mill):
    made = await plant.actions.kill(ADMIN, r.NewKill(level="plant", for_="10m"))
    assert made.until == "2027-01-15T08:10:00.000000Z"
    (published,) = (await authority(plant)).kills
    assert published.until == NOW + 600 * SECOND
    plant.controller.pass_(599)
    await plant.actions.tick()
    assert len(await kills(plant)) == 1
    version = (await authority(plant)).version
    plant.controller.pass_(2)
    await plant.actions.tick()
    assert await kills(plant) == []
    assert (await authority(plant)).version == version + 1
    (last,) = await plant.actions.audit_tail(ADMIN, limit=1)
    assert (last.event, last.who) == ("kill.restore", "controller")


async def test_a_kill_survives_a_restart(plant: Mill, tmp_path):
    await plant.actions.kill(ADMIN, r.NewKill(level="plant", reason="stay"))
    before = await authority(plant)
    from controller.founding import reopen

    again, store = await reopen(plant.controller.world, plant.controller.directory)
    try:
        plant.controller.actions = again
        assert (await authority(plant)).kills == before.kills
        assert (await authority(plant)).version >= before.version
    finally:
        await store.close()


async def test_killing_a_session_leaves_its_conduit(plant: Mill):
    made = await plant.actions.allow(ADMIN, allow(away="hold:1h"))
    await opened(plant, made.id)
    killed = await plant.actions.kill_session(ADMIN, r.KillSession(id=CIRCUIT.upper(), reason="x"))
    assert (killed.id, killed.conduit) == (CIRCUIT, made.id)
    (published,) = (await authority(plant)).kills
    assert (published.level, published.name) == ("circuit", CIRCUIT)
    assert published.until == NOW + int(limits.REFRESH_BY + 3600) * SECOND
    assert await plant.actions.list_objects(ADMIN, "kill") == []
    assert len(await grants(plant, plant.edge_a)) == 1


async def test_a_killed_session_stays_killed_as_long_as_any_grant_can_hold(plant: Mill):
    """Under which conduit it runs is what a node says: one that made the session up would name one that holds briefly."""
    short = await plant.actions.allow(ADMIN, allow(away="close"))
    await plant.actions.allow(ADMIN, allow(who="edge-a", away="hold:9h"))
    await opened(plant, short.id)
    await plant.actions.kill_session(ADMIN, r.KillSession(id=CIRCUIT))
    (published,) = (await authority(plant)).kills
    assert published.until == NOW + int(limits.REFRESH_BY + 9 * 3600) * SECOND


async def test_a_session_is_known_by_the_beginning_of_its_id(plant: Mill):
    actions = plant.actions
    other, third = "abcd" + "0" * 28, "abce" + "0" * 28
    for circuit in (CIRCUIT, other, third):
        await opened(plant, "c1", circuit)
    assert (await actions.show_session(ADMIN, "ABCD")).id == other
    for text in ("abc", "", "ab%", "abcf", "cd" * 16, "abcd_", other + "0"):  # short, or fits none
        with pytest.raises(NotFound, match="there is no session"):
            await actions.show_session(ADMIN, text)
    await opened(plant, "c1", "abcd1" + "0" * 27)
    with pytest.raises(Invalid, match="several sessions begin with 'abcd': write more"):
        await actions.kill_session(ADMIN, r.KillSession(id="abcd"))
    assert (await actions.kill_session(ADMIN, r.KillSession(id="abcd0"))).id == other
    assert (await actions.trace(ADMIN, "abce")).id == third
    again = "abcd2" + "0" * 27
    await opened(plant, "c1", again)
    for circuit in (other, again):
        event = plant.edge_b.event(EventName.CIRCUIT_CLOSE, Outcome.DONE, circuit=circuit)
        await actions.record_events(plant.edge_b.leaf, plant.edge_b.numbers, [event])
    assert (await actions.show_session(ADMIN, "abcd")).id == "abcd1" + "0" * 27  # the live one
    assert (await actions.show_session(ADMIN, "abcd0")).id == other


async def test_a_killed_session_leaves_the_authority_when_it_has_ended(plant: Mill):
    await opened(plant, "c1")
    await plant.actions.kill_session(ADMIN, r.KillSession(id=CIRCUIT))
    version = (await authority(plant)).version
    event = plant.edge_b.event(
        EventName.CIRCUIT_CLOSE, Outcome.DONE, circuit=CIRCUIT, reason="killed"
    )
    await plant.actions.record_events(plant.edge_b.leaf, 2, [event])
    last = await authority(plant)
    assert last.kills == ()
    assert last.version == version + 1
    with pytest.raises(Conflict, match="ended already"):
        await plant.actions.kill_session(ADMIN, r.KillSession(id=CIRCUIT))
    with pytest.raises(NotFound):
        await plant.actions.kill_session(ADMIN, r.KillSession(id="cd" * 16))


async def test_only_the_hosting_edge_ends_the_kill_of_a_session(plant: Mill):
    """A-05: else a caller could lift the kill before a host that was away has heard of it, and resume."""
    await opened(plant, "c1")
    await plant.actions.kill_session(ADMIN, r.KillSession(id=CIRCUIT))
    for node in (plant.edge_a, plant.router):
        event = node.event(EventName.CIRCUIT_CLOSE, Outcome.DONE, circuit=CIRCUIT, reason="over")
        await plant.actions.record_events(node.leaf, 1, [event])
        (kill,) = (await authority(plant)).kills
        assert kill.name == CIRCUIT


async def test_revoking_lists_the_generation_and_voids_tokens(plant: Mill):
    fresh = await plant.actions.make_token(ADMIN, "edge", "edge-a")
    made = await plant.actions.revoke(ADMIN, r.Revoke(kind="edge", name="Edge-A", reason="stolen"))
    assert (made.name, made.generation) == ("edge-a", 1)
    (published,) = (await authority(plant)).revoked
    assert (published.name, published.generation) == ("edge-a", 1)
    with pytest.raises(TrustError, match="revoked: stolen"):
        await plant.actions.check_leaf(plant.edge_a.leaf)
    with pytest.raises(TrustError, match="unknown, used, expired"):
        await plant.controller.enrol(fresh.token)
    with pytest.raises(Conflict, match="revoked already"):
        await plant.actions.revoke(ADMIN, r.Revoke(kind="edge", name="edge-a", reason="again"))
    status = await plant.actions.status(ADMIN)
    assert [one.state for one in status.edges] == ["revoked", "connected"]
    await plant.actions.allow(ADMIN, allow())
    assert await grants(plant, plant.edge_a) == []
    assert not (await plant.actions.why(ADMIN, "hmi-a", "plc-b", "modbus")).allowed


async def test_a_revoked_router_leaves_the_map(plant: Mill):
    assert [one.name for one in await plant.actions.routers_to_dial()] == ["router-1"]
    before = await plant.actions.fabric_map()
    await plant.actions.revoke(ADMIN, r.Revoke(kind="router", name="router-1", reason="sold"))
    assert await plant.actions.routers_to_dial() == []
    assert await plant.actions.fabric_map() != before


async def test_a_replaced_machine_gets_a_higher_generation_and_the_old_one_is_void(plant: Mill):
    token = await plant.actions.make_token(ADMIN, "edge", "edge-a")
    again = await plant.controller.enrol(token.token, b"n" * 32)
    assert again.leaf.generation == 2
    await plant.actions.check_leaf(plant.edge_a.leaf)  # the new one may never come
    await again.connect()
    with pytest.raises(TrustError, match="replaced by generation 2"):
        await plant.actions.check_leaf(plant.edge_a.leaf)
    await plant.actions.check_leaf(again.leaf)
    (published,) = (await authority(plant)).revoked
    assert (published.name, published.generation) == ("edge-a", 1)
    assert [one.state for one in (await plant.actions.status(ADMIN)).edges] == ["connected"] * 2


async def test_a_revocation_is_published_while_a_leaf_of_it_could_be_valid(plant: Mill):
    await plant.actions.revoke(ADMIN, r.Revoke(kind="edge", name="edge-a", reason="stolen"))
    plant.controller.pass_(6.9 * 86_400)
    await plant.actions.tick()
    assert len((await authority(plant)).revoked) == 1
    plant.controller.pass_(0.2 * 86_400)
    await plant.actions.tick()
    assert (await authority(plant)).revoked == ()
    with pytest.raises(TrustError, match="revoked"):  # it may not renew an expired leaf, ever
        await plant.actions.check_leaf(plant.edge_a.leaf)


async def test_an_authority_that_would_be_too_long_is_refused_aloud_and_kills_have_room(
    plant: Mill, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(signing, "MAX_SIGNED", 400)
    monkeypatch.setattr(signing, "RESERVED_FOR_KILLS", 390)
    made = await plant.actions.allow(ADMIN, allow())
    with pytest.raises(TooMany, match="too many"):
        await plant.actions.deny(ADMIN, r.Deny(conduit=made.id))
    with pytest.raises(TooMany):
        await plant.actions.revoke(ADMIN, r.Revoke(kind="edge", name="edge-a", reason="x"))
    await plant.actions.check_leaf(plant.edge_a.leaf)
    assert await kills(plant) == []
    count = 0
    with pytest.raises(TooMany):
        while count < 100:
            await plant.actions.kill(ADMIN, r.NewKill(level="plant", reason="fill"))
            count += 1
    assert 0 < count < 20
    assert len(await kills(plant)) == count


async def test_kills_are_bounded_in_number(plant: Mill, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "KILLS", 2)
    for _ in range(2):
        await plant.actions.kill(ADMIN, r.NewKill(level="plant"))
    with pytest.raises(TooMany):
        await plant.actions.kill(ADMIN, r.NewKill(level="plant"))
