"""What hosting of any transport needs: where an asset is, and what is said when it does not answer."""

import ipaddress
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


def place_of(entry: HostedEntry, port: int, address: bytes = b"") -> Place | Objection:
    """Where a circuit goes that asks for this port, 0 being the service's first (C-09), and this address (C-19)."""
    if port and not entry.port <= port <= entry.port_end:
        return Code.BAD_GRANT, f"port {port} is not one of {entry.service}"
    host = host_of(entry, address)
    return Place(host, port or entry.port) if isinstance(host, str) else host


def host_of(entry: HostedEntry, address: bytes) -> str | Objection:
    """The address that is dialled for a circuit (C-19): no other than the asset's own, or one of its subnet."""
    subnet = entry.address if "/" in entry.address else ""
    if not subnet:
        if address:
            return Code.BAD_GRANT, f"{entry.asset} is no subnet, and has one address"
        return entry.address
    if not address:
        return Code.BAD_GRANT, f"{entry.asset} is the subnet {subnet}: say which address of it"
    if len(address) not in (4, 16) or not is_in(ipaddress.ip_address(address), subnet):
        return Code.BAD_GRANT, f"the address asked for is no device's in {subnet}"
    return str(ipaddress.ip_address(address))


def is_in(address: ipaddress.IPv4Address | ipaddress.IPv6Address, subnet: str) -> bool:
    """Whether a device can have this address in a subnet: not the subnet itself, and not everybody in it."""
    network = ipaddress.ip_network(subnet)
    if address.version != network.version or address not in network:
        return False
    few = network.num_addresses <= 2
    return few or address not in (network.network_address, network.broadcast_address)
