"""Whose address an asset sees (G-06): the one in the grant or none, and a sentence where it cannot be."""

import asyncio
from typing import Any

import pytest

from edge.host.foreign import ForeignAddresses, ForeignError
from overlay.control.messages import Assignments, HostedEntry
from tests.support.changes import Changes
from tests.support.edges import ASSET, PORT, Plant, story

KEPT = HostedEntry("plc-b.modbus", "plc-b", "10.0.0.5", 502, 502, 0, keep_source=True)


class Granted:
    who = "hmi-a"

    def __init__(self, address: str) -> None:
        self.who_address = address


async def test_only_what_the_controller_signed_is_used_and_only_once_the_rules_are_there():
    changes: Any = Changes()
    foreign = ForeignAddresses(changes, "ferrule0")
    asked: Any = Granted("10.7.7.7")
    assert foreign.of(HostedEntry("plc-b.http", "plc-b", "10.0.0.5", 80, 80, 0), asked) == ""
    with pytest.raises(ForeignError, match="not made yet"):
        foreign.of(KEPT, asked)
    foreign.assign([KEPT])
    await asyncio.sleep(0.01)
    route, rule, rules = changes.made
    assert (route.table, rule.table) == (rule.mark, rule.mark)
    assert f"meta mark set {rule.mark:#x}" in rules.rules
    assert rules.table.startswith("ferrule0_hosting_")
    assert foreign.of(KEPT, asked) == "10.7.7.7"
    for wrong, words in (("", "none is recorded for hmi-a"), ("fd00::7", "not of one IP version")):
        given: Any = Granted(wrong)
        with pytest.raises(ForeignError, match=words):
            foreign.of(KEPT, given)
    with pytest.raises(ForeignError, match="none is recorded"):
        foreign.of(KEPT, None)
    foreign.assign([])
    await asyncio.sleep(0.01)
    assert changes.made == []
    foreign.assign([KEPT])
    await asyncio.sleep(0.01)
    await foreign.close()
    assert changes.made == []


async def test_an_end_with_a_full_disk_is_an_end():
    """The journal has what was not crossed out: the next start takes it back once more."""
    changes: Any = Changes()
    foreign = ForeignAddresses(changes, "ferrule0")
    foreign.assign([KEPT])
    await asyncio.sleep(0.01)
    changes.full = True
    await foreign.close()
    assert "No space left" in foreign.problem


async def test_without_the_capability_it_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edge.host.foreign.RETRY", 0.02)
    changes: Any = Changes()
    changes.refuses = "the nftables table cannot be made: the edge needs CAP_NET_ADMIN"
    foreign = ForeignAddresses(changes, "ferrule0")
    foreign.assign([KEPT])
    await asyncio.sleep(0.01)
    given: Any = Granted("10.7.7.7")
    with pytest.raises(ForeignError, match=r"cannot be kept: .* needs CAP_NET_ADMIN"):
        foreign.of(KEPT, given)
    assert "CAP_NET_ADMIN" in foreign.problem
    changes.refuses = ""
    await asyncio.sleep(0.05)
    assert (foreign.of(KEPT, given), foreign.problem) == ("10.7.7.7", "")
    await foreign.close()


async def test_two_edges_of_one_host_have_nothing_in_common():
    """By folder or by interface: nothing of the one is over that of the other, or is gone with it."""
    owners = (("/a", "ferrule0"), ("/b", "ferrule0"), ("/a", "ferrule1"))
    hosts: list[Any] = [Changes(owner) for owner, _ in owners]
    all_ = [ForeignAddresses(host, name) for host, (_, name) in zip(hosts, owners, strict=True)]
    for one in all_:
        one.assign([KEPT])
    await asyncio.sleep(0.01)
    routes, rules, tables = zip(*(host.made for host in hosts), strict=True)
    for some in (
        [one.table for one in routes],
        [one.mark for one in rules],
        [one.table for one in tables],
    ):
        assert len(set(some)) == len(owners)
    for one in all_:
        await one.close()


def test_a_caller_without_a_recorded_address_is_refused_and_recorded():
    """A caller cannot say an address by itself: there is no field for it (G-06)."""

    async def test(plant: Plant):
        entry = HostedEntry("plc-b.modbus", ASSET, ASSET, PORT, PORT, 0, keep_source=True)
        plant.b.assigned(Assignments(2, b"", (), (entry,)))
        plant.allow()
        client = await plant.dial()
        await asyncio.sleep(0.1)
        assert client.gone
        (failed,) = plant.b.agent.of("circuit.open", "failed")
        assert "none is recorded for hmi-a" in failed["reason"]
        assert plant.assets == []

    story(test)
