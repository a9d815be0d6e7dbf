"""What is assigned decides whether there is a device, and what cannot be done is said."""

import asyncio
import errno
import ipaddress
import os
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from edge import interception
from edge.intercept import plan
from edge.intercept.base import Failed
from edge.interception import Interception
from overlay.control.messages import Assignments, InterceptEntry, ServicePorts
from overlay.policy.interception import MODES, Address
from tests.support.changes import Changes
from tests.support.honest import until


class Device:
    """Stands in for a device of any mode."""

    made: ClassVar[list["Device"]] = []
    fails: ClassVar[dict[str, int]] = {}
    short: ClassVar[list[str]] = []
    """Of what the host has none left, once for each."""

    def __init__(self, mode: str, settings: Any = None, plan: Any = None) -> None:
        self.mode, self.settings, self.plan = mode, settings, plan
        self.interface = "ferrule0" if mode == "tun" else "lo"
        self.running, self.refreshed = False, 0
        self.problems: list[str] = []
        self.flows: dict[str, int] = {}
        self.counts: dict[str, int] = {}

    async def start(self) -> None:
        if Device.fails.get(self.mode):
            Device.fails[self.mode] -= 1
            raise Failed(f"no {self.mode} today")
        self.running = True
        Device.made.append(self)

    async def refresh(self) -> None:
        if Device.short:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), Device.short.pop())
        if Device.fails.get(self.mode):
            Device.fails[self.mode] -= 1
            raise Failed(f"no other {self.mode} today")
        self.refreshed += 1

    def cut(self) -> None:
        self.running = False

    async def stop(self) -> None:
        self.running = False


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    def tun(caught, table, routes, sources, guard, settings) -> Device:
        return Device("tun", settings)

    def steered(mode, caught, table, sources, changes, plan, interface, addresses) -> Device:
        return Device(mode, addresses, plan)

    monkeypatch.setattr(interception, "TunInterceptor", tun)
    monkeypatch.setattr(interception, "SteeredInterceptor", steered)
    monkeypatch.setattr(interception, "RETRY", 0.01)
    monkeypatch.setattr(Device, "made", [])
    monkeypatch.setattr(Device, "fails", {})
    return Device.made


def told(mode: str = "auto", pool: str = "100.64.0.0/10") -> Assignments:
    services = (ServicePorts("plc-b.modbus", 502, 502, 0),)
    entry = InterceptEntry("plc-b", 17, services, "edge-a", MODES.index(mode), ("192.168.1.5/32",))
    return Assignments(1, b"", (), (), (entry,), (), (pool,), "mill.internal")


def intercept(*peers: str, changes: Any = None, uses: Any = None) -> Interception:
    nothing: Any = None
    changes = changes or Changes()

    async def addresses() -> list[Address]:
        return [ipaddress.ip_address(one) for one in peers]

    uses = uses or frozenset
    return Interception(nothing, lambda: "edge-a", lambda: bytes(32), changes, addresses, uses)


def status_of(one: Interception) -> dict[str, Any]:
    status = one.status()
    assert status is not None
    return status


async def test_there_is_a_device_as_long_as_something_is_intercepted(made):
    one = intercept()
    one.assign(Assignments(1, b"", (), ()))
    assert one._task is None
    assert one.status() is None
    one.assign(told())
    await until(lambda: made)
    assert [str(each) for each in made[0].settings.addresses] == [
        "100.64.0.1/32", "fd00::1/128"
    ], "of the pools, the first address"  # fmt: skip
    status = status_of(one)
    assert status["mode"] == "tun"
    assert "first choice of auto" in status["why"]
    assert one.table.match(0, bytes([192, 168, 1, 5]), 502).service == "plc-b.modbus"
    one.assign(told())
    one.assign(None)
    assert not made[0].running, "at once"
    assert len(one.table) == 0
    assert len(made) == 1, "the same again changed nothing"
    await one.close()


async def test_whoever_waits_for_the_edges_own_addresses_is_told_at_once(made: list[Device]):
    """Names are answered there: a look each second would leave the first ones unanswered."""
    one, there = intercept(), list[str]()
    one.made = lambda: there.append(one.interface)
    one.assign(told())
    await until(lambda: there)
    assert there == ["ferrule0"]
    one.assign(told("tproxy"))
    await until(lambda: len(there) > 1)
    assert set(there[1:]) == {"lo"}
    await one.close()


async def test_another_pool_makes_another_device(made):
    one = intercept()
    one.assign(told())
    await until(lambda: made)
    one.assign(told(pool="10.200.0.0/16"))
    await until(lambda: len(made) == 2)
    assert [each.running for each in made] == [False, True]
    assert str(made[1].settings.addresses[0]) == "10.200.0.1/32"
    await one.close()
    assert not made[1].running


class Addressed:
    """A kernel that knows nothing but addresses of this host."""

    there: ClassVar[list[str]] = []

    def addresses(self) -> list[tuple[int, Any]]:
        return [(1, ipaddress.ip_interface(text)) for text in Addressed.there]

    def close(self) -> None: ...


@pytest.mark.parametrize("taken", ["100.64.0.1/32", "fd00::1/128"])
async def test_a_pool_that_another_edge_of_this_host_has_is_left_to_it_and_that_is_said(
    made: list[Device], monkeypatch: pytest.MonkeyPatch, taken: str
):
    """By whatever mode: rules of this one would refuse what the other one carries."""
    monkeypatch.setattr(interception, "Netlink", Addressed)
    monkeypatch.setattr(Addressed, "there", ["192.168.1.1/24", taken])
    one = intercept()
    one.assign(told())
    await until(lambda: one.problems)
    (problem,) = one.problems
    assert problem.startswith(f"{taken.partition('/')[0]} is an address of this host already")
    assert "--tun" in problem
    status = status_of(one)
    assert (status["mode"], status["why"]) == (None, problem)
    assert not one.interface, "names are not answered at an address that is another one's"
    assert made == []
    Addressed.there = ["192.168.1.1/24"]
    await until(lambda: made)
    Addressed.there = ["192.168.1.1/24", "100.64.0.1/32", "fd00::1/128"]
    await asyncio.sleep(0.05)
    assert one.problems == [], "it is its own by now"
    assert made[0].running
    await one.close()


async def test_auto_takes_the_first_mode_that_works_and_says_why(made):
    Device.fails = {"tun": 1}
    one = intercept()
    one.assign(told())
    await until(lambda: made)
    status = status_of(one)
    assert (status["mode"], status["interface"], one.interface) == ("tproxy", "lo", "lo")
    assert status["why"] == (
        "auto takes the first that works: tun does not (no tun today); tproxy carries no ping"
    )
    assert one.problems == []
    await one.close()


async def test_what_does_not_work_at_all_is_said_and_tried_again(made):
    Device.fails = dict.fromkeys(("tun", "tproxy", "redirect"), 1000)
    one = intercept()
    one.assign(told())
    await until(lambda: len(one.problems) == 3)
    assert "tproxy does not work here: no tproxy today" in one.problems
    assert status_of(one)["mode"] is None
    Device.fails.clear()
    await until(lambda: made)
    assert status_of(one)["mode"] == "tun"
    assert one.problems == []
    await one.close()


async def test_a_mode_that_nothing_asks_for_any_more_is_no_problem(made: list[Device]):
    """While auto has another one."""
    Device.fails = {"redirect": 1000}
    one, both = intercept(), told()
    more = InterceptEntry("plc-c", 18, both.intercepts[0].services, "edge-a", 3, ("10.0.0.1/32",))
    one.assign(replace(both, intercepts=(*both.intercepts, more)))
    await until(lambda: one.problems == ["redirect does not work here: no redirect today"])
    one.assign(both)
    await until(lambda: one.problems == [])
    await one.close()


async def test_a_host_without_descriptors_is_said_and_tried_again(
    made: list[Device], monkeypatch: pytest.MonkeyPatch
):
    device, short = Interception._device, [True]

    def no_file(self: Interception, mode: str) -> Any:
        if short:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return device(self, mode)

    monkeypatch.setattr(Interception, "_device", no_file)
    one = intercept()
    one.assign(told())
    await until(lambda: any("open files" in text for text in one.problems))
    short.clear()
    await until(lambda: made)
    await until(lambda: one.problems == [])
    await one.close()


async def test_each_entry_is_caught_by_the_mode_that_it_asks_for(made):
    one = intercept()
    one.assign(told("tproxy"))
    await until(lambda: made)
    assert status_of(one)["mode"] == "tproxy"
    plan = made[0].plan()
    assert {str(served.prefix) for served in plan.served} == {
        "192.168.1.5", "100.64.0.17", "fd00::11"
    }  # fmt: skip
    assert {str(prefix) for prefix in plan.alone} == {"192.168.1.5", "100.64.0.0/10", "fd00::/64"}
    both = told("tproxy")
    more = InterceptEntry("plc-c", 18, both.intercepts[0].services, "edge-a", 0, ("10.0.0.1/32",))
    one.assign(replace(both, intercepts=(*both.intercepts, more)))
    await until(lambda: len(made) == 2)
    assert status_of(one)["mode"] == "tun and tproxy"
    assert one.interface == "ferrule0"
    await until(lambda: made[0].refreshed == 1)
    assert {str(prefix) for prefix in made[0].plan().alone} == {"192.168.1.5"}, "the pool is TUN's"
    one.assign(told())
    await until(lambda: not made[0].running)
    assert status_of(one)["mode"] == "tun"
    await one.close()


async def test_a_change_that_fails_is_said_and_tried_again(made):
    one = intercept()
    one.assign(told())
    await until(lambda: made)
    Device.fails = {"tun": 1000}
    other = told()
    other = replace(other, intercepts=(replace(other.intercepts[0], number=18),))
    one.assign(other)
    await until(lambda: Device.fails["tun"] < 998)
    assert one.problems == ["tun does not work here: no other tun today"]
    assert made[0].running, "what there was goes on"
    Device.fails.clear()
    await until(lambda: made[0].refreshed)
    assert one.problems == []
    count = made[0].refreshed
    await asyncio.sleep(0.05)
    assert made[0].refreshed == count, "once is enough"
    await one.close()


async def test_redirect_says_which_services_it_does_not_carry(made):
    one = intercept()
    datagrams = (ServicePorts("plc-b.telemetry", 7000, 7000, 1),)
    entry = InterceptEntry("plc-b", 17, datagrams, "edge-a", MODES.index("redirect"), ())
    one.assign(replace(told(), intercepts=(entry,)))
    await until(lambda: made)
    assert one.problems == ["plc-b.telemetry is UDP, which redirect does not carry"]
    assert made[0].plan().served == ()
    await one.close()


async def test_the_address_of_a_router_is_never_caught_and_that_is_said(made):
    one = intercept("192.168.1.5")
    one.assign(told("tproxy"))
    await until(lambda: made)
    (problem,) = one.problems
    assert problem.startswith("192.168.1.5 is the address of a router")
    assert problem.endswith("it is left out, since the edge would lose its way to the plant")
    plan = made[0].plan()
    assert "192.168.1.5" not in {str(prefix) for prefix in plan.prefixes()}
    await one.close()


async def test_ten_thousand_intercepts_are_loaded_while_the_loop_goes_on(made):
    """The loop's longest pause is not the load itself, which takes most of a second."""
    one = intercept()
    services = (ServicePorts("plc.modbus", 502, 502, 0),)
    entries = tuple(
        InterceptEntry(f"plc-{n}", 16 + n, services, "edge-a", 0, (f"10.{n // 250}.{n % 250}.0/24",))
        for n in range(10_000)
    )  # fmt: skip
    turns = 0
    one.assign(replace(told(), intercepts=entries))
    while not made:
        await asyncio.sleep(0.001)
        turns += 1
    assert len(one.table) == 10_000
    assert turns > 10
    await one.close()


async def test_rules_that_somebody_removed_and_that_cannot_be_made_again_are_a_problem(
    made: list[Device],
):
    changes = Changes()
    one = intercept(changes=changes)
    one.assign(told("tproxy"))
    await until(lambda: [device.mode for device in made] == ["tproxy"])
    assert one.problems == []
    changes.refuses = "nft is gone"
    await until(lambda: any("nft is gone" in text for text in one.problems))
    changes.refuses = ""
    await until(lambda: one.problems == [])
    await one.close()


async def test_the_edges_own_addresses_go_on_to_another_mode_when_theirs_ends(made: list[Device]):
    """Names are answered at them. One mode has them; by tun the interface has them in any case."""
    one = intercept()
    both = told("tproxy")
    second = replace(both.intercepts[0], number=18, asset="plc-c", addresses=("192.168.2.5/32",))

    def with_second(mode: str) -> Assignments:
        other = replace(second, mode=MODES.index(mode))
        return replace(both, intercepts=(*both.intercepts, other))

    one.assign(with_second("redirect"))
    await until(lambda: len(made) == 2)
    by_mode = {device.mode: device for device in made}
    assert [str(address) for address in by_mode["tproxy"].settings()] == [
        "100.64.0.1/32", "fd00::1/128",
    ]  # fmt: skip
    assert by_mode["redirect"].settings() == ()
    one.assign(replace(both, intercepts=(replace(second, mode=MODES.index("redirect")),)))
    await until(lambda: not by_mode["tproxy"].running and by_mode["redirect"].refreshed > 1)
    assert len(by_mode["redirect"].settings()) == 2
    await one.close()


async def test_rules_are_made_anew_when_there_are_other_grants_and_only_then(made: list[Device]):
    """By tun nothing is: the verdict falls at each SYN."""
    uses = {("edge-a", "plc-b.modbus", 0)}
    one = intercept(uses=lambda: frozenset(uses))
    one.assign(told("tproxy"))
    await until(lambda: made)
    (device,) = made
    assert len(device.plan().allowed) == 3, "the host itself, at each place"
    count = device.refreshed
    one.granted()
    await asyncio.sleep(0.05)
    assert device.refreshed == count, "the same grants, renewed"
    uses.clear()
    one.granted()
    await until(lambda: device.refreshed > count)
    assert device.plan().allowed == ()
    Device.fails = {"tproxy": 3}
    uses.add(("edge-a", "plc-b.modbus", 0))
    one.granted()
    await until(lambda: not Device.fails["tproxy"])
    await until(lambda: one.problems == [])
    assert len(device.plan().allowed) == 3, "tried again until the rules know it"
    await one.close()


@pytest.mark.parametrize("by_grants", [True, False], ids=["grants", "intercepts"])
async def test_a_change_that_ends_in_an_error_of_the_host_is_tried_again(
    made: list[Device], *, by_grants: bool
):
    """Whether there are other grants or other intercepts: the rules must not stay the old ones."""
    uses: set[Any] = set()
    one = intercept(uses=lambda: frozenset(uses))
    one.assign(told("tproxy"))
    await until(lambda: made)
    Device.short += ["a file", "a thread"]
    if by_grants:
        uses.add(("edge-a", "plc-b.modbus", 0))
        one.granted()
    else:
        one.assign(
            replace(told("tproxy"), intercepts=(replace(told("tproxy").intercepts[0], number=18),))
        )
    await until(lambda: not Device.short)
    count = made[0].refreshed
    await until(lambda: made[0].refreshed > count)
    allowed = made[0].plan().allowed
    assert len(allowed) == (3 if by_grants else 0)
    assert one.problems == []
    await one.close()


async def test_more_pairs_than_rules_hold_are_a_problem(
    made: list[Device], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(plan, "ALLOWED", 2)
    monkeypatch.setattr(interception, "ALLOWED", 2)
    one = intercept(uses=lambda: frozenset({("edge-a", "plc-b.modbus", 0)}))
    one.assign(told("tproxy"))
    await until(lambda: made)
    (problem,) = one.problems
    assert problem.startswith("there are grants for more than 2 pairs of a sender and a place")
    assert made[0].plan().allowed is None
    await one.close()
