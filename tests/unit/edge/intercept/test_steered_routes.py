"""Routes for programs of the host itself: as long as something of theirs is intercepted, and before the rules."""

import ipaddress
from typing import Any

import pytest

from edge.intercept import steered
from edge.intercept.base import Failed
from edge.intercept.plan import Plan
from edge.intercept.steered import SteeredInterceptor
from edge.machine.changes import NftChange, RouteChange
from edge.machine.netlink import Route
from overlay.policy.interception import Prefix
from tests.support.changes import Changes


class Kernel:
    """A host with one route of its own."""

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def routes(self, table: int) -> list[Route]:
        return [Route(ipaddress.ip_network("192.168.1.0/24"), 2)]


def plan(*subnets: str) -> Plan:
    return Plan((), tuple(Prefix.of(ipaddress.ip_network(one)) for one in subnets))


def routed(changes: Changes) -> list[str]:
    return sorted(one.destination for one in changes.made if isinstance(one, RouteChange))


def rules(changes: Changes) -> list[str]:
    return [one.sets for one in changes.made if isinstance(one, NftChange)]


async def test_a_route_is_there_as_long_as_its_subnet_is_and_before_the_rules(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(steered, "Netlink", Kernel)
    changes: Any = Changes()
    nothing: Any = None
    now = plan("10.0.0.0/8", "10.1.0.0/16", "192.168.1.5/32")
    made = SteeredInterceptor(
        "redirect", nothing, nothing, nothing, changes, lambda: now, "ferrule0", tuple
    )
    await made.start()
    assert routed(changes) == ["10.0.0.0/8"], "the others are covered"
    now = plan("10.1.0.0/16", "10.2.0.0/16")
    before = rules(changes)
    changes.refuses = "the route cannot be made"
    with pytest.raises(Failed, match="cannot be made"):
        await made.refresh()
    assert (routed(changes), rules(changes)) == (["10.0.0.0/8"], before)
    changes.refuses = ""
    await made.refresh()
    assert routed(changes) == ["10.1.0.0/16", "10.2.0.0/16"], (
        "tried again, and the stale one is gone"
    )
    assert rules(changes) != before
    now = plan()
    await made.refresh()
    assert routed(changes) == []
    now = plan("10.3.0.0/16")
    await made.refresh()
    await made.stop()
    assert changes.made == []


async def test_rules_that_the_journal_could_not_hold_are_not_made(monkeypatch: pytest.MonkeyPatch):
    """An edge that could not read its journal would not start again."""
    monkeypatch.setattr(steered, "Netlink", Kernel)
    changes: Any = Changes()
    nothing: Any = None
    now = plan("10.0.0.0/8")
    made = SteeredInterceptor(
        "redirect", nothing, nothing, nothing, changes, lambda: now, "ferrule0", tuple
    )
    await made.start()
    before = rules(changes)
    monkeypatch.setattr(steered, "MAX_RULES", len(before[0]))
    now = plan("10.0.0.0/8", "10.1.0.0/16")
    with pytest.raises(Failed, match="the rules would have more than"):
        await made.refresh()
    assert rules(changes) == before
    await made.stop()
    with pytest.raises(Failed, match="the rules would have more than"):
        await made.start()
    assert changes.made == []
