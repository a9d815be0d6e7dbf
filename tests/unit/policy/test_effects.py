"""Dry runs: what a change of conduits opens, closes and cuts."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from overlay.policy import effects as module
from overlay.policy.effects import LiveSession, Pair, also_allowing, effects
from overlay.policy.evaluate import reachable
from overlay.policy.model import Asset, Edge, Plant, Service, Zone
from overlay.wire.bodies import STRICT
from tests.support.plants import HMI_TO_PLC, HOUR, MILL, NOW, with_conduits

POLL = LiveSession("s1", "hmi-a", "plc-b.modbus", "c1")
WIDE = replace(HMI_TO_PLC, id="c2", who="office", to="cells")


def test_allowing_opens_and_nothing_else():
    done = effects(MILL, [HMI_TO_PLC], NOW)
    assert done.opens == (Pair("hmi-a", "plc-b.modbus"),)
    assert (done.closes, done.cuts, done.more) == ((), (), 0)


def test_denying_closes_and_cuts():
    done = effects(with_conduits(HMI_TO_PLC), [], NOW, [POLL])
    assert done.closes == (Pair("hmi-a", "plc-b.modbus"),)
    assert done.cuts == (POLL,)
    assert done.opens == ()
    ended = replace(HMI_TO_PLC, ended=NOW)
    assert effects(with_conduits(HMI_TO_PLC), [ended], NOW, [POLL]) == done


def test_what_another_conduit_allows_stays():
    before = with_conduits(HMI_TO_PLC, WIDE)
    done = effects(before, [WIDE], NOW, [POLL])
    assert (done.opens, done.closes, done.cuts) == ((), (), ())
    narrower = effects(before, [HMI_TO_PLC], NOW, [POLL])
    assert Pair("hmi-a", "plc-b.modbus") not in narrower.closes
    assert narrower.closes == (
        Pair("edge-a", "lost.modbus"), Pair("edge-a", "plc-b.modbus"), Pair("edge-a", "plc-c.modbus"),
        Pair("hmi-a", "lost.modbus"), Pair("hmi-a", "plc-c.modbus"),
    )  # fmt: skip


def test_a_session_moves_only_to_equal_limits():
    for other in (replace(WIDE, integrity=STRICT), replace(WIDE, max_session=60)):
        done = effects(with_conduits(HMI_TO_PLC, other), [other], NOW, [POLL])
        assert done.closes == ()
        assert done.cuts == (POLL,)


def test_a_session_of_another_conduit_is_not_cut():
    other = LiveSession("s2", "hmi-a", "plc-b.modbus", "gone-long-ago")
    assert effects(with_conduits(HMI_TO_PLC), [], NOW, [other]).cuts == ()


def test_a_conduit_that_is_over_has_no_effect():
    past = replace(HMI_TO_PLC, ends=NOW)
    assert effects(MILL, [past], NOW) == module.Effects((), (), ())


def test_lists_are_bounded_and_say_how_much_is_left_out(monkeypatch):
    monkeypatch.setattr(module, "MAX_LISTED", 10)
    assets = tuple(Asset(f"a{n:02}", ("edge",), zone="z") for n in range(20))
    plant = Plant(
        zones=(Zone("z"),),
        edges=(Edge("edge"),),
        assets=assets,
        services=tuple(Service(one.name, "modbus", 502, 502) for one in assets),
    )
    wide = replace(HMI_TO_PLC, who="z", to="z")
    done = effects(plant, [wide], NOW)
    assert len(done.opens) == 10
    assert done.more == 390
    live = [LiveSession(f"s{n}", "a00", "a01.modbus", wide.id) for n in range(15)]
    undone = effects(plant.with_conduits([wide]), [], NOW, live)
    assert (len(undone.closes), len(undone.cuts)) == (10, 10)
    assert undone.more == 395


def test_what_still_allows_after_a_deny():
    elsewhere = replace(HMI_TO_PLC, id="c3", to="plc-c")
    protocol = replace(WIDE, id="c4", protocol="s7")
    past = replace(WIDE, id="c5", ends=NOW - HOUR)
    unmatched = replace(HMI_TO_PLC, id="c6", to="office")
    twin = replace(unmatched, id="c7")
    plant = with_conduits(HMI_TO_PLC, WIDE, elsewhere, protocol, past, unmatched, twin)
    assert [one.id for one in also_allowing(plant, HMI_TO_PLC, NOW)] == ["c2"]
    assert [one.id for one in also_allowing(plant, WIDE, NOW)] == ["c1", "c3"]
    assert [one.id for one in also_allowing(plant, unmatched, NOW)] == ["c7"]


NAMES = st.sampled_from(
    ["hmi-a", "edge-a", "plc-b", "plc-c", "site", "cells", "office", "tag:plcs"]
)
CONDUITS = st.lists(
    st.builds(
        lambda who, to, hours: replace(HMI_TO_PLC, who=who, to=to, ends=NOW + hours * HOUR),
        NAMES,
        NAMES,
        st.integers(-1, 2),
    ),
    max_size=5,
).map(lambda made: [replace(one, id=f"c{number}") for number, one in enumerate(made)])


@given(CONDUITS, CONDUITS)
def test_effects_are_the_difference_of_what_is_reachable(old, new):
    def pairs(plant):
        return {
            Pair(who.name, service)
            for who in plant.principals.values()
            for service in reachable(plant, who, NOW)
        }

    before, after = with_conduits(*old), with_conduits(*new)
    done = effects(before, new, NOW)
    assert set(done.opens) == pairs(after) - pairs(before)
    assert set(done.closes) == pairs(before) - pairs(after)
