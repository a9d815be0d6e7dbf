"""What hangs on a single thread, and how long hops take."""

from collections.abc import Mapping

from controller.actions.paths import connected_links, single_paths
from controller.actions.presence import Presence
from overlay.policy.model import Asset, Edge, NodeState, Plant, Service

UP = NodeState.CONNECTED
EDGES = (Edge("edge-a", None, UP), Edge("edge-b", None, UP), Edge("edge-c", None, NodeState.LOST))
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


def texts(routers: list[str], links: Mapping[str, frozenset[str] | None]) -> list[tuple[str, str]]:
    found = single_paths(PLANT, routers, connected_links(PLANT, links))
    return [(one.kind, one.name) for one in found]


def test_an_edge_with_one_link_and_an_asset_with_one_edge_left():
    links = {"edge-a": BOTH, "edge-b": frozenset({"router-1"}), "edge-c": BOTH}
    assert texts(sorted(BOTH), links) == [("edge", "edge-b"), ("service", "plc-b")]
    assert texts(sorted(BOTH), {"edge-a": BOTH, "edge-b": BOTH}) == [("service", "plc-b")]


def test_a_single_router_is_said_once():
    links = dict.fromkeys(("edge-a", "edge-b"), frozenset({"router-1"}))
    assert texts(["router-1"], links) == [("plant", "mill"), ("service", "plc-b")]


def test_a_hop_takes_what_either_end_measured():
    presence = Presence()
    for name, role in (("edge-a", "edge"), ("router-1", "router")):
        presence.connected(name, role, 1, "1", 1, 0)
    assert presence.trip("edge-a", "router-1") is None
    presence.measured("edge-a", {"router-1": 0})
    assert presence.trip("router-1", "edge-a") is None
    presence.measured("edge-a", {"router-1": 1500})
    assert presence.trip("router-1", "edge-a") == presence.trip("edge-a", "router-1") == 1.5
    presence.measured("stranger", {"router-1": 7})
    assert presence.trip("stranger", "router-1") is None
