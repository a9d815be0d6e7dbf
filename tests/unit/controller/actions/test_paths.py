"""What hangs on a single thread, and how long hops take."""

import json
from collections.abc import Mapping, Sequence

from controller.actions.paths import connected_links, single_paths
from controller.actions.presence import Presence
from overlay.audit.event import EventName, Outcome
from overlay.policy.model import Asset, Edge, NodeState, Plant, Service
from tests.support.controllers import ADMIN, Mill

SEEN = NodeState.WAITING
EDGES = (
    Edge("edge-a", None, SEEN), Edge("edge-b", None, SEEN), Edge("edge-c", None, NodeState.REVOKED)
)  # fmt: skip
PLANT = Plant(
    name="mill",
    time_zone="UTC",
    zones=(),
    edges=EDGES,
    assets=(Asset("plc-b", ("edge-b", "edge-c")), Asset("hmi-a", ("edge-a",))),
    users=(),
    routers=("router-1", "router-2"),
    services=(Service("plc-b", "modbus", 502, 502),),
    conduits=(),
    kills=(),
)
BOTH = frozenset({"router-1", "router-2"})


JOINED = {"router-1": frozenset({"router-2"}), "router-2": frozenset({"router-1"})}


def texts(
    routers: list[str],
    links: Mapping[str, frozenset[str] | None],
    between: Mapping[str, frozenset[str]] = JOINED,
) -> list[tuple[str, str]]:
    found = single_paths(PLANT, routers, connected_links(PLANT, links), between)
    return [(one.kind, one.name) for one in found]


def test_an_edge_with_one_link_and_an_asset_with_one_edge_left():
    links = {"edge-a": BOTH, "edge-b": frozenset({"router-1"}), "edge-c": BOTH}
    assert texts(sorted(BOTH), links) == [("edge", "edge-b"), ("service", "plc-b")]
    assert texts(sorted(BOTH), {"edge-a": BOTH, "edge-b": BOTH}) == [("service", "plc-b")]


def test_a_single_router_is_said_once():
    links = dict.fromkeys(("edge-a", "edge-b"), frozenset({"router-1"}))
    assert texts(["router-1"], links) == [("plant", "mill"), ("service", "plc-b")]


def rank(*names: str) -> frozenset[str]:
    return frozenset(names)


def test_a_router_that_alone_joins_two_edges_is_named():
    """Three ranks of two routers: with one left in the middle all goes through it, though no edge is next to it."""
    links = {"edge-a": rank("r1", "r2"), "edge-b": rank("r5", "r6")}
    middle = {name: rank("r3", "r4") for name in ("r1", "r2", "r5", "r6")}
    between = middle | dict.fromkeys(("r3", "r4"), rank("r1", "r2", "r5", "r6"))
    service = ("service", "plc-b")
    assert texts(sorted(between), links, between) == [service]
    left = {name: near - {"r4"} for name, near in between.items() if name != "r4"}
    assert texts(sorted(left), links, left) == [("router", "r3"), service]
    # An edge's only router is said of the edge, and plants that are in two parts have no joint.
    assert texts(["r1", "r2"], {"edge-a": rank("r1"), "edge-b": rank("r1", "r2")}, {}) == [
        ("edge", "edge-a"),
        service,
    ]
    assert texts(["r1", "r2"], {"edge-a": rank("r1"), "edge-b": rank("r2")}, {}) == [
        ("edge", "edge-a"),
        ("edge", "edge-b"),
        service,
    ]


def test_a_hop_takes_what_either_end_said_last():
    presence = Presence()
    for name, role in (("edge-a", "edge"), ("router-1", "router")):
        presence.connected(name, role, 1, "1", 1, 0)
    assert presence.trip("edge-a", "router-1") is None
    presence.told("edge-a", {"router-1": 0}, 1)
    assert presence.trip("router-1", "edge-a") is None
    presence.told("edge-a", {"router-1": 1500, "router-2": 7}, 2)
    assert presence.trip("router-1", "edge-a") == presence.trip("edge-a", "router-1") == (1500, 2)
    presence.measured("edge-a", {"router-1": 1700}, 3)
    assert presence.trip("edge-a", "router-1") == (1700, 3)
    assert presence.trip("edge-a", "router-2") == (7, 2)
    presence.told("router-1", {"edge-a": 9}, 4)
    assert presence.trip("edge-a", "router-1") == (9, 4)
    presence.told("edge-a", {"router-1": 1600}, 5)
    assert presence.trip("edge-a", "router-1") == (1600, 5)
    assert presence.trip("edge-a", "router-2") is None, "all that it said before is replaced"
    presence.told("stranger", {"router-1": 7}, 6)
    assert presence.trip("stranger", "router-1") is None


async def test_a_trace_is_measured_by_the_nodes_on_the_path(plant: Mill):
    """K-12."""
    actions = plant.actions
    path = ("edge-a", "router-1", "router-2", "edge-b")
    event = plant.edge_b.event(
        EventName.CIRCUIT_OPEN, Outcome.ALLOWED, who="hmi-a", via="edge-a", asset="plc-b",
        service="plc-b.modbus", address="192.168.1.20:502", conduit="c1", circuit="ab" * 16,
        detail=json.dumps({"path": path}),
    )  # fmt: skip
    await actions.record_events(plant.edge_b.leaf, plant.edge_b.numbers, [event])
    await plant.edge_a.connect()
    await plant.edge_b.connect()
    actions.node_links("edge-a", ("router-1",), (9000,))
    actions.node_links("edge-b", ("router-2",), (8000,))
    plant.controller.pass_(4)
    found = await actions.trace(ADMIN, "ab" * 16)
    assert [(hop.round_trip_ms, hop.age) for hop in found.hops] == [(9, 4), (None, None), (8, 4)]
    assert found.round_trip_ms is None
    asked = {}

    async def measure(node: str, routers: Sequence[str]) -> dict[str, int]:
        asked[node] = tuple(routers)
        return {"router-1": 1500} if node == "edge-a" else {}

    actions.measure = measure
    found = await actions.trace(ADMIN, "ab" * 16)
    assert asked == {
        "edge-a": ("router-1",), "router-1": ("router-2",), "router-2": ("router-1",),
        "edge-b": ("router-2",),
    }  # fmt: skip
    assert [(hop.round_trip_ms, hop.age) for hop in found.hops] == [(1.5, 0), (None, None), (8, 4)]
    closed = plant.edge_b.event(EventName.CIRCUIT_CLOSE, Outcome.DONE, circuit="ab" * 16)
    await actions.record_events(plant.edge_b.leaf, plant.edge_b.numbers, [closed])
    asked.clear()
    found = await actions.trace(ADMIN, "ab" * 16)
    assert found.ended
    assert found.hops[0].round_trip_ms == 1.5
    assert asked == {}, "nobody is asked about a path of the past"
