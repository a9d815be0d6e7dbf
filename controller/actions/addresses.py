"""Addresses that people type: IP, MAC, HOST:PORT; each in one canonical form."""

import ipaddress
import re

from controller.actions.errors import Invalid
from overlay.policy.names import shown

_MAC = re.compile(r"[0-9a-f]{2}(?:[:-]?[0-9a-f]{2}){5}")
_HOST = re.compile(
    r"(?=.{1,253}$)[a-z0-9_](?:[a-z0-9_-]{0,62})(?:\.[a-z0-9_](?:[a-z0-9_-]{0,62}))*"
)


LARGEST = 1 << 16
"""Addresses of a subnet that is one asset: one of everything would be a way out of the plant."""


def parse_ip(text: str) -> str:
    """An IPv4 or IPv6 address.

    Raises:
        Invalid: something else, a subnet or a zone index included.
    """
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        raise Invalid(f"{shown(text)} is not an IP address: write 192.168.1.20") from None
    if address.is_unspecified or address.is_multicast or "%" in text:
        raise Invalid(f"{shown(text)} cannot be the address of one device")
    return str(address)


def parse_place(text: str) -> str:
    """Where an asset is: an address, or a subnet of devices that are one asset.

    Raises:
        Invalid: something else, or a subnet that is none of a plant: too large, or of no devices.
    """
    if "/" not in text:
        return parse_ip(text)
    try:
        network = ipaddress.ip_network(text.strip())
    except ValueError:
        raise Invalid(
            f"{shown(text)} is not a subnet: write 192.168.1.0/24, with zeros behind its length"
        ) from None
    if network.num_addresses > LARGEST or network.num_addresses == 1:
        raise Invalid(f"{text.strip()} is not possible: a subnet has from 2 to {LARGEST} addresses")
    if network.is_multicast or network.is_loopback or network.is_unspecified or network.is_reserved:
        raise Invalid(f"{shown(text)} is no subnet of devices")
    return str(network)


def parse_mac(text: str) -> str:
    """A MAC address as `00:1b:1b:aa:bb:cc`.

    Raises:
        Invalid: something else, or a group address.
    """
    lowered = text.strip().lower()
    if not _MAC.fullmatch(lowered):
        raise Invalid(f"{shown(text)} is not a MAC address: write 00:1b:1b:aa:bb:cc")
    digits = lowered.replace(":", "").replace("-", "")
    if int(digits[:2], 16) & 1:
        raise Invalid(f"{shown(text)} is a group address: write the MAC of one device")
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def overlap(one: str, other: str) -> bool:
    """Whether two addresses to bind to are the same place, or one is every address of the machine and so includes the
    other. `[::]` takes IPv4 as well where the system says so, which nobody can know here."""
    (host, _, port), (other_host, _, other_port) = one.rpartition(":"), other.rpartition(":")
    return port == other_port and (
        host == other_host
        or "[::]" in (host, other_host)
        or ("0.0.0.0" in (host, other_host) and "[" not in host + other_host)  # noqa: S104
    )


def parse_endpoint(text: str, what: str, *, ip_only: bool = False) -> str:
    """HOST:PORT; IPv6 in brackets. With `ip_only` the host must be an address (to bind to).

    Raises:
        Invalid: something else.
    """
    host, colon, port = text.strip().lower().rpartition(":")
    wrong = f"{shown(text)} cannot be the {what}: write HOST:PORT, for example 192.168.1.20:7443"
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5:
        raise Invalid(wrong)
    if not 1 <= int(port) <= 65_535:
        raise Invalid(f"{shown(text)} cannot be the {what}: a port is between 1 and 65535")
    if host.startswith("[") and host.endswith("]"):
        try:
            return f"[{ipaddress.IPv6Address(host[1:-1])}]:{int(port)}"
        except ValueError:
            raise Invalid(wrong) from None
    try:
        return f"{ipaddress.IPv4Address(host)}:{int(port)}"
    except ValueError:
        pass
    if ip_only:
        raise Invalid(
            f"{shown(text)} cannot be the {what}: write IP:PORT, for example 127.0.0.1:15020"
        )
    if not _HOST.fullmatch(host) or host.rpartition(".")[2].isdigit():
        raise Invalid(wrong)
    return f"{host}:{int(port)}"
