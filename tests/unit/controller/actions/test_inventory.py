"""Adding: names, what must exist, limits; each refusal changes nothing."""

import pytest

from controller.actions import checks
from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.addresses import overlap
from controller.actions.errors import Conflict, Invalid, NotFound, TooMany, Unsupported
from controller.store.tables import ZoneRow
from overlay import limits
from overlay.errors import InputError
from overlay.identity.certificate import Role
from overlay.identity.enrolment import Token
from tests.support.controllers import ADMIN, Controller, Mill
from tests.support.pki import NOW


async def test_zones_nest_and_names_are_case_insensitive(made: Controller):
    actions = made.actions
    outer = await actions.add_zone(ADMIN, r.NewZone(name="Plant-Floor", level=3))
    inner = await actions.add_zone(ADMIN, r.NewZone(name="cell-1", sl=2, parent="PLANT-floor"))
    assert outer == t.Zone(name="plant-floor", level=3, sl=None, parent=None)
    assert inner.parent == "plant-floor"
    assert await actions.list_objects(ADMIN, "zone") == [inner, outer]
    with pytest.raises(Conflict, match="taken by a zone"):
        await actions.add_zone(ADMIN, r.NewZone(name="CELL-1"))


@pytest.mark.parametrize("name", ["", "-a", "a_b", "a" * 64, "a b", "ä", "a.b"])
async def test_a_name_that_cannot_be_one_is_refused(made: Controller, name: str):
    with pytest.raises(InputError):
        await made.actions.add_zone(ADMIN, r.NewZone(name=name))
    assert await made.actions.list_objects(ADMIN, "zone") == []


async def test_there_is_one_namespace(plant: Mill):
    for name in ("edge-a", "router-1", "plc-b", "ada", "controller"):
        with pytest.raises(Conflict, match="is taken by a"):
            await plant.actions.add_zone(ADMIN, r.NewZone(name=name))


async def test_a_parent_must_exist(made: Controller):
    with pytest.raises(NotFound, match="no zone 'nowhere'"):
        await made.actions.add_zone(ADMIN, r.NewZone(name="a", parent="nowhere"))
    await made.actions.add_zone(ADMIN, r.NewZone(name="a"))  # the name was not used up


async def test_a_router_comes_with_a_token_of_its_own(made: Controller):
    added = await made.actions.add_router(
        ADMIN, r.NewRouter(name="R1", address="Router.Example:7443")
    )
    token = Token.parse(added.token)
    assert (token.plant, token.role, token.name) == ("mill", Role.ROUTER, "r1")
    assert token.expires == NOW + 86_400 * 1_000_000
    assert token.anchor == made.actions.anchor
    assert token.routers == ()
    assert added.address == "router.example:7443"
    assert (added.state, added.generation) == ("waiting", 0)


@pytest.mark.parametrize(
    "address",
    ["nowhere", "1.2.3.4", "1.2.3.4:0", "1.2.3.4:65536", ":1", "[::1:5", "a b:1", "1.2.3:4"],
)
async def test_a_routers_address_is_host_and_port(made: Controller, address: str):
    with pytest.raises(Invalid):
        await made.actions.add_router(ADMIN, r.NewRouter(name="r1", address=address))


async def test_routers_dial_routers_that_exist(made: Controller):
    actions = made.actions
    await actions.add_router(ADMIN, r.NewRouter(name="r1", address="192.0.2.1:1"))
    second = await actions.add_router(
        ADMIN, r.NewRouter(name="r2", address="[2001:DB8::1]:1", dials=("R1",))
    )
    assert second.dials == ("r1",)
    assert Token.parse(second.token).routers == ("192.0.2.1:1",)
    assert second.address == "[2001:db8::1]:1"
    with pytest.raises(NotFound, match="r9"):
        await actions.add_router(
            ADMIN, r.NewRouter(name="r3", address="192.0.2.3:1", dials=("r9",))
        )
    with pytest.raises(Invalid, match="itself"):
        await actions.add_router(
            ADMIN, r.NewRouter(name="r3", address="192.0.2.3:1", dials=("r3",))
        )
    with pytest.raises(Conflict, match="already the address of router r1"):
        await actions.add_router(ADMIN, r.NewRouter(name="r3", address="192.0.2.1:1"))


async def test_an_edge_needs_a_router_to_dial(made: Controller):
    with pytest.raises(Conflict, match="no router"):
        await made.actions.add_edge(ADMIN, r.NewEdge(name="edge-a"))
    await made.actions.add_router(ADMIN, r.NewRouter(name="r1", address="192.0.2.1:1"))
    added = await made.actions.add_edge(ADMIN, r.NewEdge(name="edge-a"))
    assert Token.parse(added.token).routers == ("192.0.2.1:1",)
    with pytest.raises(NotFound, match="nowhere"):
        await made.actions.add_edge(ADMIN, r.NewEdge(name="edge-b", zone="nowhere"))


async def test_a_fresh_token_makes_the_older_one_worthless(made: Controller):
    added = await made.actions.add_router(ADMIN, r.NewRouter(name="r1", address="192.0.2.1:1"))
    fresh = await made.actions.make_token(ADMIN, "router", "R1")
    assert Token.parse(fresh.token).secret != Token.parse(added.token).secret
    with pytest.raises(NotFound):
        await made.actions.make_token(ADMIN, "edge", "r1")
    with pytest.raises(Exception, match="unknown, used, expired"):
        await made.enrol(added.token)
    assert (await made.enrol(fresh.token)).leaf.identity.name == "r1"


async def test_an_asset_stands_behind_edges_in_their_order(plant: Mill):
    made = await plant.actions.add_asset(
        ADMIN,
        r.NewAsset(
            name="drive-1",
            edges=("edge-b:2:30", "edge-a:1"),
            address="10.0.0.5",
            mac="00-1B-1b-AA-bb-cc",
            tags=("robots", "Robots", "line-2"),
        ),
    )
    assert [(one.edge, one.priority, one.weight) for one in made.edges] == [
        ("edge-a", 1, 0),
        ("edge-b", 2, 30),
    ]
    assert made.mac == "00:1b:1b:aa:bb:cc"
    assert made.tags == ("line-2", "robots")


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"edges": ("nobody",)}, NotFound, "nobody"),
        ({"edges": ("router-1",)}, NotFound, "router-1"),
        ({"edges": ("edge-b:first",)}, Invalid, "first"),
        ({"edges": ("edge-b:1:2:3",)}, Invalid, "WEIGHT"),
        ({"edges": ("edge-b:1:1001",)}, Invalid, "1000"),
        ({"edges": ("edge-b", "edge-b:1")}, Invalid, "twice"),
        ({"address": "plc.example"}, Invalid, "plc.example"),
        ({"address": "10.0.0.1/24"}, Invalid, "zeros behind"),
        ({"address": "10.0.0.0/8"}, Invalid, "65536"),
        ({"address": "0.0.0.0/0"}, Invalid, "65536"),
        ({"address": "127.0.0.0/24"}, Invalid, "no subnet of devices"),
        ({"address": "224.0.0.0/24"}, Invalid, "no subnet of devices"),
        ({"address": "0.0.0.0"}, Invalid, "0.0.0.0"),
        ({"address": "224.0.0.1"}, Invalid, "224.0.0.1"),
        ({"mac": "12"}, Invalid, "12"),
        ({"mac": "01:00:5e:00:00:01"}, Invalid, "group"),
        ({"zone": "nowhere"}, NotFound, "nowhere"),
        ({"tags": ("a_b",)}, InputError, "a_b"),
        ({"tags": [f"t{n}" for n in range(r.TAGS + 1)]}, Invalid, "at most 64 tags"),
        ({"edges": [f"e{n}" for n in range(limits.GRANT_HOSTS + 1)]}, Invalid, "1 to 16 edges"),
        ({"edges": (f"edge-b:{checks.MAX_PRIORITY + 1}",)}, Invalid, "up to 1000"),
    ],
)  # fmt: skip
async def test_an_asset_that_cannot_be_is_refused(plant: Mill, change, error, named):
    new = {"name": "drive-1", "edges": ("edge-b",)} | change
    with pytest.raises(error, match=named):
        await plant.actions.add_asset(ADMIN, r.NewAsset(**new))
    assert await plant.controller.names("asset") == ["hmi-a", "plc-b"]


async def test_a_known_protocol_needs_no_port(plant: Mill):
    actions = plant.actions
    shown = await plant.controller.show("service", "plc-b.modbus")
    assert (shown.port, shown.port_end, shown.transport) == (502, 502, "tcp")
    snmp = await actions.add_service(ADMIN, r.NewService(asset="plc-b", protocol="snmp"))
    assert (snmp.port, snmp.transport) == (161, "udp")
    custom = await actions.add_service(
        ADMIN, r.NewService(asset="plc-b", protocol="own", port="5000-5003", transport="udp")
    )
    assert (custom.name, custom.port, custom.port_end) == ("plc-b.own", 5000, 5003)


@pytest.mark.parametrize(
    ("new", "error", "named"),
    [
        (r.NewService(asset="plc-b", protocol="modbuss"), InputError, "modbus"),
        (r.NewService(asset="plc-b", protocol="own"), InputError, "own"),
        (r.NewService(asset="plc-b", protocol="own", port="0"), InputError, "0"),
        (r.NewService(asset="plc-b", protocol="own", port="9-5"), InputError, "9-5"),
        (r.NewService(asset="plc-x", protocol="modbus"), NotFound, "plc-b"),
        (r.NewService(asset="plc-b", protocol="modbus"), Conflict, "exists"),
        (r.NewService(asset="hmi-a", protocol="http"), Conflict, "no address"),
    ],
)
async def test_a_service_that_cannot_be_is_refused(plant: Mill, new, error, named):
    with pytest.raises(error, match=named):
        await plant.actions.add_service(ADMIN, new)


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"edge": "edge-x"}, NotFound, "edge-a"),
        ({"service": "plc-b.s7"}, NotFound, "plc-b"),
        ({"service": "plc-b"}, InputError, "plc-b"),
        ({"listen": "127.0.0.1:15020"}, Conflict, "plc-b.modbus"),
        ({"listen": "0.0.0.0:15020"}, Conflict, "include each other"),
        ({"listen": "[::]:15020"}, Conflict, "include each other"),
        ({"listen": "localhost:15021"}, Invalid, "localhost"),
        ({"listen": "127.0.0.1:0"}, Invalid, "port"),
        ({"as_asset": "plc-b"}, Conflict, "behind edge-a"),
        ({"as_asset": "nobody"}, NotFound, "nobody"),
    ],
)
async def test_a_listener_that_cannot_be_is_refused(plant: Mill, change, error, named):
    new = {"edge": "edge-a", "service": "plc-b.modbus", "listen": "127.0.0.1:15021"} | change
    with pytest.raises(error, match=named):
        await plant.actions.add_listener(ADMIN, r.NewListener(**new))


async def test_a_listener_cannot_lead_to_a_range_of_ports_yet(plant: Mill):
    await plant.actions.add_service(ADMIN, r.NewService(asset="plc-b", protocol="own", port="5-9"))
    new = r.NewListener(edge="edge-a", service="plc-b.own", listen="127.0.0.1:15021")
    with pytest.raises(Unsupported, match="5-9"):
        await plant.actions.add_listener(ADMIN, new)


async def test_a_listener_is_named_by_its_place(plant: Mill):
    await plant.actions.add_service(ADMIN, r.NewService(asset="plc-b", protocol="snmp"))
    new = r.NewListener(edge="edge-a", service="plc-b.snmp", listen="127.0.0.1:15020")
    assert (await plant.actions.add_listener(ADMIN, new)).name == "edge-a:127.0.0.1:15020:udp"
    assert await plant.controller.names("listener") == [
        "edge-a:127.0.0.1:15020",
        "edge-a:127.0.0.1:15020:udp",
    ]


async def test_a_full_kind_takes_no_more(made: Controller, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "OBJECTS", checks.OBJECTS | {ZoneRow: 2})
    for name in ("a", "b"):
        await made.actions.add_zone(ADMIN, r.NewZone(name=name))
    with pytest.raises(TooMany, match="at most 2"):
        await made.actions.add_zone(ADMIN, r.NewZone(name="c"))


async def test_an_edge_has_bounds(plant: Mill, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "PER_EDGE", 1)
    with pytest.raises(TooMany, match="hosts at most 1"):
        await plant.actions.add_service(ADMIN, r.NewService(asset="plc-b", protocol="s7"))
    new = r.NewListener(edge="edge-a", service="plc-b.modbus", listen="127.0.0.1:15021")
    with pytest.raises(TooMany, match="at most 1 listener"):
        await plant.actions.add_listener(ADMIN, new)


async def test_a_map_holds_so_many_routers(made: Controller, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(checks, "ROUTERS", 1)
    await made.actions.add_router(ADMIN, r.NewRouter(name="r1", address="192.0.2.1:1"))
    with pytest.raises(TooMany, match="at most 1 router"):
        await made.actions.add_router(ADMIN, r.NewRouter(name="r2", address="192.0.2.2:1"))


async def test_a_router_dials_so_many_others(made: Controller):
    every = [f"r{number}" for number in range(limits.ROUTER_DIALS + 1)]
    new = r.NewRouter(name="r", address="192.0.2.1:1", dials=every)  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="at most 64 others"):
        await made.actions.add_router(ADMIN, new)
    assert await made.names("router") == []


@pytest.mark.parametrize("kind", ["user", "request", "session"])
async def test_kinds_of_later_builds_are_refused_as_such(made: Controller, kind: str):
    with pytest.raises(Unsupported, match=kind):
        await made.actions.list_objects(ADMIN, kind)


async def test_what_is_no_kind_is_said(made: Controller):
    with pytest.raises(Invalid, match="did you mean router"):
        await made.actions.list_objects(ADMIN, "ruter")
    with pytest.raises(NotFound, match="nobody"):
        await made.actions.show_object(ADMIN, "edge", "nobody")


async def test_an_object_has_one_kind(plant: Mill):
    with pytest.raises(NotFound):
        await plant.actions.show_object(ADMIN, "edge", "router-1")
    assert (await plant.controller.show("router", "ROUTER-1")).name == "router-1"


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ("0.0.0.0:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("[::]:1", "127.0.0.1:1", True),
        ("[::]:1", "[::1]:1", True),
        ("0.0.0.0:1", "127.0.0.1:11", False),
        ("0.0.0.0:1", "[::1]:1", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
    ],
)
def test_addresses_that_include_each_other(one: str, other: str, both: bool):
    assert overlap(one, other) is overlap(other, one) is both


async def test_a_listener_may_move_to_an_address_that_includes_its_own(plant: Mill):
    await plant.actions.set_object(
        ADMIN, "listener", "edge-a:127.0.0.1:15020", r.Changes(changes={"listen": "0.0.0.0:15020"})
    )
    assert await plant.controller.names("listener") == ["edge-a:0.0.0.0:15020"]
