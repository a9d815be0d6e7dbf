"""Attachments (F-10) and the choice of host and route (F-11 to F-13)."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.errors import DecodeError, LimitError, TrustError
from overlay.fabric import paths
from overlay.fabric.paths import AWAY_COST, LIFE, SUSPECT_COST, Attachments, Topology, choose_route
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials, sign_body
from overlay.wire.bodies import Attachment
from tests.support.pki import NOW, SECOND, Pki

PKI = Pki()
NODES = {name: PKI.edge(name) for name in ("edge-a", "edge-b", "edge-c")}
ROUTERS = {f"router-{n}": PKI.router(f"router-{n}") for n in range(10)}
CONTROLLER = PKI.controller()


def attach(
    node: str,
    *routers: str | tuple[str, int],
    counter: int = 1,
    boot: int = 1,
    until: int = NOW + LIFE,
    down: tuple[str, ...] = (),
    by: Credentials | None = None,
) -> bytes:
    by = by or NODES.get(node) or ROUTERS.get(node) or CONTROLLER
    listed = tuple((one, 0) if isinstance(one, str) else one for one in routers)
    body = Attachment(node, listed, boot, counter, until, down)
    return sign_body(body, by.key, PKI.anchor, by.chain)


@pytest.fixture
def known() -> Attachments:
    return Attachments(PKI.signers())


def places(known: Attachments, node: str, now: int = NOW) -> list[str]:
    attached = known.get(node, now)
    return [] if attached is None else [router for router, _ in attached.body.routers]


def links(known: Attachments, *pairs: tuple[str, str], cost: int = 100) -> None:
    """Both routers of each pair attest their link."""
    around: dict[str, list[tuple[str, int]]] = {}
    for one, other in pairs:
        around.setdefault(one, []).append((other, cost))
        around.setdefault(other, []).append((one, cost))
    for name, listed in around.items():
        known.offer(attach(name, *listed), NOW)


def test_newer_wins_and_older_is_no_news(known):
    assert known.offer(attach("edge-a", "router-1", counter=5), NOW) is not None
    assert known.offer(attach("edge-a", "router-2", counter=5), NOW) is None
    assert known.offer(attach("edge-a", "router-2", counter=4), NOW) is None
    assert places(known, "edge-a") == ["router-1"]
    assert known.offer(attach("edge-a", "router-2", "router-3", counter=1, boot=2), NOW) is not None
    assert known.offer(attach("edge-a", "router-1", counter=9), NOW) is None
    assert places(known, "edge-a") == ["router-2", "router-3"]


def test_a_node_that_was_enrolled_anew_counts_from_the_start(known):
    known.offer(attach("edge-a", "router-1", counter=5, boot=50), NOW)
    again = PKI.node(Role.EDGE, "edge-a", generation=2)
    assert known.offer(attach("edge-a", "router-1", by=again), NOW) is not None
    assert known.offer(attach("edge-a", "router-1", counter=9, boot=99), NOW) is None


@pytest.mark.parametrize("by", [NODES["edge-b"], ROUTERS["router-1"], CONTROLLER])
def test_only_the_node_itself_says_where_it_is(known, by):
    with pytest.raises(TrustError):
        known.offer(attach("edge-a", "router-1", by=by), NOW)
    assert len(known) == 0


def test_an_attachment_ends_and_can_be_withdrawn(known):
    known.offer(attach("edge-a", "router-1", until=NOW + SECOND), NOW)
    assert places(known, "edge-a", NOW + SECOND) == []
    known.offer(attach("edge-b", "router-1"), NOW)
    assert known.offer(attach("edge-b", counter=2, until=NOW), NOW) is not None
    assert places(known, "edge-b") == []
    assert known.offer(attach("edge-b", "router-1"), NOW) is None, "an older one came late"


def test_one_that_ends_too_far_ahead_is_refused(known):
    with pytest.raises(TrustError, match="too far ahead"):
        longest = int(limits.ATTACHMENT_LIFE * SECOND) + paths.TOLERANCE
        known.offer(attach("edge-a", "router-1", until=NOW + longest + 1), NOW)


def test_what_is_over_is_forgotten(known):
    known.offer(attach("edge-a", "router-1"), NOW)
    known.offer(attach("edge-b", "router-1"), NOW)
    known.forget("edge-b")
    assert len(known) == 1
    known.expire(NOW + 2 * LIFE)
    assert len(known) == 0


def test_attachments_are_bounded_and_expired_ones_make_room(known, monkeypatch):
    monkeypatch.setattr(limits, "ATTACHMENTS", 2)
    known.offer(attach("edge-a", "router-1"), NOW)
    known.offer(attach("edge-b", "router-1"), NOW)
    with pytest.raises(LimitError):
        known.offer(attach("edge-c", "router-1"), NOW)
    assert known.offer(attach("edge-a", "router-2", counter=2), NOW) is not None
    later = NOW + 2 * LIFE
    assert known.offer(attach("edge-c", "router-1", until=later + LIFE), later) is not None
    assert len(known) == 1


def test_the_routers_of_one_attachment_are_bounded(known):
    many = [f"r{n}" for n in range(limits.ROUTERS_PER_NODE + 1)]
    with pytest.raises(DecodeError):
        known.offer(attach("edge-a", *many), NOW)


def test_batches_hold_all_that_is_in_force_and_fit_a_frame(known, monkeypatch):
    sent = {attach(node, "router-1") for node in (*NODES, *ROUTERS)}
    for one in sent:
        known.offer(one, NOW)
    known.offer(attach("controller", "router-9", until=NOW + 1), NOW)
    monkeypatch.setattr(paths, "ATTACH_BATCH_BYTES", 5 * len(next(iter(sent))))
    batches = list(known.batches(NOW + 1))
    assert len(batches) > 1
    assert {one for batch in batches for one in batch} == sent
    assert all(sum(map(len, batch)) <= paths.ATTACH_BATCH_BYTES for batch in batches)


def test_batches_of_many_small_ones_are_bounded_in_number(known, monkeypatch):
    monkeypatch.setattr(limits, "ATTACHMENTS_PER_FRAME", 2)
    for node in NODES:
        known.offer(attach(node, "router-1"), NOW)
    assert max(map(len, known.batches(NOW))) == 2


def test_no_batch_is_larger_than_a_control_frame_whatever_is_in_it():
    """Bytes of a MessagePack header of each attachment, and of the list, included."""
    largest = max(paths.ATTACH_BATCH_BYTES, limits.MAX_ATTACHMENT)
    assert largest + 5 * (limits.ATTACHMENTS_PER_FRAME + 2) <= limits.MAX_CONTROL


@given(st.integers(min_value=0), st.integers(1, 255))
def test_mutated_attachments_raise_the_documented_errors_only(place, change):
    data = bytearray(attach("edge-a", "router-1"))
    data[place % len(data)] ^= change
    with pytest.raises((DecodeError, TrustError)):
        Attachments(PKI.signers()).offer(bytes(data), NOW)


def test_a_local_host_needs_no_attachment(known):
    topology = Topology("router-1")
    assert choose_route(["edge-a"], "plc", known, topology, {"edge-a"}, NOW) == ("edge-a",)


def test_without_a_link_here_an_attachment_here_does_not_count(known):
    known.offer(attach("edge-a", "router-1"), NOW)
    assert choose_route(["edge-a"], "plc", known, Topology("router-1"), set(), NOW) is None


def test_the_cheapest_way_then_the_order_of_hosts(known):
    links(known, ("router-2", "router-3"), cost=500)
    topology = Topology("router-1")
    topology.update({"router-2": 100.0}, known, NOW)
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


def test_the_last_link_costs_too(known):
    topology = Topology("router-1")
    topology.update({"router-2": 100.0, "router-3": 200.0}, known, NOW)
    known.offer(attach("edge-a", ("router-2", 900), ("router-3", 10)), NOW)
    assert choose_route(["edge-a"], "plc", known, topology, set(), NOW) == ("router-3", "edge-a")


def test_a_host_whose_asset_is_down_comes_last(known):
    topology = Topology("router-1")
    topology.update({"router-2": 100.0}, known, NOW)
    known.offer(attach("edge-a", "router-1", down=("plc",)), NOW)
    known.offer(attach("edge-b", "router-2"), NOW)
    hosts = ["edge-a", "edge-b"]
    local = {"edge-a"}
    assert choose_route(hosts, "plc", known, topology, local, NOW) == ("router-2", "edge-b")
    assert choose_route(["edge-a"], "plc", known, topology, local, NOW) == ("edge-a",)
    assert choose_route(hosts, "drive", known, topology, local, NOW) == ("edge-a",)


def test_a_cheap_detour_beats_a_dear_direct_way(known):
    links(known, ("router-2", "router-3"))
    topology = Topology("router-1")
    topology.update({"router-2": 100.0, "router-3": 900.0}, known, NOW)
    assert topology.way("router-3") == (200.0, ("router-2", "router-3"))


def test_a_link_that_only_one_end_attests_does_not_count(known):
    known.offer(attach("router-2", ("router-3", 0), ("router-1", 0)), NOW)
    topology = Topology("router-1")
    topology.update({"router-2": 100.0}, known, NOW)
    assert topology.way("router-3") is None
    known.offer(attach("router-3", ("router-2", 700)), NOW)
    topology.update({"router-2": 100.0}, known, NOW)
    assert topology.way("router-3") == (800.0, ("router-2", "router-3")), "the dearer claim counts"


def test_only_living_own_links_count_whatever_others_say(known):
    links(known, ("router-1", "router-2"), ("router-2", "router-3"))
    topology = Topology("router-1")
    topology.update({"router-3": 100.0}, known, NOW)
    assert topology.way("router-2") == (200.0, ("router-3", "router-2"))
    topology.update({}, known, NOW)
    assert topology.way("router-2") is None


def test_an_edge_is_no_way_station(known):
    known.offer(attach("edge-a", ("router-2", 0), ("router-3", 0)), NOW)
    known.offer(attach("router-2", ("edge-a", 0)), NOW)
    known.offer(attach("router-3", ("edge-a", 0)), NOW)
    topology = Topology("router-1")
    topology.update({"router-2": 100.0}, known, NOW)
    assert topology.way("router-3") is None


def test_no_way_has_more_than_eight_routers(known):
    names = [f"router-{n}" for n in range(10)]
    links(known, *itertools.pairwise(names[1:]))
    topology = Topology("router-0")
    topology.update({"router-1": 100.0}, known, NOW)
    way = topology.way("router-7")
    assert way is not None
    assert len(way[1]) + 1 == limits.MAX_ROUTE
    assert topology.way("router-8") is None


def test_controllers_are_found_by_their_attachments(known):
    assert known.controllers(NOW) == []
    known.offer(attach("controller", "router-2"), NOW)
    known.offer(attach("edge-a", "router-1"), NOW)
    assert known.controllers(NOW) == ["controller"]
    assert known.controllers(NOW + LIFE) == []


def test_a_link_here_that_the_host_suspects_carries_only_what_has_no_other_way(known):
    """F-14: the cable to the host is cut, and this router has not noticed yet."""
    topology = Topology("router-1")
    topology.update({"router-2": 100.0}, known, NOW)
    known.offer(attach("edge-a", ("router-1", SUSPECT_COST + 5), ("router-2", 10)), NOW)
    local = {"edge-a"}
    assert choose_route(["edge-a"], "plc", known, topology, local, NOW) == ("router-2", "edge-a")
    topology.update({}, known, NOW)
    assert choose_route(["edge-a"], "plc", known, topology, local, NOW) == ("edge-a",)


def test_a_link_here_costs_what_its_host_says(known):
    """F-11, F-14: neither the order of the hosts nor that both are here decides."""
    topology = Topology("router-1")
    topology.update({"router-2": 1000.0}, known, NOW)
    known.offer(attach("edge-a", ("router-1", 150_000)), NOW)
    known.offer(attach("edge-b", ("router-1", 1000)), NOW)
    hosts, local = ["edge-a", "edge-b"], {"edge-a", "edge-b"}
    assert choose_route(hosts, "plc", known, topology, local, NOW) == ("edge-b",)
    known.offer(attach("edge-b", ("router-2", 1000), counter=2), NOW)
    assert choose_route(hosts, "plc", known, topology, {"edge-a"}, NOW) == ("router-2", "edge-b")
    known.offer(attach("edge-a", ("router-1", 150_000), ("router-2", 1000), counter=2), NOW)
    assert choose_route(["edge-a"], "plc", known, topology, local, NOW) == ("router-2", "edge-a")


def test_no_detour_is_made_for_what_ping_varies(known):
    """`AWAY_COST`, F-11."""
    topology = Topology("router-1")
    topology.update({"router-2": 100.0}, known, NOW)
    dear = 100 + 10 + AWAY_COST
    known.offer(attach("edge-a", ("router-1", dear), ("router-2", 10)), NOW)
    local = {"edge-a"}
    assert choose_route(["edge-a"], "plc", known, topology, local, NOW) == ("edge-a",)
    known.offer(attach("edge-a", ("router-1", dear + 1), ("router-2", 10), counter=2), NOW)
    assert choose_route(["edge-a"], "plc", known, topology, local, NOW) == ("router-2", "edge-a")


def test_hosts_of_one_rank_share_by_weight_whatever_their_paths_cost(known):
    """F-15."""
    topology = Topology("router-1")
    topology.update({"router-2": 900.0, "router-3": 100.0}, known, NOW)
    known.offer(attach("edge-a", "router-2"), NOW)
    known.offer(attach("edge-b", "router-3"), NOW)
    known.offer(attach("edge-c", "router-3"), NOW)
    hosts = ["edge-a", "edge-b", "edge-c"]

    def chosen(weights: tuple[int, ...], ranks: tuple[int, ...] = ()) -> Counter[str]:
        routes = [
            choose_route(hosts, "plc", known, topology, set(), NOW, ranks, weights, draw / 100)
            for draw in range(100)
        ]
        return Counter(route[-1] for route in routes if route is not None)

    assert chosen((75, 25)) == {"edge-a": 75, "edge-b": 25}
    assert chosen((3, 0, 1)) == {"edge-a": 75, "edge-c": 25}
    assert chosen((0, 0, 0)) == chosen(()) == {"edge-b": 100}, "no weights: by cost"
    assert chosen((1, 1, 2), ranks=(2, 1, 1)) == {"edge-b": 34, "edge-c": 66}
    assert chosen((1, 0, 0), ranks=(2, 1, 1)) == {"edge-b": 100}
    known.offer(attach("edge-a", "router-2", counter=2, down=("plc",)), NOW)
    assert chosen((100, 1, 1)) == {"edge-b": 50, "edge-c": 50}, "health before weight"
    known.offer(attach("edge-a", "router-2", counter=3), NOW)
    known.offer(attach("edge-b", ("router-3", SUSPECT_COST), counter=2), NOW)
    assert chosen((1, 100, 1)) == {"edge-a": 50, "edge-c": 50}, "suspicion before weight"


def test_the_first_choice_hosts_while_it_can_however_far_it_is(known):
    """F-11: priority before cost, health and suspicion before priority; equals by cost."""
    topology = Topology("router-1")
    topology.update({"router-2": 900.0, "router-3": 100.0}, known, NOW)
    known.offer(attach("edge-a", "router-2"), NOW)
    known.offer(attach("edge-b", "router-3"), NOW)
    known.offer(attach("edge-c", "router-2"), NOW)
    hosts, ranks = ["edge-a", "edge-b", "edge-c"], (0, 10, 10)

    def chosen() -> str:
        route = choose_route(hosts, "plc", known, topology, set(), NOW, ranks)
        assert route is not None
        return route[-1]

    assert chosen() == "edge-a"
    known.offer(attach("edge-a", ("router-2", SUSPECT_COST), counter=2), NOW)
    assert chosen() == "edge-b"
    known.offer(attach("edge-a", "router-2", counter=3, down=("plc",)), NOW)
    assert chosen() == "edge-b"
    known.offer(attach("edge-a", "router-2", counter=4), NOW)
    assert chosen() == "edge-a"
