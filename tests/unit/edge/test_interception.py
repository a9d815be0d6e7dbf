"""What is assigned decides whether there is a device, and what cannot be done is said."""

from typing import Any, ClassVar

import pytest

from edge import interception
from edge.interception import Interception
from edge.tun.device import TunError
from overlay.control.messages import Assignments, InterceptEntry, ServicePorts
from overlay.policy.interception import MODES


class Device:
    """Stands in for a TUN device."""

    made: ClassVar[list["Device"]] = []
    fails: ClassVar[int] = 0

    def __init__(self, caught, table, routes, sources, settings) -> None:
        self.settings, self.running, self.problem = settings, False, ""
        self.flows: dict[str, int] = {}
        self.counts: dict[str, int] = {}

    async def start(self) -> None:
        if Device.fails:
            Device.fails -= 1
            raise TunError("A TUN device needs the capability CAP_NET_ADMIN.")
        self.running = True
        Device.made.append(self)

    def stop(self) -> None:
        self.running = False


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Device]:
    monkeypatch.setattr(interception, "TunInterceptor", Device)
    monkeypatch.setattr(interception, "RETRY", 0.0)
    monkeypatch.setattr(Device, "made", [])
    monkeypatch.setattr(Device, "fails", 0)
    return Device.made


def told(mode: str = "auto", pool: str = "100.64.0.0/10") -> Assignments:
    services = (ServicePorts("plc-b.modbus", 502, 502, 0),)
    entry = InterceptEntry("plc-b", 17, services, "edge-a", MODES.index(mode), ("192.168.1.5/32",))
    return Assignments(1, b"", (), (), (entry,), (), (pool,), "mill.internal")


def intercept() -> Interception:
    caught: Any = None
    return Interception(caught, lambda: "edge-a", lambda: bytes(32))


def mode_of(one: Interception) -> Any:
    status = one.status()
    assert status is not None
    return status["mode"]


async def settled(one: Interception) -> None:
    if one._task is not None:
        await one._task


async def test_there_is_a_device_as_long_as_something_is_intercepted(made):
    one = intercept()
    one.assign(Assignments(1, b"", (), ()))
    assert one._task is None
    assert one.status() is None
    one.assign(told())
    await settled(one)
    assert [str(each) for each in made[0].settings.addresses] == [
        "100.64.0.1/32", "fd00::1/128"
    ], "of the pools, the first address"  # fmt: skip
    assert mode_of(one) == "tun"
    assert one.table.match(0, bytes([192, 168, 1, 5]), 502).service == "plc-b.modbus"
    one.assign(told())
    assert len(made) == 1, "the same again changes nothing"
    one.assign(None)
    assert not made[0].running
    assert len(one.table) == 0
    await one.close()


async def test_another_pool_makes_another_device(made):
    one = intercept()
    one.assign(told())
    await settled(one)
    one.assign(told(pool="10.200.0.0/16"))
    await settled(one)
    assert [each.running for each in made] == [False, True]
    assert str(made[1].settings.addresses[0]) == "10.200.0.1/32"
    await one.close()
    assert not made[1].running


async def test_a_device_that_cannot_be_made_is_said_and_tried_again(made):
    Device.fails = 2
    one = intercept()
    one.assign(told())
    await settled(one)
    assert len(made) == 1
    assert one.problems == []
    await one.close()


async def test_a_mode_that_is_not_there_yet_is_a_problem_and_no_device(made):
    one = intercept()
    one.assign(told("tproxy"))
    assert one._task is None
    assert any("by tproxy, which this version does not do" in text for text in one.problems)
    assert mode_of(one) is None
    await one.close()
