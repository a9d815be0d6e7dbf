"""Routes of a device that vanishes, that others take, or that are many."""

import errno
import ipaddress
import threading
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from edge.machine.netlink import Network, Route
from edge.tun import routes
from edge.tun.routes import TOLD, TURN, TunRoutes

SUBNETS = [ipaddress.IPv4Network((0x0A000000 + n * 256, 24)) for n in range(4 * TURN)]


class Kernel:
    """A host that takes every route, unless `refuse` says otherwise."""

    port = 4711
    news: bool = False
    there: ClassVar[list[Network]] = []
    before: Callable[[], None] = staticmethod(lambda: None)

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def index(self, _: str) -> int:
        return 7

    def routes(self, **_: object) -> list[Route]:
        return [Route(one, 7) for one in self.there]

    def add_address(self, *_: object) -> None:
        pass

    def add_route(self, route: Route) -> None:
        self.before()
        self.there.append(route.destination)

    def drop_route(self, route: Route) -> None:
        self.there.remove(route.destination)


class News:
    """What the kernel tells; `told` counts whose changes were to be left out."""

    told: ClassVar[list[int]] = []

    def any(self, _: int, *, others: bool, but: int) -> bool:
        self.told.append(but)
        found, Kernel.news = Kernel.news, False
        return found

    def close(self) -> None:
        pass


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> type[Kernel]:
    monkeypatch.setattr(routes, "Netlink", Kernel)
    monkeypatch.setattr(routes, "Disturbances", News)
    monkeypatch.setattr(Kernel, "there", [])
    monkeypatch.setattr(Kernel, "before", staticmethod(lambda: None))
    monkeypatch.setattr(Kernel, "news", False)
    monkeypatch.setattr(News, "told", [])
    return Kernel


def test_a_device_that_is_gone_is_an_error_of_the_system_which_is_tried_again():
    with pytest.raises(OSError, match="nosuch0") as caught:
        TunRoutes(list).ready("nosuch0", [])
    assert caught.value.errno == errno.ENODEV


def test_many_changes_end_at_once_when_nobody_wants_them_any_more(kernel: Any):
    one = TunRoutes(lambda: SUBNETS)

    def closed_meanwhile() -> None:
        if len(Kernel.there) == 5:
            one.close()

    kernel.before = staticmethod(closed_meanwhile)
    with pytest.raises(OSError, match="No such device"):
        one.ready("ftun0", [ipaddress.ip_interface("10.0.0.1/32")])
    assert len(kernel.there) == 6
    with pytest.raises(OSError, match="ftun0"):
        one.ready("ftun0", [])


def test_a_device_that_goes_in_the_middle_is_said_once(kernel: Any):
    """Not once for each route."""
    one = TunRoutes(lambda: SUBNETS)

    def gone() -> None:
        raise OSError(errno.ENODEV, "No such device")

    kernel.before = staticmethod(gone)
    with pytest.raises(OSError, match="No such device"):
        one.ready("ftun0", [ipaddress.ip_interface("10.0.0.1/32")])
    assert one.problems == []


def test_of_many_subnets_that_cannot_be_routed_some_are_named_and_the_others_counted(kernel: Any):
    def taken() -> None:
        raise OSError(errno.EEXIST, "File exists")

    kernel.before = staticmethod(taken)
    one = TunRoutes(lambda: SUBNETS)
    one.ready("ftun0", [ipaddress.ip_interface("10.0.0.1/32")])
    assert len(one.problems) == TOLD + 1
    assert "10.0.0.0/24 cannot be intercepted: this host has a route" in one.problems[0]
    assert one.problems[-1] == f"{4 * TURN - TOLD} other subnets cannot be intercepted, either"


def test_what_others_do_while_routes_are_changed_is_heard_and_waited_for_without_blocking(
    kernel: Any,
):
    """The event loop asks while another thread changes routes: it must neither wait for it nor miss anything."""
    one = TunRoutes(lambda: SUBNETS)
    asked: list[bool] = []

    def meanwhile() -> None:
        if len(Kernel.there) == 3:
            Kernel.news = True  # somebody else's doing
            thread = threading.Thread(target=lambda: asked.append(one.disturbed()))
            thread.start()
            thread.join(10)

    kernel.before = staticmethod(meanwhile)
    one.ready("ftun0", [ipaddress.ip_interface("10.0.0.1/32")])
    assert asked == [False], "answered at once"
    assert set(News.told) == {Kernel.port}, "our own doing does not count"
    assert len(News.told) > 4, "heard before it is too much"
    assert one.disturbed()
    assert not one.disturbed()
