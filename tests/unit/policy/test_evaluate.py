"""Who may reach what, by which conduit, with which grants; and every reason in words."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import InputError
from overlay.policy.evaluate import grants_for, hosts_of, reachable, why
from overlay.policy.model import (
    ZONE_DEPTH,
    Asset,
    Conduit,
    Edge,
    NodeState,
    Plant,
    Service,
    Zone,
    check_zone_parent,
)
from overlay.policy.reasons import MAX_CONDUITS_NAMED
from overlay.wire.bodies import DATAGRAMS, STRICT, LocalKill
from tests.support.plants import (
    HMI_TO_PLC,
    HOUR,
    MILL,
    NOW,
    SECOND,
    with_conduits,
    with_edge,
    with_kills,
)

OPEN_ENDED = replace(HMI_TO_PLC, id="c9", ends=0)
MODBUS = MILL.service["plc-c.modbus"]


def ask(plant, who="hmi-a", to="plc-b", protocol="modbus", now=NOW):
    return why(plant, who, to, protocol, now)


def text(decision, check):
    found = [one.text for one in decision.checks if one.check == check]
    assert found, f"no check {check} in {[one.check for one in decision.checks]}"
    return found[0]


def failed(decision):
    return [one.check for one in decision.checks if not one.ok]


# --- default deny, and what allows ---------------------------------------------------------------


def test_nothing_is_allowed_by_itself():
    decision = ask(MILL)
    assert (decision.allowed, decision.conduit) == (False, None)
    assert failed(decision) == ["conduit"]
    assert text(decision, "conduit") == (
        "no conduit lets hmi-a reach plc-b.modbus; "
        "to allow it: ferrule allow hmi-a plc-b modbus --for 2h"
    )
    for edge in MILL.edge:
        assert grants_for(MILL, edge, NOW) == []


@pytest.mark.parametrize(
    ("who", "to"),
    [
        ("hmi-a", "plc-b"),
        ("tag:panels", "tag:pumps"),
        ("office", "cell-1"),
        ("site", "site"),  # zones nest
        ("office", "cells"),
    ],
)
def test_every_way_to_write_it_allows(who, to):
    plant = with_conduits(replace(HMI_TO_PLC, who=who, to=to))
    decision = ask(plant)
    assert (decision.allowed, decision.conduit, failed(decision)) == (True, "c1", [])
    assert [(one.who, one.via, one.service) for one in grants_for(plant, "edge-a", NOW)].count(
        ("hmi-a", "edge-a", "plc-b.modbus")
    ) == 1


@pytest.mark.parametrize(
    "conduit",
    [
        replace(HMI_TO_PLC, who="plc-b"),
        replace(HMI_TO_PLC, who="edge-a"),  # the edge is not what it asserts
        replace(HMI_TO_PLC, who="cell-1"),
        replace(HMI_TO_PLC, who="tag:plcs"),
        replace(HMI_TO_PLC, to="plc-c"),
        replace(HMI_TO_PLC, to="edge-b"),  # an edge is not what it hosts
        replace(HMI_TO_PLC, to="office"),
        replace(HMI_TO_PLC, protocol="s7"),
        replace(HMI_TO_PLC, who="plc-b", to="hmi-a"),  # no way back
        replace(HMI_TO_PLC, ends=NOW),
        replace(HMI_TO_PLC, ends=NOW - 1),
        replace(HMI_TO_PLC, starts=NOW + 1),
        replace(HMI_TO_PLC, ended=NOW),
    ],
)
def test_what_was_written_for_something_else_does_not_allow(conduit):
    plant = with_conduits(conduit)
    assert not ask(plant).allowed
    assert "plc-b.modbus" not in {
        one.service for one in grants_for(plant, "edge-a", NOW) if one.who == "hmi-a"
    }


def test_a_parent_covers_its_children_and_no_child_its_parent():
    down = with_conduits(replace(HMI_TO_PLC, to="cells"))
    assert set(reachable(down, down.principals["hmi-a"], NOW)) == {
        "plc-b.modbus", "plc-c.modbus", "lost.modbus",
    }  # fmt: skip
    up = with_conduits(replace(HMI_TO_PLC, to="cell-1"))
    assert set(reachable(up, up.principals["hmi-a"], NOW)) == {"plc-b.modbus"}


# --- several conduits ----------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_the_one_that_ends_last_carries(order):
    short = replace(HMI_TO_PLC, id="short", ends=NOW + HOUR)
    longer = replace(HMI_TO_PLC, id="longer", who="site", ends=NOW + 3 * HOUR)
    gone = replace(HMI_TO_PLC, id="gone", ends=NOW - HOUR)
    conduits = (short, longer, gone)
    decision = ask(with_conduits(*(conduits[n] for n in order)))
    assert decision.conduit == "longer"
    assert "also allows it: conduit short" in text(decision, "other conduit")
    endless = ask(with_conduits(*(conduits[n] for n in order), OPEN_ENDED))
    assert endless.conduit == "c9"
    assert "with no end" in text(endless, "conduit")


@pytest.mark.parametrize(("hours", "check"), [(1, "other conduit"), (-1, "conduit")])
def test_of_very_many_conduits_a_few_are_named(hours: int, check: str):
    ends = NOW + hours * HOUR
    many = [replace(HMI_TO_PLC, id=f"m{number}", ends=ends) for number in range(50)]
    found = [one.check for one in ask(with_conduits(*many)).checks]
    assert found.count(check) == MAX_CONDUITS_NAMED


@given(st.lists(st.tuples(st.integers(-2, 5), st.booleans(), st.booleans()), max_size=8))
def test_why_and_grants_agree(made):
    """Whatever conduits there are: the same one carries, and none carries exactly when why says no."""
    plant = with_conduits(
        *(
            replace(
                HMI_TO_PLC,
                id=f"c{number}",
                ends=0 if hours == 5 else NOW + hours * HOUR,
                ended=NOW - 1 if denied else 0,
                who="site" if wide else "hmi-a",
            )
            for number, (hours, denied, wide) in enumerate(made)
        )
    )
    decision = ask(plant)
    carried = [
        one for one in grants_for(plant, "edge-a", NOW)
        if (one.who, one.service) == ("hmi-a", "plc-b.modbus")
    ]  # fmt: skip
    assert [one.conduit for one in carried] == ([decision.conduit] if decision.allowed else [])
    live = [one for one in plant.conduits if one.in_force(NOW)]
    assert decision.allowed is bool(live)
    if live:
        assert carried[0].end == (
            0 if any(not one.ends for one in live) else max(one.ends for one in live)
        )


# --- grants --------------------------------------------------------------------------------------


def test_a_grant_says_all_that_nodes_check():
    plant = with_conduits(
        replace(HMI_TO_PLC, to="plc-c", max_session=600, integrity=STRICT, starts=NOW - 5)
    )
    (spec,) = grants_for(plant, "edge-a", NOW)
    assert spec.conduit == "c1"
    assert (spec.who, spec.via, spec.service, spec.asset) == (
        "hmi-a", "edge-a", "plc-c.modbus", "plc-c",
    )  # fmt: skip
    assert spec.hosts == ("edge-b", "edge-c")
    assert (spec.not_before, spec.end) == (NOW - 5, NOW + 2 * HOUR)
    assert (spec.max_session, spec.hold, spec.integrity) == (600, 28800, STRICT)
    assert spec.who_zones == ("office", "site")
    assert spec.asset_zones == ("cells", "site")


def test_a_conduit_with_other_limits_does_not_take_the_grant_of_one_that_ends_earlier():
    longer = replace(HMI_TO_PLC, id="c3", ends=NOW + 3 * HOUR)
    strict = replace(HMI_TO_PLC, id="c4", ends=0, integrity=STRICT)
    short = replace(HMI_TO_PLC, id="c5", ends=0, max_session=60)
    plant = with_conduits(HMI_TO_PLC, longer, strict, short)
    specs = [one for one in grants_for(plant, "edge-a", NOW) if one.who == "hmi-a"]
    assert sorted(one.conduit for one in specs) == ["c3", "c4", "c5"]


def test_an_edge_gets_grants_for_itself_and_all_behind_it_and_nobody_else():
    plant = with_conduits(replace(HMI_TO_PLC, who="site", to="plc-c"))
    for edge, names in {
        "edge-a": {"edge-a", "hmi-a"},
        "edge-b": {"edge-b", "plc-b", "plc-c"},
        "edge-c": {"edge-c", "plc-c"},
    }.items():
        specs = grants_for(plant, edge, NOW)
        assert {one.who for one in specs} == names
        assert {one.via for one in specs} == {edge}
    assert grants_for(plant, "nobody", NOW) == []
    assert grants_for(plant, "hmi-a", NOW) == []


def test_a_denied_conduit_that_may_still_be_used_for_a_moment_ends_then():
    plant = with_conduits(replace(HMI_TO_PLC, ended=NOW + SECOND))
    (spec,) = grants_for(plant, "edge-a", NOW)
    assert spec.end == NOW + SECOND


def test_transport_follows_the_service():
    plant = with_conduits(replace(HMI_TO_PLC, to="plc-c", protocol="snmp"))
    assert grants_for(plant, "edge-a", NOW)[0].transport == DATAGRAMS


def test_an_edges_own_machine_can_offer_something():
    plant = with_conduits(replace(HMI_TO_PLC, to="edge-c", protocol="ssh"))
    (spec,) = grants_for(plant, "edge-a", NOW)
    assert (spec.service, spec.asset, spec.hosts) == ("edge-c.ssh", "edge-c", ("edge-c",))


def test_hosts_leave_out_what_is_revoked_and_whose_switch_was_pulled_while_another_is_left():
    assert hosts_of(MILL, MODBUS) == ("edge-b", "edge-c")
    pulled = with_edge(MILL, Edge("edge-b", local_kill=LocalKill("fire", NOW)))
    assert hosts_of(pulled, MODBUS) == ("edge-c",)
    both = with_edge(pulled, Edge("edge-c", local_kill=LocalKill("fire", NOW)))
    assert hosts_of(both, MODBUS) == ("edge-b", "edge-c")  # they say why not themselves
    revoked = with_edge(MILL, Edge("edge-b", state=NodeState.REVOKED))
    assert hosts_of(revoked, MODBUS) == ("edge-c",)
    none = with_edge(revoked, Edge("edge-c", state=NodeState.REVOKED))
    assert hosts_of(none, MODBUS) == ()


def test_kills_leave_grants_as_they_are():
    """They come and go with the authority, which every node has: nothing has to be signed again."""
    plant = with_conduits(replace(HMI_TO_PLC, to="plc-c"))
    for kill in (("identity", "edge-b"), ("identity", "hmi-a"), ("zone", "site"), ("plant", "")):
        assert grants_for(with_kills(plant, kill), "edge-a", NOW) == grants_for(
            plant, "edge-a", NOW
        )


def test_a_revoked_edge_gets_no_grants_and_nobody_a_grant_without_host():
    plant = with_conduits(HMI_TO_PLC)
    revoked = with_edge(plant, Edge("edge-a", state=NodeState.REVOKED))
    assert grants_for(revoked, "edge-a", NOW) == []
    hostless = with_edge(plant, Edge("edge-b", state=NodeState.REVOKED))
    assert grants_for(hostless, "edge-a", NOW) == []
    lost = with_conduits(replace(HMI_TO_PLC, to="lost"))
    assert grants_for(lost, "edge-a", NOW) == []


def test_a_zone_that_lies_in_itself_ends_nothing_but_the_walk():
    plant = Plant(zones=(Zone("a", "b"), Zone("b", "a"), Zone("c", "gone")))
    assert plant.ancestry("a") == ("a", "b")
    assert plant.ancestry("c") == ("c", "gone")
    deep = Plant(zones=tuple(Zone(f"z{n}", f"z{n + 1}") for n in range(100)))
    assert len(deep.ancestry("z0")) == ZONE_DEPTH


def test_zones_do_not_lie_in_themselves_or_too_deep():
    zones = [Zone("z0"), *(Zone(f"z{n}", f"z{n - 1}") for n in range(1, ZONE_DEPTH - 1))]
    check_zone_parent(zones, "new", f"z{ZONE_DEPTH - 2}")
    with pytest.raises(InputError, match="at most 16 deep"):
        check_zone_parent([*zones, Zone("last", f"z{ZONE_DEPTH - 2}")], "new", "last")
    with pytest.raises(InputError, match="at most 16 deep"):  # what is below moves along
        check_zone_parent([*zones, Zone("top"), Zone("upper", "top")], "z0", "upper")
    with pytest.raises(InputError, match="z0 cannot lie inside z3, which lies inside z0"):
        check_zone_parent(zones, "z0", "z3")
    with pytest.raises(InputError, match="cannot lie inside"):
        check_zone_parent(zones, "z1", "z1")


def test_thousands_of_conduits_cost_what_matches():
    """Every conduit but one is for others: the index must not look at them."""
    assets = tuple(Asset(f"a{n}", (f"e{n}",)) for n in range(2000))
    plant = Plant(
        edges=tuple(Edge(f"e{n}") for n in range(2000)),
        assets=assets,
        services=tuple(Service(asset.name, "modbus", 502, 502) for asset in assets),
        conduits=tuple(Conduit(f"c{n}", f"a{n}", f"a{n + 1}", "modbus") for n in range(1999)),
    )
    looked_at = list(plant.conduits_of(plant.principals["a7"]))
    assert [one.id for one in looked_at] == ["c7"]
    assert [one.service for one in grants_for(plant, "e7", NOW)] == ["a8.modbus"]


# --- why -----------------------------------------------------------------------------------------


def test_an_allowed_poll_is_explained_step_by_step():
    decision = ask(with_conduits(replace(HMI_TO_PLC, max_session=600, hold=0, integrity=STRICT)))
    assert [(one.check, one.text) for one in decision.checks] == [
        ("who", "hmi-a is an asset in zone office (inside site), tagged panels, behind edge-a"),
        (
            "to",
            "plc-b is an asset in zone cell-1 (inside cells and site), tagged pumps and plcs, behind edge-b",
        ),
        ("service", "plc-b offers modbus at 10.0.0.5, port 502/tcp"),
        (
            "conduit",
            "conduit c1 (hmi-a to plc-b over modbus) is in force until Wednesday 2026-08-05 14:00 CEST (2 hours left), sessions up to 10m, every frame signed (strict), closed while the controller is away",
        ),
        ("revoked", "edge-a and edge-b were not revoked"),
        ("kill", "no kill is active for either side, the service or a zone"),
        ("caller edge", "edge-a speaks for hmi-a and is connected"),
        ("host edge", "edge-b hosts plc-b and is connected"),
    ]  # fmt: skip


def test_unknown_names_come_with_a_hint():
    decision = ask(MILL, who="hmi-b", to="plx-b")
    assert not decision.allowed
    assert text(decision, "who") == "nothing in this plant is named 'hmi-b': did you mean hmi-a?"
    assert "did you mean plc-b" in text(decision, "to")
    assert failed(decision) == ["who", "to"]


def test_a_router_reaches_nothing():
    assert "router-1 is a router" in text(ask(MILL, who="router-1"), "who")


@pytest.mark.parametrize("who", ["office", "tag:panels"])
def test_zones_and_tags_have_no_single_answer(who):
    with pytest.raises(InputError, match="ask for one asset or edge"):
        ask(MILL, who=who)


def test_a_missing_service_says_what_is_offered_and_how_to_add_it():
    assert text(ask(MILL, protocol="opcua"), "service") == (
        "plc-b does not offer opcua: it offers modbus and s7; "
        "to add it: ferrule add service plc-b opcua"
    )
    assert "it offers nothing yet" in text(ask(MILL, to="hmi-a"), "service")
    assert "did you mean modbus?" in text(ask(MILL, protocol="modbsu"), "service")


@pytest.mark.parametrize(
    ("conduit", "said"),
    [
        (replace(HMI_TO_PLC, ends=NOW - 2 * HOUR), "ended Wednesday 2026-08-05 10:00 CEST (2 hours ago)"),
        (replace(HMI_TO_PLC, starts=NOW + 3 * HOUR), "begins Wednesday 2026-08-05 15:00 CEST (in 3 hours)"),
        (
            replace(HMI_TO_PLC, ended=NOW - HOUR, ended_by="anna", ended_reason="shift over"),
            "was denied by anna Wednesday 2026-08-05 11:00 CEST (60 minutes ago): shift over",
        ),
        (replace(HMI_TO_PLC, ended=NOW - HOUR), "was denied Wednesday"),
    ],
)  # fmt: skip
def test_a_conduit_that_is_over_or_to_come_is_named(conduit, said):
    decision = ask(with_conduits(conduit))
    assert not decision.allowed
    assert said in text(decision, "conduit")
    assert "to allow it: ferrule allow" in text(decision, "conduit")


def test_of_many_past_conduits_only_the_latest_are_named():
    plant = with_conduits(
        *(replace(HMI_TO_PLC, id=f"c{n}", ends=NOW - n * HOUR) for n in range(1, 30))
    )
    named = [one.text for one in ask(plant).checks if one.check == "conduit"]
    assert len(named) == 5
    assert "conduit c1 " in named[0]


@pytest.mark.parametrize(
    ("level", "name", "lift"),
    [
        ("identity", "hmi-a", "identity hmi-a"),
        ("identity", "edge-a", "identity edge-a"),
        ("identity", "plc-b", "identity plc-b"),
        ("identity", "edge-b", "identity edge-b"),
        ("service", "plc-b.modbus", "service plc-b.modbus"),
        ("zone", "office", "zone office"),
        ("zone", "site", "zone site"),
        ("zone", "cells", "zone cells"),
        ("plant", "", "plant"),
    ],
)
def test_a_kill_on_any_level_denies_and_says_who_why_and_how_to_lift_it(level, name, lift):
    decision = ask(with_kills(with_conduits(HMI_TO_PLC), (level, name)))
    assert not decision.allowed
    assert decision.conduit == "c1"
    assert failed(decision) == ["kill"]
    said = text(decision, "kill")
    assert "was killed by anna on Wednesday 2026-08-05 11:00 CEST: smoke" in said
    assert said.endswith(f"to lift it: ferrule restore {lift}")


@pytest.mark.parametrize(
    ("level", "name"),
    [
        ("identity", "plc-c"),
        ("identity", "edge-c"),
        ("service", "plc-b.s7"),
        ("zone", "elsewhere"),
        ("circuit", "00" * 16),
    ],
)
def test_a_kill_of_something_else_does_not(level, name):
    assert ask(with_kills(with_conduits(HMI_TO_PLC), (level, name))).allowed


def test_a_kill_that_has_run_out_does_not():
    plant = with_kills(with_conduits(HMI_TO_PLC), ("plant", ""), until=NOW + 1)
    assert "until Wednesday 2026-08-05 12:00 CEST" in text(ask(plant), "kill")
    assert not ask(plant).allowed
    assert ask(plant, now=NOW + 1).allowed


TO_C = with_conduits(replace(HMI_TO_PLC, to="plc-c"))
REVOKED_B = Edge("edge-b", state=NodeState.REVOKED, revoked="stolen")
PULLED_C = Edge("edge-c", local_kill=LocalKill("fire drill", NOW - HOUR))


def test_a_second_edge_keeps_it_going_and_the_checks_say_so():
    decision = ask(with_kills(TO_C, ("identity", "edge-b")), to="plc-c")
    assert decision.allowed
    assert "edge-a > edge-c is left" in text(decision, "kill")
    assert "edge-b and edge-c host plc-c and are connected" in text(decision, "host edge")
    revoked = ask(with_edge(TO_C, REVOKED_B), to="plc-c")
    assert revoked.allowed
    assert text(revoked, "revoked") == (
        "the certificates of edge-b were revoked: stolen; edge-a > edge-c is left"
    )
    pulled = ask(with_edge(TO_C, PULLED_C), to="plc-c")
    assert pulled.allowed
    assert "edge-a > edge-b is left" in text(pulled, "local kill")


def test_different_obstacles_add_up():
    """Neither of these alone is in the way; together they leave no edge."""
    plant = with_kills(with_edge(TO_C, PULLED_C), ("identity", "edge-b"))
    decision = ask(plant, to="plc-c")
    assert not decision.allowed
    assert failed(decision) == ["kill", "local kill"]
    assert "only there can it be lifted" in text(decision, "local kill")
    plant = with_edge(with_edge(TO_C, PULLED_C), REVOKED_B)
    decision = ask(plant, to="plc-c")
    assert not decision.allowed
    assert failed(decision) == ["revoked", "local kill"]
    assert "enrol a new machine with ferrule token edge edge-b" in text(decision, "revoked")


def test_a_revoked_caller_is_denied():
    plant = with_edge(with_conduits(HMI_TO_PLC), Edge("edge-a", state=NodeState.REVOKED))
    decision = ask(plant)
    assert not decision.allowed
    assert "revoked" in failed(decision)


@pytest.mark.parametrize(
    ("edge", "said"),
    [
        (Edge("edge-b", state=NodeState.LOST, since=NOW - HOUR), "edge-b is not connected since Wednesday"),
        (Edge("edge-b", state=NodeState.WAITING), "edge-b has not connected yet"),
    ],
)  # fmt: skip
def test_an_absent_edge_is_said_and_denies_nothing(edge, said):
    decision = ask(with_edge(with_conduits(HMI_TO_PLC), edge))
    assert decision.allowed
    assert failed(decision) == ["host edge"]
    assert said in text(decision, "host edge")


def test_assets_without_an_edge_and_people_are_explained():
    lost = ask(with_conduits(replace(HMI_TO_PLC, to="lost")), to="lost")
    assert "behind no edge" in text(lost, "to")
    assert "no edge hosts lost" in text(lost, "host edge")
    assert not lost.allowed
    anna = ask(with_conduits(replace(HMI_TO_PLC, who="anna")), who="anna")
    assert "no edge speaks for anna" in text(anna, "caller edge")
    assert not anna.allowed
    assert "ferrule request anna plc-b modbus" in text(ask(MILL, who="anna"), "conduit")


def test_no_text_of_a_check_breaks_the_line():
    for plant in (MILL, with_kills(TO_C, ("plant", "")), with_conduits(HMI_TO_PLC)):
        for to in ("plc-b", "plc-c", "lost", "nothing"):
            for check in ask(plant, to=to).checks:
                assert check.text
                assert "\n" not in check.text
