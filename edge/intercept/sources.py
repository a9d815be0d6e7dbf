"""Who is at an address: this machine itself, or a device on the LAN with its hardware address."""

from collections.abc import Callable
from typing import Any, Protocol

from edge.packets.rate import Bucket

REFRESH = 1.0
"""Seconds after which the machine is asked again, whoever is known."""
UNKNOWN_AT_ONCE = 16
"""Times that it is asked at once about an address that it did not know: a device may have come this moment."""
UNKNOWN_PER_SECOND = 20.0
"""Times a second that it may be asked so after that: strangers do not keep it busy."""


class Neighbourhood(Protocol):
    """`edge.machine.netlink.Netlink`, as far as it is asked here. Raises: OSError."""

    def addresses(self) -> list[tuple[int, Any]]:
        """This machine's addresses, with interfaces."""
        ...

    def neighbours(self) -> dict[bytes, bytes]:
        """Hardware addresses by packed IP address."""
        ...


class KnownSources:
    """Implements `edge.intercept.senders.Sources`: what the kernel knows, asked seldom.

    Args:
        kernel: who is asked.
        now: monotonic seconds.
    """

    def __init__(self, kernel: Neighbourhood, now: Callable[[], float]) -> None:
        self._kernel = kernel
        self._now = now
        self._own: frozenset[bytes] = frozenset()
        self._macs: dict[bytes, bytes] = {}
        self._asked = float("-inf")
        self._unknown = Bucket(UNKNOWN_AT_ONCE, now())

    def own(self, address: bytes) -> bool:
        """Sources."""
        unknown = address not in self._own and address not in self._macs
        if not self._refresh() and unknown and self._may_ask():
            self._ask()
        return address in self._own

    def mac(self, address: bytes) -> bytes | None:
        """Sources."""
        self._refresh()
        return self._macs.get(address)

    def _may_ask(self) -> bool:
        return self._unknown.take(UNKNOWN_PER_SECOND, UNKNOWN_AT_ONCE, self._now())

    def _refresh(self) -> bool:
        due = self._now() - self._asked >= REFRESH
        if due:
            self._ask()
        return due

    def _ask(self) -> None:
        self._asked = self._now()
        try:
            self._own = frozenset(address.packed for _, address in self._kernel.addresses())
            self._macs = self._kernel.neighbours()
        except OSError:
            return  # what was known stays; nobody becomes known by it
