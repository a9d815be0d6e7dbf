"""Who is at an address: this machine itself, or a device on the LAN with its hardware address."""

from collections.abc import Callable
from typing import Any, Protocol

REFRESH = 1.0
"""Seconds after which the machine is asked again, whoever is known."""
REFRESH_UNKNOWN = 0.05
"""Seconds after which it is asked again about an address that it did not know: strangers do not keep it busy."""


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

    def own(self, address: bytes) -> bool:
        """Sources."""
        self._ask(REFRESH)
        if address not in self._own and address not in self._macs:
            self._ask(REFRESH_UNKNOWN)
        return address in self._own

    def mac(self, address: bytes) -> bytes | None:
        """Sources."""
        self._ask(REFRESH)
        return self._macs.get(address)

    def _ask(self, after: float) -> None:
        now = self._now()
        if now - self._asked < after:
            return
        self._asked = now
        try:
            self._own = frozenset(address.packed for _, address in self._kernel.addresses())
            self._macs = self._kernel.neighbours()
        except OSError:
            return  # what was known stays; nobody becomes known by it
