"""`set` and `rm`: keys, values, and what depends on what."""

import pytest

from controller.actions import requests as r
from controller.actions.errors import ActionError, Conflict, Invalid, NotFound, Unsupported
from overlay.errors import InputError
from tests.support.controllers import ADMIN, Mill


async def change(plant: Mill, kind: str, name: str, **changes):
    return await plant.actions.set_object(ADMIN, kind, name, r.Changes(changes=changes))


async def test_every_key_can_be_set(plant: Mill):
    actions = plant.actions
    await actions.add_zone(ADMIN, r.NewZone(name="cell"))
    await actions.add_zone(ADMIN, r.NewZone(name="hall"))
    assert (await change(plant, "zone", "cell", level="2", sl="3", parent="hall")).parent == "hall"
    assert (await change(plant, "zone", "cell", level="", parent="")).parent is None
    assert (await change(plant, "edge", "edge-a", zone="cell")).zone == "cell"
    router = await change(plant, "router", "router-1", address="198.51.100.1:7000")
    assert router.address == "198.51.100.1:7000"
    asset = await change(
        plant, "asset", "plc-b", edge=("edge-a:1", "edge-b"), address="10.0.0.9",
        mac="00:1b:1b:00:00:01", zone="cell", tag="a,b",
    )  # fmt: skip
    assert [one.edge for one in asset.edges] == ["edge-b", "edge-a"]
    assert (asset.address, asset.zone, asset.tags) == ("10.0.0.9", "cell", ("a", "b"))
    assert (await change(plant, "asset", "plc-b", tag="")).tags == ()
    assert (await change(plant, "service", "plc-b.modbus", port="1502")).port == 1502
    listener = await change(
        plant, "listener", "edge-a:127.0.0.1:15020", listen="127.0.0.1:16000", **{"as": ""}
    )
    assert (listener.name, listener.as_asset) == ("edge-a:127.0.0.1:16000", None)


@pytest.mark.parametrize(
    ("kind", "name", "changes", "error", "named"),
    [
        ("zone", "cell", {"colour": "red"}, Invalid, "colour"),
        ("zone", "cell", {"levle": "1"}, Invalid, "did you mean level"),
        ("zone", "cell", {}, Invalid, "say what to change"),
        ("zone", "cell", {"level": "6"}, Invalid, "0 to 5"),
        ("zone", "cell", {"level": "high"}, Invalid, "high"),
        ("zone", "cell", {"level": ("1", "2")}, Invalid, "one value"),
        ("zone", "cell", {"parent": "cell"}, InputError, "cell"),
        ("zone", "none", {"level": "1"}, NotFound, "none"),
        ("edge", "edge-a", {"zone": "nowhere"}, NotFound, "nowhere"),
        ("router", "router-1", {"address": "x"}, Invalid, "x"),
        ("router", "router-1", {"dials": "router-1"}, Invalid, "itself"),
        ("asset", "plc-b", {"edge": ""}, Invalid, "1 to 16"),
        ("asset", "plc-b", {"edge": "nobody"}, NotFound, "nobody"),
        ("asset", "plc-b", {"address": ""}, Conflict, "plc-b.modbus"),
        ("asset", "hmi-a", {"edge": "edge-b"}, Conflict, "15020"),
        ("service", "plc-b.modbus", {"port": "1-3"}, Unsupported, "15020"),
        ("service", "plc-b.modbus", {"transport": "sctp"}, Invalid, "sctp"),
        ("service", "plc-b.modbus", {"transport": "udp"}, Conflict, "15020"),
        ("listener", "edge-a:127.0.0.1:15020", {"as": "plc-b"}, Conflict, "behind"),
        ("listener", "edge-a:127.0.0.1:15020", {"listen": "x:1"}, Invalid, "x:1"),
        ("conduit", "c1", {"until": "now"}, Unsupported, "conduit"),
        ("kill", "x", {"until": "now"}, Unsupported, "kill"),
    ],
)  # fmt: skip
async def test_a_change_that_cannot_be_changes_nothing(
    plant: Mill, kind, name, changes, error, named
):
    await plant.actions.add_zone(ADMIN, r.NewZone(name="cell"))
    before = [await plant.actions.list_objects(ADMIN, one) for one in ("zone", "asset", "listener")]
    with pytest.raises(error, match=named):
        await change(plant, kind, name, **changes)
    after = [await plant.actions.list_objects(ADMIN, one) for one in ("zone", "asset", "listener")]
    assert after == before


async def test_of_several_changes_all_happen_or_none(plant: Mill):
    with pytest.raises(ActionError):
        await change(plant, "asset", "plc-b", tag="new", zone="nowhere")
    assert (await plant.controller.show("asset", "plc-b")).tags == ()


async def test_removing_says_what_depends_on_it(plant: Mill):
    actions = plant.actions
    await actions.add_zone(ADMIN, r.NewZone(name="hall"))
    await actions.add_zone(ADMIN, r.NewZone(name="cell", parent="hall"))
    await change(plant, "edge", "edge-a", zone="cell")
    await change(plant, "asset", "plc-b", zone="cell")
    await actions.add_router(
        ADMIN, r.NewRouter(name="router-2", address="192.0.2.2:1", dials=("router-1",))
    )
    made = await actions.allow(ADMIN, r.Allow(who="hmi-a", to="plc-b", protocol="modbus"))
    await actions.kill(ADMIN, r.NewKill(level="service", name="plc-b.modbus"))
    for kind, name, named in (
        ("zone", "hall", "zone cell"),
        ("zone", "cell", "edge edge-a and it holds asset plc-b"),
        ("router", "router-1", "router router-2 dials it"),
        ("edge", "edge-a", "hmi-a.*15020"),
        ("asset", "plc-b", f"plc-b.modbus.*{made.id}"),
        ("asset", "hmi-a", f"15020.*{made.id}"),
        ("service", "plc-b.modbus", f"15020, conduit {made.id} names it and it is killed"),
    ):
        with pytest.raises(Conflict, match=named):
            await actions.remove_object(ADMIN, kind, name)


async def test_removing_in_the_right_order_works_and_frees_the_name(plant: Mill):
    actions = plant.actions
    for kind, name in (
        ("listener", "edge-a:127.0.0.1:15020"),
        ("service", "plc-b.modbus"),
        ("asset", "plc-b"),
        ("edge", "edge-b"),
    ):
        removed = await actions.remove_object(ADMIN, kind, name)
        assert (removed.kind, removed.name) == (kind, name)
        with pytest.raises(NotFound):
            await actions.show_object(ADMIN, kind, name)
    await actions.add_zone(ADMIN, r.NewZone(name="plc-b"))
    records = await actions.audit_tail(ADMIN, limit=10)
    assert [one.event for one in records].count("object.remove") == 4


async def test_a_removed_node_is_revoked_and_its_name_starts_above(plant: Mill):
    actions = plant.actions
    for kind, name in (
        ("listener", "edge-a:127.0.0.1:15020"),
        ("asset", "hmi-a"),
        ("edge", "edge-a"),
    ):
        await actions.remove_object(ADMIN, kind, name)
    with pytest.raises(Exception, match="no edge edge-a"):
        await actions.check_leaf(plant.edge_a.leaf)
    again = await plant.controller.edge("edge-a")
    assert again.leaf.generation == 2
    with pytest.raises(Exception, match="revoked"):
        await actions.check_leaf(plant.edge_a.leaf)
    await actions.check_leaf(again.leaf)


async def test_rm_of_conduit_and_kill_is_deny_and_restore(plant: Mill):
    actions = plant.actions
    made = await actions.allow(ADMIN, r.Allow(who="hmi-a", to="plc-b", protocol="modbus"))
    await actions.remove_object(ADMIN, "conduit", made.id)
    assert not (await actions.why(ADMIN, "hmi-a", "plc-b", "modbus")).allowed
    killed = await actions.kill(ADMIN, r.NewKill(level="plant"))
    await actions.remove_object(ADMIN, "kill", killed.id)
    assert await actions.list_objects(ADMIN, "kill") == []
    with pytest.raises(NotFound):
        await actions.remove_object(ADMIN, "kill", killed.id)


async def test_the_last_router_that_takes_circuits_is_not_drained(plant: Mill):
    async def drain(name: str, value: str = "true") -> None:
        await change(plant, "router", name, draining=value)

    await plant.actions.add_router(ADMIN, r.NewRouter(name="waiting", address="192.0.2.9:7443"))
    with pytest.raises(
        Conflict, match=r"router-1 is the last router .* `ferrule drain router NAME --undo` first"
    ):
        await drain("router-1")  # the other one has never been there
    assert not (await plant.controller.show("router", "router-1")).draining
    await plant.controller.router("router-2", "192.0.2.2:7443")
    await drain("router-1")
    await drain("router-1")  # again does no harm
    with pytest.raises(Conflict, match="router-2 is the last"):
        await drain("router-2")
    await drain("router-1", "false")
    await drain("router-2")
    with pytest.raises(Conflict, match="router-1 is the last"):
        await drain("router-1")


async def test_the_last_router_of_edges_is_not_removed(plant: Mill):
    remove = plant.actions.remove_object
    await plant.actions.add_router(ADMIN, r.NewRouter(name="waiting", address="192.0.2.9:7443"))
    with pytest.raises(Conflict, match=r"router-1 is the last router .* no edge would hear"):
        await remove(ADMIN, "router", "router-1")
    await plant.controller.router("router-2", "192.0.2.2:7443")
    await remove(ADMIN, "router", "router-1")
    await remove(ADMIN, "router", "waiting")  # no edge knows it
    with pytest.raises(Conflict, match="router-2 is the last"):
        await remove(ADMIN, "router", "router-2")
    for edge in ("edge-a", "edge-b"):
        await plant.actions.revoke(ADMIN, r.Revoke(kind="edge", name=edge, reason="sold"))
    await remove(ADMIN, "router", "router-2")  # nobody is left whom it could strand


async def test_an_edge_is_not_offered_where_a_router_is_asked_for(plant: Mill):
    for kind, name in (("router", "edge-a"), ("edge", "router-1")):
        with pytest.raises(NotFound, match=f"there is no {kind} '{name}'") as caught:
            await plant.actions.show_object(ADMIN, kind, name)
        assert f"mean {name}" not in str(caught.value)


async def test_a_revoked_router_is_removed_though_it_is_the_last(plant: Mill):
    await plant.actions.revoke(ADMIN, r.Revoke(kind="router", name="router-1", reason="stolen"))
    await plant.actions.remove_object(ADMIN, "router", "router-1")
