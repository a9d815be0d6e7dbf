"""Addresses and routes of a TUN device. They are gone with the device, so nothing of them needs a journal."""

import errno
from collections.abc import Callable, Iterable

from edge.netlink import Interface, Netlink, Network, Route, speaks_ipv6
from overlay.aio.lifecycle import describe
from overlay.aio.logs import get_logger

_log = get_logger("tun")


class TunRoutes:
    """Implements `edge.intercept.tun.Host` over rtnetlink.

    Args:
        wanted: the subnets that are routed to the device now.
    """

    def __init__(self, wanted: Callable[[], Iterable[Network]]) -> None:
        self.problems: list[str] = []
        """Subnets that cannot be routed, each in a sentence."""
        self._wanted = wanted
        self._index = 0
        self._versions: set[int] = set()
        self._routed: set[Network] = set()

    def ready(self, name: str, addresses: Iterable[Interface]) -> list[Interface]:
        """Host: give the device its addresses, as far as this machine speaks their version, and all routes."""
        self._routed.clear()
        with Netlink() as kernel:
            self._index = kernel.index(name)
            given = [one for one in addresses if one.version == 4 or speaks_ipv6(name)]
            for address in given:
                try:
                    kernel.add_address(self._index, address)
                except OSError as error:
                    if error.errno != errno.EEXIST:
                        raise
        self._versions = {one.version for one in given}
        self.refresh()
        return given

    def refresh(self) -> None:
        """Make routes what is wanted now. Raises: OSError: the kernel does not listen at all."""
        if not self._index:
            return
        wanted = {one for one in self._wanted() if one.version in self._versions}
        self.problems = []
        with Netlink() as kernel:
            for network in self._routed - wanted:
                self._drop(kernel, network)
            for network in sorted(wanted - self._routed, key=str):
                self._add(kernel, network)

    def _drop(self, kernel: Netlink, network: Network) -> None:
        self._routed.discard(network)
        try:
            kernel.drop_route(Route(network, self._index))
        except OSError as error:
            if error.errno != errno.ESRCH:
                self._complain(network, error)

    def _add(self, kernel: Netlink, network: Network) -> None:
        try:
            kernel.add_route(Route(network, self._index))
        except OSError as error:
            self._complain(network, error)
        else:
            self._routed.add(network)

    def _complain(self, network: Network, error: OSError) -> None:
        why = (
            "this host has a route to it already"
            if error.errno == errno.EEXIST
            else describe(error)
        )
        self.problems.append(f"{network} cannot be intercepted: {why}")
        _log.error("tun.route", to=str(network), reason=why)
