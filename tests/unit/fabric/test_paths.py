"""Attachments (F-10) and the choice of host and route (F-11 to F-13)."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.errors import DecodeError, LimitError, TrustError
from overlay.fabric import paths
from overlay.fabric.authority import FabricMap, RouterEntry
from overlay.fabric.paths import Attachments, Topology, choose_route
from overlay.identity.certificate import Role
from overlay.identity.trust import sign_body
from overlay.wire.bodies import Attachment
from tests.support.pki import NOW, SECOND, Pki

PKI = Pki()
NODES = {name: PKI.edge(name) for name in ("edge-a", "edge-b", "edge-c")}
CONTROLLER = PKI.controller()
LIFE = int(limits.ATTACHMENT_LIFE) * SECOND


def attach(
    node: str,
    router: str,
    counter: int = 1,
    *,
    boot: int = 1,
    until: int = NOW + LIFE,
    down=(),
    by=None,
) -> bytes:
    by = by or NODES[node]
    body = Attachment(node, router, boot, counter, until, tuple(down))
    return sign_body(body, by.key, PKI.anchor, by.chain)


@pytest.fixture
def known() -> Attachments:
    return Attachments(PKI.signers())


def routers(known: Attachments, node: str, now: int = NOW) -> set[str]:
    return {one.body.router for one in known.routers_of(node, now)}


def fabric(*dials: tuple[str, ...]) -> FabricMap:
    return FabricMap(1, tuple(RouterEntry(name, "h:1", tuple(to)) for name, *to in dials))


def test_a_node_may_be_attached_in_several_places(known):
    assert known.offer(attach("edge-a", "router-1"), NOW) is not None
    assert known.offer(attach("edge-a", "router-2"), NOW) is not None
    assert routers(known, "edge-a") == {"router-1", "router-2"}


def test_newer_wins_and_older_is_no_news(known):
    known.offer(attach("edge-a", "router-1", 5), NOW)
    assert known.offer(attach("edge-a", "router-1", 5), NOW) is None
    assert known.offer(attach("edge-a", "router-1", 4, until=NOW + 2 * LIFE), NOW) is None
    assert known.offer(attach("edge-a", "router-1", 1, boot=2), NOW) is not None
    assert known.offer(attach("edge-a", "router-1", 9), NOW) is None


def test_a_node_that_was_enrolled_anew_counts_from_the_start(known):
    known.offer(attach("edge-a", "router-1", 5, boot=50), NOW)
    again = PKI.node(Role.EDGE, "edge-a", generation=2)
    assert known.offer(attach("edge-a", "router-1", 1, boot=1, by=again), NOW) is not None
    assert known.offer(attach("edge-a", "router-1", 9, boot=99), NOW) is None


@pytest.mark.parametrize("by", [NODES["edge-b"], PKI.router("router-1"), CONTROLLER])
def test_only_the_node_itself_says_where_it_is(known, by):
    with pytest.raises(TrustError):
        known.offer(attach("edge-a", "router-1", by=by), NOW)


def test_a_router_does_not_attach(known):
    router = PKI.router("router-1")
    with pytest.raises(TrustError):
        known.offer(attach("router-1", "router-1", by=router), NOW)


def test_an_attachment_ends_and_can_be_withdrawn(known):
    known.offer(attach("edge-a", "router-1", 1, until=NOW + SECOND), NOW)
    assert routers(known, "edge-a", NOW + SECOND) == set()
    known.offer(attach("edge-b", "router-1", 1), NOW)
    assert known.offer(attach("edge-b", "router-1", 2, until=NOW), NOW) is not None
    assert routers(known, "edge-b") == set()
    assert known.offer(attach("edge-b", "router-1", 1), NOW) is None, "an older one came late"


def test_a_clock_that_is_ahead_does_not_attach_for_ever(known):
    known.offer(attach("edge-a", "router-1", until=NOW + 1000 * LIFE), NOW)
    assert routers(known, "edge-a", NOW + LIFE - 1) == {"router-1"}
    assert routers(known, "edge-a", NOW + LIFE) == set()


def test_what_is_over_is_forgotten(known):
    known.offer(attach("edge-a", "router-1"), NOW)
    known.offer(attach("edge-b", "router-1"), NOW)
    known.forget("edge-b")
    assert len(known) == 1
    known.expire(NOW + 2 * LIFE)
    assert len(known) == 0


def test_routers_per_node_are_bounded(known):
    for number in range(paths.ROUTERS_PER_NODE + 1):
        known.offer(attach("edge-a", f"router-{number}", until=NOW + SECOND + number), NOW)
    assert len(known) == paths.ROUTERS_PER_NODE
    assert "router-0" not in routers(known, "edge-a")


def test_attachments_are_bounded_and_expired_ones_make_room(known, monkeypatch):
    monkeypatch.setattr(paths, "ATTACHMENTS", 2)
    known.offer(attach("edge-a", "router-1"), NOW)
    known.offer(attach("edge-b", "router-1"), NOW)
    with pytest.raises(LimitError):
        known.offer(attach("edge-c", "router-1"), NOW)
    later = NOW + 2 * LIFE
    assert known.offer(attach("edge-c", "router-1", until=later + LIFE), later) is not None
    assert len(known) == 1


def test_batches_hold_all_that_is_in_force_and_fit_a_frame(known, monkeypatch):
    sent = {attach(node, f"router-{n}") for node in NODES for n in range(4)}
    for one in sent:
        known.offer(one, NOW)
    known.offer(attach("edge-a", "router-9", until=NOW + 1), NOW)
    monkeypatch.setattr(paths, "ATTACH_BATCH_BYTES", 5 * len(next(iter(sent))))
    batches = list(known.batches(NOW + 1))
    assert len(batches) > 1
    assert {one for batch in batches for one in batch} == sent
    assert all(sum(map(len, batch)) <= paths.ATTACH_BATCH_BYTES for batch in batches)


@given(st.integers(min_value=0), st.integers(1, 255))
def test_mutated_attachments_raise_the_documented_errors_only(place, change):
    data = bytearray(attach("edge-a", "router-1"))
    data[place % len(data)] ^= change
    with pytest.raises((DecodeError, TrustError)):
        Attachments(PKI.signers()).offer(bytes(data), NOW)


def test_a_local_host_needs_no_attachment():
    assert choose_route(
        ["edge-a"], "plc", Attachments(PKI.signers()), Topology("router-1"), {"edge-a"}, NOW
    ) == ("edge-a",)


def test_without_a_link_here_an_attachment_here_does_not_count(known):
    known.offer(attach("edge-a", "router-1"), NOW)
    assert choose_route(["edge-a"], "plc", known, Topology("router-1"), set(), NOW) is None


def test_the_cheapest_way_then_the_order_of_hosts(known):
    topology = Topology("router-1")
    topology.update(fabric(("router-2", "router-3")), {"router-2"}, {("router-2", "router-3"): 5.0})
    known.offer(attach("edge-a", "router-3"), NOW)
    known.offer(attach("edge-b", "router-2"), NOW)
    known.offer(attach("edge-c", "router-2"), NOW)
    hosts = ["edge-a", "edge-c", "edge-b"]
    assert choose_route(hosts, "plc", known, topology, set(), NOW) == ("router-2", "edge-c")
    assert choose_route(["edge-a"], "plc", known, topology, set(), NOW) == (
        "router-2",
        "router-3",
        "edge-a",
    )
    assert choose_route(hosts, "plc", known, topology, {"edge-b"}, NOW) == ("edge-b",)


def test_a_host_whose_asset_is_down_comes_last(known):
    topology = Topology("router-1")
    topology.update(None, {"router-2"})
    known.offer(attach("edge-a", "router-1", down=["plc"]), NOW)
    known.offer(attach("edge-b", "router-2"), NOW)
    assert choose_route(["edge-a", "edge-b"], "plc", known, topology, {"edge-a"}, NOW) == (
        "router-2",
        "edge-b",
    )
    assert choose_route(["edge-a"], "plc", known, topology, {"edge-a"}, NOW) == ("edge-a",)
    assert choose_route(["edge-a", "edge-b"], "drive", known, topology, {"edge-a"}, NOW) == (
        "edge-a",
    )


def test_a_cheap_detour_beats_a_dear_direct_way():
    topology = Topology("a")
    costs = {("a", "c"): 9.0, ("a", "b"): 1.0, ("b", "c"): 1.0}
    topology.update(fabric(("b", "c")), {"b", "c"}, costs)
    assert topology.way("c") == (2.0, ("b", "c"))


def test_only_living_own_links_count_whatever_the_map_says():
    topology = Topology("a")
    topology.update(fabric(("a", "b"), ("b", "c")), {"c"})
    assert topology.way("b") == (2.0, ("c", "b"))
    topology.update(fabric(("a", "b"), ("b", "c")), set())
    assert topology.way("b") is None


def test_no_way_has_more_than_eight_routers():
    names = [f"r{n}" for n in range(10)]
    topology = Topology("r0")
    topology.update(fabric(*itertools.pairwise(names[1:])), {"r1"})
    way = topology.way("r7")
    assert way is not None
    assert len(way[1]) + 1 == limits.MAX_ROUTE
    assert topology.way("r8") is None


def test_controllers_are_found_by_their_attachments(known):
    assert known.controllers(NOW) == []
    known.offer(attach("controller", "router-2", by=CONTROLLER), NOW)
    known.offer(attach("edge-a", "router-1"), NOW)
    assert known.controllers(NOW) == ["controller"]
    assert known.controllers(NOW + LIFE) == []
