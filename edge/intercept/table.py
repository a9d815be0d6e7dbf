"""What an edge intercepts: which service traffic is for, and whose it is (K-10). Pure.

Loaded whole from the assignments and never changed; a new one takes its place.
"""

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from edge.intercept.ports import Ports, Target
from overlay.control.messages import BehindEntry, InterceptEntry
from overlay.errors import InputError
from overlay.policy.interception import (
    Address,
    Pools,
    Prefix,
    Rule,
    explain,
    parse_prefix,
    settle,
)

VERDICTS = 1024
"""Verdicts that are kept for the next connections of the same kind; who is turned away takes no place among them."""
ICMP_SERVICE = ""
"""What `Verdict.service` is for an asset as a whole."""


class Verdict(NamedTuple):
    """What traffic is. `service` empty: for none, `who` empty: of nobody; `reason` says why in a sentence.

    `port` is what the circuit asks for (C-09): 0, or the port of a service that has several. `held`: a connection is
    answered only when the asset has answered. `address` is which one is meant of an asset that is a subnet (C-19).
    """

    service: str
    asset: str
    who: str
    port: int
    mode: int
    reason: str
    held: bool = True
    address: bytes = b""


class Segment(NamedTuple):
    """Ports of a prefix that lead to one service; programs of the host count as `who`."""

    prefix: Prefix
    transport: int
    port: int
    port_end: int
    mode: int
    service: str
    who: str


class _Place:
    """What is known of one prefix."""

    __slots__ = ("assets", "by_transport")

    def __init__(self) -> None:
        self.by_transport: dict[int, Ports] = {}
        self.assets: dict[str, Target] = {}


class Table:
    """All intercepts of an edge.

    Args:
        entries: what is intercepted.
        behind: the assets that the edge asserts.
        pools: where overlay addresses are.
        edge: the edge's own name.
    """

    def __init__(
        self,
        entries: Sequence[InterceptEntry] = (),
        behind: Sequence[BehindEntry] = (),
        pools: Pools | None = None,
        edge: str = "",
    ) -> None:
        self.pools = pools
        self.edge = edge
        self.problems: list[str] = []
        """Entries, or parts of them, that do nothing, each in a sentence."""
        self.assets: dict[str, tuple[InterceptEntry, ...]] = {}
        """Intercepted assets by name."""
        self._by_number: dict[int, str] = {}
        self._prefixes: dict[tuple[int, int, int], _Place] = {}
        self._lengths: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        self._modes: dict[Prefix, set[int]] = {}
        self._by_address: dict[bytes, list[tuple[str, bytes]]] = {}
        self._by_mac: dict[bytes, list[str]] = {}
        self._sources: dict[str, list[bytes]] = {}
        self._verdicts: dict[tuple[int, bytes, int, bytes | None, bytes | None], Verdict] = {}
        self._behind(behind)
        self._load(entries)

    def __len__(self) -> int:
        return sum(len(entries) for entries in self.assets.values())

    # --- asked for each flow ----------------------------------------------------------------------

    def match(
        self,
        transport: int,
        destination: bytes,
        port: int,
        source: bytes | None = None,
        mac: bytes | None = None,
    ) -> Verdict:
        """What service traffic is for, and of whom it is.

        Args:
            transport: STREAM (TCP) or DATAGRAMS (UDP).
            destination: 4 or 16 bytes, as in the packet.
            port: the destination port.
            source: who sends, likewise; None for a program of this host.
            mac: the hardware address that it was seen with on the LAN; None where there is none.
        """
        key = transport, destination, port, source, mac
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = self._match(*key)
            if verdict.service and verdict.who:
                if len(self._verdicts) >= VERDICTS:
                    self._verdicts.clear()
                self._verdicts[key] = verdict
        return verdict

    def match_asset(
        self, destination: bytes, source: bytes | None = None, mac: bytes | None = None
    ) -> Verdict:
        """As `match` for what has no port (ICMP echo): the asset at an address, where there is exactly one."""
        for prefix in self._covering(destination):
            if len(prefix.assets) == 1:
                (target,) = prefix.assets.values()
                who, reason = self._who(target, source, mac)
                at = target.address(destination)
                return Verdict(ICMP_SERVICE, target.asset, who, 0, target.mode, reason, address=at)
            words = _text(destination)
            return Verdict("", "", "", 0, 0, f"{words} is intercepted for several assets")
        return Verdict("", "", "", 0, 0, self._nothing(destination, known=False, port=0))

    # --- asked when it is loaded ------------------------------------------------------------------

    def prefixes(self) -> dict[Prefix, frozenset[int]]:
        """What has to be caught, with the modes that its entries ask for: each pool whole, every other prefix."""
        return {prefix: frozenset(modes) for prefix, modes in self._modes.items()}

    def asset_at(self, address: Address) -> str:
        """The asset whose overlay address this is; empty for none."""
        pools = self.pools
        if pools is None or not pools.contain(address):
            return ""
        base = pools.v4 if address.version == 4 else pools.v6
        return self._by_number.get(int(address) - int(base.network_address), "")

    def addresses_of(self, asset: str) -> tuple[Address, ...]:
        """The overlay addresses of an intercepted asset, IPv4 first; none for another."""
        entries = self.assets.get(asset)
        if not entries or self.pools is None or not self.pools.holds(entries[0].number):
            return ()
        if entries[0].subnet:
            return ()
        return self.pools.addresses(entries[0].number)

    def segments(self) -> Iterator[Segment]:
        """All that has a service; ports of a prefix do not overlap. It takes as long as loading did."""
        for prefix, place in self._prefixes.items():
            for transport, ports in place.by_transport.items():
                for start, end, target in ports.segments():
                    yield Segment(
                        Prefix(*prefix), transport, start, end, target.mode, target.service, target.who
                    )  # fmt: skip

    def sources_of(self, asset: str) -> tuple[bytes, ...]:
        """By what an asset behind is known, as `edge.intercept.plan.Allowed.source`: addresses, behind a hardware
        address where it has one, or that alone.
        """
        return tuple(self._sources.get(asset, ()))

    def overlaps(self, what: str, addresses: Iterable[Address]) -> dict[Prefix, str]:
        """Which of `prefixes` hold addresses that must not be intercepted on this host, each explained in a sentence.

        Args:
            what: whose addresses these are, in words.
            addresses: of this host itself, or of routers that it dials, whose links would lead into themselves.
        """
        found: dict[Prefix, str] = {}
        lengths = {(version, length) for version, _, length in self._modes}
        masks = [(version, length, Prefix(version, 0, length).mask) for version, length in lengths]
        for address in addresses:
            for version, length, mask in masks:
                prefix = Prefix(version, int(address) & mask, length)
                if version == address.version and prefix in self._modes:
                    found.setdefault(
                        prefix,
                        f"{address} is the address {what} and lies in {prefix}, which is intercepted",
                    )
        return found

    # --- inside -----------------------------------------------------------------------------------

    def _match(
        self,
        transport: int,
        destination: bytes,
        port: int,
        source: bytes | None,
        mac: bytes | None,
    ) -> Verdict:
        known = False
        for prefix in self._covering(destination):
            known = True
            ports = prefix.by_transport.get(transport)
            target = None if ports is None else ports.find(port)
            if target is not None:
                who, reason = self._who(target, source, mac)
                asked = port if target.several else 0
                return Verdict(
                    target.service, target.asset, who, asked, target.mode, reason, target.held,
                    target.address(destination),
                )  # fmt: skip
        return Verdict("", "", "", 0, 0, self._nothing(destination, known=known, port=port))

    def _covering(self, destination: bytes) -> Iterable[_Place]:
        """Prefixes that hold an address, longest first."""
        version = 4 if len(destination) == 4 else 6
        number = int.from_bytes(destination, "big")
        for length, mask in self._lengths[version]:
            place = self._prefixes.get((version, number & mask, length))
            if place is not None:
                yield place

    def _who(self, target: Target, source: bytes | None, mac: bytes | None) -> tuple[str, str]:
        if source is None:
            return target.who, ""
        known = self._by_address.get(source)
        words = _text(source)
        if known is None:
            names = self._by_mac.get(mac, []) if mac is not None else []
            if len(names) == 1:
                return names[0], ""
            return "", f"{words} is the address of no asset behind {self.edge}"
        fitting = [name for name, own in known if not own or own == mac]
        if len(fitting) == 1:
            return fitting[0], ""
        names_ = " and ".join(name for name, _ in known)
        if fitting:
            return "", f"{words} is the address of {names_}, and nothing tells them apart"
        seen = f"came from {_mac(mac)}" if mac is not None else "came without a hardware address"
        return "", f"{words} is the address of {names_}, but {seen}, which is not its own"

    def _nothing(self, destination: bytes, *, known: bool, port: int) -> str:
        words = _text(destination)
        if known:
            return f"nothing is intercepted at {words} port {port}"
        address = ipaddress.ip_address(destination)
        if self.pools is not None and self.pools.contain(address):
            return f"{words} is the overlay address of no asset that is intercepted here"
        return f"{words} is not intercepted"

    def _behind(self, behind: Sequence[BehindEntry]) -> None:
        for one in behind:
            mac = bytes.fromhex(one.mac.replace(":", "")) if one.mac else b""
            if one.address:
                try:
                    packed = ipaddress.ip_address(one.address).packed
                except ValueError:
                    self.problems.append(f"{one.asset} has no IP address but {one.address[:80]!r}")
                    continue
                self._by_address.setdefault(packed, []).append((one.asset, mac))
                self._sources.setdefault(one.asset, []).append(mac + packed)
            elif mac:
                self._by_mac.setdefault(mac, []).append(one.asset)
                self._sources.setdefault(one.asset, []).append(mac)

    def _load(self, entries: Sequence[InterceptEntry]) -> None:
        rules: list[tuple[Rule, Target]] = []
        assets: dict[str, list[InterceptEntry]] = {}
        whole = () if self.pools is None else (Prefix.of(self.pools.v4), Prefix.of(self.pools.v6))
        for entry in entries:
            assets.setdefault(entry.asset, []).append(entry)
            self._by_number.setdefault(entry.number, entry.asset)
            for prefix in self._places(entry, whole):
                shift = _shift(prefix, entry.subnet)
                self._note(prefix, entry, shift)
                for service in entry.services:
                    rule = Rule(
                        prefix, service.transport, service.port, service.port_end, entry.exact,
                        service.service,
                    )  # fmt: skip
                    several = service.port != service.port_end
                    target = Target(
                        service.service, entry.asset, entry.who, entry.mode, several,
                        not service.at_once, shift,
                    )  # fmt: skip
                    rules.append((rule, target))
        self.assets = {name: tuple(some) for name, some in assets.items()}
        self._sort_in(rules)
        for version, length in {(version, length) for version, _, length in self._prefixes}:
            self._lengths[version].append((length, Prefix(version, 0, length).mask))
        for lengths in self._lengths.values():
            lengths.sort(reverse=True)

    def _places(self, entry: InterceptEntry, whole: Sequence[Prefix]) -> list[Prefix]:
        found: list[Prefix] = []
        pools = self.pools
        if pools is not None and not entry.subnet:
            if pools.holds(entry.number):
                found += pools.prefixes(entry.number)
                for pool in whole:
                    self._modes.setdefault(pool, set()).add(entry.mode)
            else:
                self.problems.append(f"the pool {pools.v4} is too small for {entry.asset}")
        for text in entry.addresses:
            try:
                prefix = parse_prefix(text)
            except InputError as error:
                self.problems.append(f"{entry.asset}: {error}")
                continue
            if entry.subnet and _shift(prefix, entry.subnet) is None:
                self.problems.append(
                    f"{prefix} is as no part of {entry.subnet}, where {entry.asset} is"
                )
                continue
            found.append(prefix)
            self._modes.setdefault(prefix, set()).add(entry.mode)
        return found

    def _note(self, prefix: Prefix, entry: InterceptEntry, shift: int | None) -> None:
        place = self._prefixes.setdefault(prefix, _Place())
        place.assets[entry.asset] = Target(
            "", entry.asset, entry.who, entry.mode, several=False, shift=shift
        )

    def _sort_in(self, rules: list[tuple[Rule, Target]]) -> None:
        kept, lost = settle([rule for rule, _ in rules])
        for stays, goes in lost:
            reason = explain(rules[stays][0], rules[goes][0])
            self.problems.append(f"{reason}; {rules[goes][0].service} is not caught there")
        sorted_in: dict[tuple[Prefix, int], list[tuple[Rule, Target]]] = {}
        for place in kept:
            rule = rules[place][0]
            sorted_in.setdefault((rule.prefix, rule.transport), []).append(rules[place])
        for (prefix, transport), some in sorted_in.items():
            self._prefixes[prefix].by_transport[transport] = Ports(some)


def _shift(prefix: Prefix, subnet: str) -> int | None:
    """What to add to an address of `prefix`; None where nothing in `subnet` is meant by it."""
    return parse_prefix(subnet).shift_from(prefix) if subnet else None


def _text(address: bytes) -> str:
    return str(ipaddress.ip_address(address))


def _mac(address: bytes) -> str:
    return address.hex(":")
