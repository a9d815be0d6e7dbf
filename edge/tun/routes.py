"""Addresses and routes of a TUN device. They are gone with the device, so nothing of them needs a journal."""

import errno
import os
import threading
from collections.abc import Callable, Iterable

from edge.machine.netlink import Disturbances, Interface, Netlink, Network, Route, speaks_ipv6
from overlay.aio.lifecycle import describe
from overlay.aio.logs import get_logger

METRIC_V6 = 1024
"""That the kernel gives a route of IPv6: one to the same subnet with less is taken first. With IPv4 ours is 0."""

TOLD = 16
"""Subnets that are named where they cannot be routed; of more the number is."""
TURN = 64
"""Changes between two looks at what the kernel says of them: it keeps some hundreds for us."""

_log = get_logger("tun")


class TunRoutes:
    """Implements `edge.intercept.tun.Host` over rtnetlink.

    Args:
        wanted: the subnets that are routed to the device now.
    """

    def __init__(self, wanted: Callable[[], Iterable[Network]]) -> None:
        self.problems: list[str] = []
        """Subnets that cannot be routed, each in a sentence, and how many more there are than `TOLD`."""
        self._wanted = wanted
        self._index = 0
        self._versions: set[int] = set()
        self._routed: set[Network] = set()
        self._refused: list[str] = []
        self._news: Disturbances | None = None
        self._heard = False
        self._closed = False
        self._turn = threading.RLock()
        """`ready` and `refresh` are called in other threads, where they may take long."""

    def ready(self, name: str, addresses: Iterable[Interface]) -> list[Interface]:
        """Host: give the device its addresses, as far as this machine speaks their version, and all routes."""
        with self._turn, Netlink() as kernel:
            self._index = kernel.index(name)
            if self._closed:
                raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name)
            self._news = self._news or Disturbances()
            given = [one for one in addresses if one.version == 4 or speaks_ipv6(name)]
            for address in given:
                try:
                    kernel.add_address(self._index, address)
                except OSError as error:
                    if error.errno != errno.EEXIST:
                        raise
            self._routed &= {
                one.destination for one in kernel.routes() if one.interface == self._index
            }
            self._versions = {one.version for one in given}
            self.refresh()
        return given

    def refresh(self) -> None:
        """Make routes what is wanted now. Raises: OSError: the kernel does not listen at all, or the device is gone."""
        if not self._index:
            return
        with self._turn, Netlink() as kernel:
            wanted = {one for one in self._wanted() if one.version in self._versions}
            self._refused = []
            for at, network in enumerate(self._routed - wanted):
                self._between(kernel, at)
                self._drop(kernel, network)
            new = wanted - self._routed
            others = self._others(kernel) if any(one.version == 6 for one in new) else set()
            for at, network in enumerate(sorted(new, key=str)):
                self._between(kernel, at)
                if network in others:
                    self._complain(network, OSError(errno.EEXIST, ""))
                else:
                    self._add(kernel, network)
            self._between(kernel, 0)
            told, self.problems = set(self.problems), self._refused[:TOLD]
            if len(self._refused) > TOLD:
                more = len(self._refused) - TOLD
                self.problems.append(f"{more} other subnets cannot be intercepted, either")
            for problem in self.problems:
                if problem not in told:
                    _log.error("tun.route", reason=problem)

    def disturbed(self) -> bool:
        """Host: somebody else may have taken addresses or routes, or one that stood in the way."""
        if not self._turn.acquire(blocking=False):
            return False  # they are being changed just now: what is heard meanwhile is kept
        try:
            heard, self._heard = self._heard, False
            return self._listen(-1) or heard
        finally:
            self._turn.release()

    def close(self) -> None:
        """Host: it is not used any more."""
        self._closed = True  # ends what another thread does
        with self._turn:
            news, self._news = self._news, None
            if news is not None:
                news.close()

    def _between(self, kernel: Netlink, at: int) -> None:
        """Between two changes: hear what the kernel says of them before it is too much, and end when nobody wants them.

        Raises: OSError: ENODEV.
        """
        if self._closed:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        if at % TURN == 0:
            self._heard |= self._listen(kernel.port)

    def _listen(self, ours: int) -> bool:
        if self._news is None:
            return False
        return self._news.any(self._index, others=bool(self.problems), but=ours)

    def _others(self, kernel: Netlink) -> set[Network]:
        """Where IPv6 goes by other interfaces, whatever we say."""
        return {
            one.destination
            for one in kernel.routes(version=6)
            if one.interface != self._index and one.metric < METRIC_V6
        }

    def _drop(self, kernel: Netlink, network: Network) -> None:
        self._routed.discard(network)
        try:
            kernel.drop_route(Route(network, self._index))
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise
            if error.errno != errno.ESRCH:
                self._complain(network, error)

    def _add(self, kernel: Netlink, network: Network) -> None:
        try:
            kernel.add_route(Route(network, self._index))
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise
            self._complain(network, error)
        else:
            self._routed.add(network)

    def _complain(self, network: Network, error: OSError) -> None:
        why = (
            "this host has a route to it already"
            if error.errno == errno.EEXIST
            else describe(error)
        )
        self._refused.append(f"{network} cannot be intercepted: {why}")
