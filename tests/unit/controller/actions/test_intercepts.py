"""Intercepts: made, changed, removed; what contradicts what is found when it is made; what edges are told."""

import pytest

from controller.actions import assigned, intercepts
from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.errors import Conflict, Invalid, NotFound, TooMany
from edge.intercept.table import Table
from overlay import limits
from overlay.errors import InputError
from overlay.policy.interception import Pools
from overlay.wire.bodies import STREAM
from tests.support.controllers import ADMIN, Mill


async def add(plant: Mill, target: str = "plc-b", *addresses: str, **more: object) -> t.Intercept:
    new = {"edge": "edge-a", "target": target, "addresses": addresses} | more
    return await plant.actions.add_intercept(ADMIN, r.NewIntercept(**new))  # type: ignore[arg-type]


async def change(plant: Mill, kind: str, name: str, **changes: str | tuple[str, ...]) -> t.Result:
    return await plant.actions.set_object(ADMIN, kind, name, r.Changes(changes=changes))


async def asset(plant: Mill, name: str, port: int, address: str, edge: str = "edge-b") -> None:
    await plant.actions.add_asset(ADMIN, r.NewAsset(name=name, edges=(edge,), address=address))
    new = r.NewService(asset=name, protocol="web", port=str(port))
    await plant.actions.add_service(ADMIN, new)


async def test_an_asset_is_intercepted_by_name_and_at_addresses(plant: Mill):
    made = await add(plant, "PLC-B", "192.168.1.20", "10.7.0.0/24", as_asset="hmi-a")
    assert (made.name, made.asset, made.service, made.mode) == (
        "edge-a:plc-b",
        "plc-b",
        None,
        "auto",
    )
    assert made.addresses == ("192.168.1.20", "10.7.0.0/24")
    assert made.overlay[0] == "100.64.0.16"
    assert made.overlay[1].endswith("::10")
    assert (made.dns, made.as_asset) == ("plc-b.mill.internal", "hmi-a")
    assert await plant.controller.show("intercept", "edge-a:plc-b") == made
    assert await plant.controller.names("intercept") == ["edge-a:plc-b"]
    (last,) = await plant.actions.audit_tail(ADMIN, limit=1)
    assert (last.event, last.asset, last.reason) == (
        "object.add", "plc-b", "intercept edge-a:plc-b",
    )  # fmt: skip


async def test_the_edge_is_told_and_finds_what_was_meant(plant: Mill):
    await change(plant, "asset", "hmi-a", address="192.168.1.10", mac="00:1b:1b:aa:bb:cc")
    before = await plant.actions.assignments_for(plant.edge_a.leaf)
    assert (before.intercepts, before.behind, before.pools, before.domain) == ((), (), (), "")
    await add(plant, "plc-b", "192.168.1.0/24", as_asset="hmi-a", mode="tun")
    told = await plant.actions.assignments_for(plant.edge_a.leaf)
    assert told.domain == "mill.internal"
    table = Table(
        told.intercepts, told.behind, Pools.of(told.pools, plant.actions.anchor.digest), "edge-a"
    )
    assert table.problems == []
    verdict = table.match(
        STREAM,
        bytes((192, 168, 1, 9)),
        502,
        bytes((192, 168, 1, 10)),
        bytes.fromhex("001b1baabbcc"),
    )
    assert (verdict.service, verdict.who, verdict.mode) == ("plc-b.modbus", "hmi-a", 1)
    assert table.match(STREAM, bytes((100, 64, 0, 16)), 502).service == "plc-b.modbus"
    other = await plant.actions.assignments_for(plant.edge_b.leaf)
    assert (other.intercepts, other.behind) == ((), ())


async def test_a_service_is_intercepted_alone_or_besides_its_asset(plant: Mill):
    await plant.actions.add_service(ADMIN, r.NewService(asset="plc-b", protocol="s7"))
    one = await add(plant, "plc-b.modbus", as_asset="hmi-a")
    assert (one.name, one.service) == ("edge-a:plc-b.modbus", "plc-b.modbus")
    await add(plant, "plc-b")
    told = await plant.actions.assignments_for(plant.edge_a.leaf)
    assert [(len(entry.services), entry.exact) for entry in told.intercepts] == [
        (2, False), (1, True),
    ]  # fmt: skip


async def test_an_address_stays_with_an_asset_and_is_not_given_again(plant: Mill):
    await asset(plant, "plc-c", 80, "192.168.1.21")
    first, second = await add(plant), await add(plant, "plc-c")
    assert (first.overlay[0], second.overlay[0]) == ("100.64.0.16", "100.64.0.17")
    await plant.actions.remove_object(ADMIN, "intercept", second.name)
    assert (await add(plant, "plc-c")).overlay == second.overlay
    assert (await add(plant, "plc-c", edge="edge-b")).overlay == second.overlay
    for name in ("edge-a:plc-c", "edge-b:plc-c"):
        await plant.actions.remove_object(ADMIN, "intercept", name)
    for kind, name in (("service", "plc-c.web"), ("asset", "plc-c")):
        await plant.actions.remove_object(ADMIN, kind, name)
    await asset(plant, "plc-d", 80, "192.168.1.22")
    assert (await add(plant, "plc-d")).overlay[0] == "100.64.0.18"


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"edge": "nobody"}, NotFound, "nobody"),
        ({"target": "nothing"}, NotFound, "nothing"),
        ({"target": "plc-b.s7"}, NotFound, "plc-b.s7"),
        ({"target": "a.b.c"}, InputError, "ASSET.PROTOCOL"),
        ({"mode": "magic"}, Invalid, "auto, tun, tproxy or redirect"),
        (
            {"addresses": tuple(f"10.9.{n}.0/24" for n in range(limits.INTERCEPT_ADDRESSES + 1))},
            Invalid,
            "at most 64 addresses",
        ),
        ({"addresses": ("192.0.2.0/24",)}, Conflict, "router-1 is at 192.0.2.1"),
        ({"addresses": ("192.168.1.20/24",)}, InputError, "bits beside"),
        ({"addresses": ("127.0.0.1",)}, InputError, "no ordinary"),
        ({"addresses": ("100.64.9.9",)}, Conflict, "lies in the pool"),
        ({"as_asset": "plc-b"}, Conflict, "does not stand behind edge-a"),
        ({"edge": "edge-b", "addresses": ("192.168.1.0/24",)}, Conflict, "dials plc-b at 192.168.1.20"),
    ],
)  # fmt: skip
async def test_an_intercept_that_cannot_be_is_refused(plant: Mill, change, error, named):
    new = {"edge": "edge-a", "target": "plc-b"} | change
    with pytest.raises(error, match=named):
        await plant.actions.add_intercept(ADMIN, r.NewIntercept(**new))
    assert await plant.controller.names("intercept") == []


async def test_two_services_at_one_place_contradict_each_other(plant: Mill):
    await asset(plant, "plc-c", 502, "192.168.1.21")
    await add(plant, "plc-b", "10.7.0.0/24")
    with pytest.raises(
        Conflict, match=r"plc-b\.modbus and plc-c\.web .* at 10\.7\.0\.0/24 tcp port 502"
    ):
        await add(plant, "plc-c", "10.7.0.0/24")
    await add(plant, "plc-c", "10.7.0.9")  # more specific
    with pytest.raises(Conflict, match="exists already"):
        await add(plant, "plc-c")
    with pytest.raises(Conflict, match="both be intercepted at 10"):
        await change(plant, "intercept", "edge-a:plc-c", address=("10.7.0.0/24",))
    await change(plant, "service", "plc-c.web", port="503")
    await change(plant, "intercept", "edge-a:plc-c", address=("10.7.0.0/24",))
    with pytest.raises(Conflict, match="both be intercepted"):
        await change(plant, "service", "plc-c.web", port="502")
    with pytest.raises(Conflict, match="both be intercepted"):
        await plant.actions.add_service(ADMIN, r.NewService(asset="plc-c", protocol="modbus"))


async def test_what_an_edge_dials_later_must_not_be_intercepted_there(plant: Mill):
    await add(plant, "plc-b", "10.7.0.0/24")
    with pytest.raises(Conflict, match=r"edge-a dials near at 10\.7\.0\.5 itself"):
        await asset(plant, "near", 80, "10.7.0.5", edge="edge-a")
    await change(plant, "asset", "near", address="10.8.0.5")
    await plant.actions.add_service(ADMIN, r.NewService(asset="near", protocol="http"))
    with pytest.raises(Conflict, match="come back to it"):
        await change(plant, "asset", "near", address="10.7.0.6")


async def test_what_an_edge_dials_must_not_lie_in_its_own_pool(plant: Mill):
    await asset(plant, "near", 80, "100.64.9.9", edge="edge-a")  # nothing is intercepted there yet
    words = (
        r"edge-a dials near at 100\.64\.9\.9 itself, .* pool of overlay addresses, 100\.64\.0\.0/10"
    )
    with pytest.raises(Conflict, match=words):
        await add(plant, "plc-b")
    await change(plant, "edge", "edge-a", pool=("198.18.0.0/16",))
    await add(plant, "plc-b")
    with pytest.raises(Conflict, match="edge-a pool=SUBNET"):
        await change(plant, "asset", "near", address="198.18.3.4")
    await change(plant, "asset", "near", address="fd00:7::9")
    with pytest.raises(Conflict, match="come back to it"):
        await change(plant, "edge", "edge-a", pool=("fd00:7::/64",))


async def test_an_edge_that_dials_a_program_of_its_own_host_may_intercept(plant: Mill):
    for name, address in (("here", "127.0.0.1"), ("next", "169.254.7.9"), ("six", "fe80::9")):
        await asset(plant, name, 80, address, edge="edge-a")
    assert (await add(plant, "plc-b", "10.7.0.0/24")).name == "edge-a:plc-b"
    await change(plant, "edge", "edge-a", pool=("198.18.0.0/16",))


async def test_a_router_is_not_put_where_an_edge_intercepts(plant: Mill):
    await add(plant, "plc-b", "10.7.0.0/24")
    words = r"router router-2 is at 10\.7\.0\.5, so edge-a:plc-b cannot intercept 10\.7\.0\.0/24"
    with pytest.raises(Conflict, match=words):
        await plant.actions.add_router(ADMIN, r.NewRouter(name="router-2", address="10.7.0.5:7443"))
    with pytest.raises(Conflict, match="lose its way"):
        await change(plant, "router", "router-1", address="10.7.0.6:7443")


async def test_pools_are_an_edges_own(plant: Mill):
    await add(plant, "plc-b", "10.7.0.0/24")
    edge = await change(plant, "edge", "edge-a", pool=("198.18.0.0/16",))
    assert edge.pools[0] == "198.18.0.0/16"  # type: ignore[attr-defined]
    assert (await plant.controller.show("intercept", "edge-a:plc-b")).overlay[0] == "198.18.0.16"
    for pool, words in (("10.7.0.0/16", "lies in the pool"), ("10.0.0.0/30", "too small"),
                        ("x", "no address or subnet")):  # fmt: skip
        with pytest.raises((Conflict, InputError), match=words):
            await change(plant, "edge", "edge-a", pool=(pool,))
    await change(plant, "edge", "edge-a", pool="")
    assert (await plant.controller.show("edge", "edge-a")).pools[0] == "100.64.0.0/10"
    made = await plant.actions.add_edge(ADMIN, r.NewEdge(name="e", pools=("fd00:7::/64",)))
    assert made.pools == ("100.64.0.0/10", "fd00:7::/64")


async def test_it_is_changed_and_what_depends_on_what_is_said(plant: Mill):
    await add(plant, as_asset="hmi-a")
    made = await change(plant, "intercept", "edge-a:plc-b", mode="tun", address=("10.1.0.1",))
    assert (made.mode, made.addresses, made.as_asset) == ("tun", ("10.1.0.1",), "hmi-a")  # type: ignore[attr-defined]
    cleared = await change(plant, "intercept", "edge-a:plc-b", address=(), **{"as": ""})
    assert (cleared.addresses, cleared.as_asset) == ((), None)  # type: ignore[attr-defined]
    await change(plant, "intercept", "edge-a:plc-b", **{"as": "hmi-a"})
    with pytest.raises(Conflict, match="does not stand behind"):
        await change(plant, "intercept", "edge-a:plc-b", **{"as": "plc-b"})
    for kind, name in (("asset", "plc-b"), ("asset", "hmi-a"), ("edge", "edge-a")):
        with pytest.raises(Conflict, match="intercept"):
            await plant.actions.remove_object(ADMIN, kind, name)
    with pytest.raises(Conflict, match="intercept edge-a:plc-b counts as hmi-a"):
        listener = (await plant.controller.names("listener"))[0]
        await plant.actions.remove_object(ADMIN, "listener", listener)
        await change(plant, "asset", "hmi-a", edge=("edge-b",))
    await plant.actions.remove_object(ADMIN, "intercept", "edge-a:plc-b")
    assert await plant.controller.names("intercept") == []


async def test_an_edge_is_told_of_no_more_devices_than_its_message_holds(
    plant: Mill, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(assigned, "PER_EDGE", 2)
    await change(plant, "asset", "hmi-a", address="192.168.1.10")
    for number in range(3):
        await asset(plant, f"hmi-{number}", 80, f"192.168.2.{number + 1}", edge="edge-a")
    await add(plant)
    told = await plant.actions.assignments_for(plant.edge_a.leaf)
    assert [one.asset for one in told.behind] == ["hmi-0", "hmi-1"]
    assert len(told.intercepts) == 1


async def test_an_edge_has_bounds(plant: Mill, monkeypatch: pytest.MonkeyPatch):
    await asset(plant, "plc-c", 80, "192.168.1.21")
    monkeypatch.setattr(intercepts, "PER_EDGE", 1)
    with pytest.raises(TooMany, match="at most 1 addresses"):
        await add(plant, "plc-b", "10.1.0.1", "10.1.0.2")
    await add(plant, "plc-b")
    with pytest.raises(TooMany, match="at most 1 intercepts"):
        await add(plant, "plc-c")
    with pytest.raises(TooMany, match="at most 1 intercepted services"):
        await plant.actions.add_service(ADMIN, r.NewService(asset="plc-b", protocol="s7"))
    with pytest.raises(Invalid, match="at most 64"):
        intercepts.parse_places([f"10.0.0.{n}" for n in range(65)])
