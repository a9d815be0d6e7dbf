"""What is intercepted where: rules, which of several wins, and which contradict each other. Pure.

A rule leads the traffic to one prefix and one range of ports to a service. The most specific rule wins: the longest
prefix, then the fewest ports, then the one that was made for this very service and not for all of its asset. Two rules
of the same rank that share a port and lead to different services clash.
"""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from overlay.errors import InputError
from overlay.policy.names import TRANSPORTS, shown

BITS = {4: 32, 6: 128}
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MODES = ("auto", "tun", "tproxy", "redirect")
"""How traffic may be caught; the number on the wire is the place in this list."""
POOL = "100.64.0.0/10"
"""Where assets have their overlay address unless it is said otherwise (RFC 6598)."""
OWN_NUMBERS = 16
"""The first addresses of a pool belong to the edge itself: 1 is its own, 2 plays its clients."""
LONGEST_POOL = 24, 112
"""Prefix lengths of the smallest pools (IPv4, IPv6)."""

_WORDS = {number: word for word, number in TRANSPORTS.items()}
_SPECIAL: tuple[Network, ...] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/32", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32",
        "::/128", "::1/128", "::ffff:0:0/96", "fe80::/10", "ff00::/8",
    )
)  # fmt: skip
"""What no subnet that is intercepted may hold: this host, its neighbours on the link, many hosts at once."""
_SPECIAL_RANGES = {
    version: [
        (int(one.network_address), int(one.broadcast_address), one)
        for one in _SPECIAL
        if one.version == version
    ]
    for version in BITS
}
"""First and last address: ten thousand subnets are compared with them at once."""


class Prefix(NamedTuple):
    """An address (the longest length) or a subnet; numbers, because ten thousand of them are compared at once."""

    version: int
    network: int
    length: int

    def __str__(self) -> str:
        network = self.as_network()
        return str(network if network.num_addresses > 1 else network.network_address)

    def as_network(self) -> Network:
        """The same, as the standard library has it."""
        if self.version == 4:
            return ipaddress.IPv4Network((self.network, self.length))
        return ipaddress.IPv6Network((self.network, self.length))

    @classmethod
    def of(cls, network: Network) -> "Prefix":
        """From what the standard library has."""
        return cls(network.version, int(network.network_address), network.prefixlen)

    @property
    def mask(self) -> int:
        """Its bits as a number."""
        bits = BITS[self.version]
        return ((1 << self.length) - 1) << (bits - self.length)

    def holds(self, address: Address) -> bool:
        """Whether an address lies in it."""
        return address.version == self.version and int(address) & self.mask == self.network

    def shift_from(self, other: "Prefix") -> int | None:
        """What makes an address of `other` one of this subnet (C-19): 0 where it lies inside, the distance where it is
        as long; None where it is neither.
        """
        if other.version != self.version or other.length < self.length:
            return None
        if other.network & self.mask == self.network:
            return 0
        return self.network - other.network if other.length == self.length else None


class Pools(NamedTuple):
    """Where the overlay addresses of assets are; an asset's number is its place in both."""

    v4: ipaddress.IPv4Network
    v6: ipaddress.IPv6Network

    def holds(self, number: int) -> bool:
        """Whether there is an address for this number; the last one of an IPv4 subnet is none."""
        return 0 < number < self.v4.num_addresses - 1

    def addresses(self, number: int) -> tuple[ipaddress.IPv4Address, ipaddress.IPv6Address]:
        """The addresses of a number that the pools hold."""
        return self.v4[number], self.v6[number]

    def prefixes(self, number: int) -> tuple[Prefix, Prefix]:
        """As `addresses`."""
        v4, v6 = self.v4.network_address, self.v6.network_address
        return Prefix(4, int(v4) + number, 32), Prefix(6, int(v6) + number, 128)

    def of_version(self, version: int) -> Network:
        """The pool for IPv4 or IPv6."""
        return self.v4 if version == 4 else self.v6

    def contain(self, address: Address) -> bool:
        """Whether it is an address of one of them."""
        return (
            address in self.v4 if isinstance(address, ipaddress.IPv4Address) else address in self.v6
        )

    @classmethod
    def of(cls, texts: Iterable[str], root: bytes) -> "Pools":
        """The pools of an edge.

        Args:
            texts: at most one IPv4 and one IPv6 subnet; what is missing is the default.
            root: SHA-256 of the plant's root, from which the default IPv6 pool is made (RFC 4193: a prefix of its own).

        Raises:
            InputError: no subnets, too small, or two of one kind.
        """
        own = ipaddress.IPv6Address(b"\xfd" + root[:5] + bytes(10))
        found: dict[int, Network] = {
            4: ipaddress.IPv4Network(POOL),
            6: ipaddress.IPv6Network((own, 64)),
        }
        seen: set[int] = set()
        for text in texts:
            pool = parse_prefix(text).as_network()
            if pool.version in seen:
                raise InputError(
                    f"there is one pool for IPv{pool.version}, and {shown(text)} is a second"
                )
            longest = LONGEST_POOL[pool.version == 6]
            if pool.prefixlen > longest:
                raise InputError(f"the pool {pool} is too small: /{longest} or larger")
            seen.add(pool.version)
            found[pool.version] = pool
        v4, v6 = found[4], found[6]
        assert isinstance(v4, ipaddress.IPv4Network)  # noqa: S101 - by its key
        assert isinstance(v6, ipaddress.IPv6Network)  # noqa: S101 - likewise
        return cls(v4, v6)


class Rule(NamedTuple):
    """Traffic to `prefix` and ports `port` to `port_end` is for `service`; `exact`: made for this service alone."""

    prefix: Prefix
    transport: int
    port: int
    port_end: int
    exact: bool
    service: str

    def place(self) -> str:
        """In words."""
        ports = (
            f"port {self.port}"
            if self.port == self.port_end
            else f"ports {self.port}-{self.port_end}"
        )
        return f"{self.prefix} {_WORDS[self.transport]} {ports}"

    def beats(self) -> tuple[int, bool]:
        """Among rules of one prefix the greatest wins."""
        return self.port - self.port_end, self.exact


def parse_prefix(text: str) -> Prefix:
    """An address, or a subnet, in canonical form.

    Raises:
        InputError: neither, or one that holds what is no ordinary address (multicast, loopback, unspecified,
            link-local), or bits beside the prefix.
    """
    try:
        prefix = ipaddress.ip_network(text.strip())
    except ValueError:
        try:
            whole = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            raise InputError(
                f"{shown(text)} is no address or subnet: write 192.168.1.20 or 192.168.1.0/24"
            ) from None
        raise InputError(f"{shown(text)} has bits beside its prefix: write {whole}") from None
    if "%" in text:
        raise InputError(f"{shown(text)} names an interface: write the address alone")
    if isinstance(prefix, ipaddress.IPv6Network) and prefix.network_address.ipv4_mapped is not None:
        raise InputError(f"{shown(text)} is an IPv4 address in IPv6: write it as IPv4")
    found = Prefix.of(prefix)
    end = found.network + (1 << BITS[found.version] - found.length) - 1
    for first, last, special in _SPECIAL_RANGES[found.version]:
        if found.network <= last and first <= end:
            raise InputError(
                f"{shown(text)} cannot be intercepted: no ordinary addresses ({special})"
            )
    return found


def as_address(text: str) -> Address | None:
    """An address that is written as a number; None for a name."""
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def settle(rules: Sequence[Rule]) -> tuple[list[int], list[tuple[int, int]]]:
    """Which rules (by place) can be together, and pairs of (one that stays, one that contradicts it).

    Rules contradict each other when they have the same rank and a port in common. The one whose ports begin first
    stays; of several that begin together the one whose service comes first in the alphabet.
    """
    ranked: dict[tuple[Prefix, int, tuple[int, bool]], list[int]] = {}
    for place, rule in enumerate(rules):
        ranked.setdefault((rule.prefix, rule.transport, rule.beats()), []).append(place)
    kept: list[int] = []
    lost: list[tuple[int, int]] = []
    for same in ranked.values():
        same.sort(key=lambda place: (rules[place].port, rules[place].service))
        last = -1
        for place in same:
            if last >= 0 and rules[place].port <= rules[last].port_end:
                lost.append((last, place))
            else:
                kept.append(place)
                last = place
    return kept, lost


def explain(one: Rule, other: Rule) -> str:
    """Why two rules cannot be together."""
    if one.service == other.service:
        return f"{one.service} is intercepted twice at {one.place()}"
    return (
        f"{one.service} and {other.service} would both be intercepted at {one.place()}, "
        "and nothing tells them apart there"
    )
