"""What hosting of any transport needs: where an asset is, and what is said when it does not answer."""

from typing import NamedTuple

from overlay.addresses import format_address
from overlay.control.messages import HostedEntry
from overlay.errors import Code
from overlay.policy.grant_check import Objection


class Place(NamedTuple):
    """An asset's service as it is dialled; port 0 where there are none (ICMP)."""

    host: str
    port: int

    def __str__(self) -> str:
        return format_address(self.host, self.port) if self.port else self.host


def place_of(entry: HostedEntry, port: int) -> Place | Objection:
    """Where a circuit goes that asks for this port; 0 is the service's first (C-09)."""
    if port and not entry.port <= port <= entry.port_end:
        return Code.BAD_GRANT, f"port {port} is not one of {entry.service}"
    return Place(entry.address, port or entry.port)
