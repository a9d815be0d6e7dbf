"""What each mode catches, whom its rules let through, and what nothing may catch. Pure."""

from collections.abc import Iterable, Set
from typing import NamedTuple

from edge.grants import Use
from edge.intercept.table import Table
from edge.names.answers import DNS_PORT
from overlay.control.messages import Assignments
from overlay.fabric.authority import FabricMap
from overlay.policy.interception import OWN_NUMBERS, Address, Pools, Prefix, as_address
from overlay.wire.bodies import DATAGRAMS, STREAM

ALLOWED = 65_536
"""Pairs of a sender and a place with a service that rules hold; of more they know none, and the edge alone decides."""

TOLD = 64
"""Addresses of devices that are told to the doctor."""


class Served(NamedTuple):
    """Ports of a prefix behind which there are services; of one prefix and transport they do not overlap."""

    prefix: Prefix
    transport: int
    port: int
    port_end: int


class Allowed(NamedTuple):
    """Somebody who has a grant for a service, and where that is. `source` is an address (4 or 16 bytes), a hardware
    address (6), that with an address behind it (10 or 22), or empty for programs of this host.
    """

    source: bytes
    served: Served


class Plan(NamedTuple):
    """What one mode catches: `served` goes to the listener, everything else to `alone` is refused. So is what nobody
    of `allowed` sends; None: it goes to the listener, and the edge decides. `beside` is another mode's: left
    alone, also where it lies in `alone`.
    """

    served: tuple[Served, ...] = ()
    alone: tuple[Prefix, ...] = ()
    allowed: tuple[Allowed, ...] | None = None
    beside: tuple[Served, ...] = ()

    def prefixes(self) -> list[Prefix]:
        """All, in order, each once."""
        return sorted({*self.alone, *(one.prefix for one in self.served)})


LACKS = {"tproxy": "ping", "redirect": "UDP and no ping"}
"""What a mode does not carry: its rules refuse it, with "administratively prohibited"."""


def lacking(modes: Iterable[str]) -> str:
    """The same in words, to go on with; empty where there is nothing to say."""
    return "".join(f"; {mode} carries no {LACKS[mode]}" for mode in modes if mode in LACKS)


def supports(mode: str, transport: int) -> bool:
    """Whether a mode carries streams or datagrams."""
    return transport == STREAM or mode != "redirect"


class Places:
    """What a mode catches, whoever has a grant: it takes long to find and seldom changes.

    Args:
        table: what is intercepted.
        mode: its name.
        numbers: which modes of entries it stands for.
        out: what nothing may catch.
        beside: modes of entries that another mode with rules stands for. What belongs to both, a pool for example, this
            one refuses.
    """

    def __init__(
        self,
        table: Table,
        mode: str,
        numbers: Set[int],
        out: frozenset[Prefix],
        beside: Set[int] = frozenset(),
    ) -> None:
        self._table, self._choice = table, (numbers, out, beside)
        self._by_service: dict[tuple[str, int], list[tuple[Served, str]]] = {}
        """With whom programs of the host count as there."""
        self._served: tuple[Served, ...] = ()
        self._beside: tuple[Served, ...] = ()
        prefixes = table.prefixes()
        if mode == "tun":
            self._alone = tuple(
                one for one, modes in prefixes.items() if modes & numbers and one not in out
            )
            return
        self._alone = tuple(
            one
            for one, modes in prefixes.items()
            if modes & numbers and modes <= numbers | beside and one not in out
        )
        served: list[Served] = []
        others: list[Served] = []
        for one in table.segments():
            if one.mode in beside and one.prefix not in out:
                others.append(Served(one.prefix, one.transport, one.port, one.port_end))
            if one.mode not in numbers or not supports(mode, one.transport) or one.prefix in out:
                continue
            place = Served(one.prefix, one.transport, one.port, one.port_end)
            served.append(place)
            self._by_service.setdefault((one.service, one.transport), []).append((place, one.who))
        self._served, self._beside = tuple(served), tuple(others)

    def are(
        self, table: Table, numbers: Set[int], out: frozenset[Prefix], beside: Set[int]
    ) -> bool:
        """They are still those."""
        return table is self._table and self._choice == (numbers, out, beside)

    def plan(self, uses: Iterable[Use]) -> Plan:
        """With whom its rules let through: `uses` are what somebody may use now."""
        table = self._table
        callers: dict[tuple[str, int], set[str]] = {}
        for who, service, transport in uses:
            callers.setdefault((service, transport), set()).add(who)
        allowed: list[Allowed] = []
        for use, places in self._by_service.items():
            whos = callers.get(use, set())
            senders = {one for who in whos for one in table.sources_of(who)}
            fitting = {v: sorted(one for one in senders if len(one) in _SIZES[v]) for v in _SIZES}
            for place, host in places if whos else ():
                some = fitting[place.prefix.version]
                allowed += [Allowed(one, place) for one in ([b"", *some] if host in whos else some)]
            if len(allowed) > ALLOWED:
                return Plan(self._served, self._alone, None, self._beside)
        return Plan(self._served, self._alone, tuple(allowed), self._beside)


_SIZES = {4: (4, 6, 6 + 4), 6: (16, 6, 6 + 16)}
"""Bytes of what senders are known by, by version (`Allowed.source`)."""


def missing_routes(wanted: Iterable[Prefix], there: Iterable[Prefix]) -> list[Prefix]:
    """Which of these need a route, where there are routes already; what one holds needs none of its own."""
    by_length = sorted(wanted, key=lambda one: one.length)
    known: set[tuple[int, int, int]] = set(there)
    masks = {(version, length) for version, _, length in (*known, *by_length)}
    ways = [(version, length, Prefix(version, 0, length).mask) for version, length in masks]
    found: list[Prefix] = []
    for prefix in by_length:
        version, network, size = prefix
        if not any(
            of == version and length <= size and (of, network & mask, length) in known
            for of, length, mask in ways
        ):
            found.append(prefix)
            known.add(prefix)
    return found


def router_addresses(fabric: FabricMap | None) -> list[Address]:
    """Where routers are, as far as the map says it by number."""
    named = () if fabric is None else (one.address for one in fabric.routers)
    hosts = sorted({text.rpartition(":")[0].strip("[]") for text in named})
    return [one for one in map(as_address, hosts) if one is not None]


def conflicts(
    table: Table, peers: Iterable[Address], own: Iterable[Address], resolvers: Iterable[Address]
) -> tuple[frozenset[Prefix], dict[Prefix, str]]:
    """What nothing may catch, and all that contradicts what this edge itself needs, each in a sentence.

    Args:
        table: what is intercepted.
        peers: addresses of routers.
        own: of this host; those in a pool are the edge's.
        resolvers: whom this host asks for names. One whose port has a service here is meant to be caught.
    """
    routers = table.overlaps("of a router", peers)
    found = {
        prefix: f"{text}: it is left out, since the edge would lose its way to the plant"
        for prefix, text in routers.items()
    }
    pools = table.pools
    mine = [one for one in own if pools is None or not pools.contain(one)]
    for prefix, text in table.overlaps("of this host itself", mine).items():
        found.setdefault(prefix, f"{text}: what is sent to it stays here")
    lost = [
        one
        for one in resolvers
        if not _of_edge(table, one) and not table.match(DATAGRAMS, one.packed, DNS_PORT).service
    ]
    for prefix, text in table.overlaps("of a resolver of this host", lost).items():
        found.setdefault(
            prefix,
            f"{text}: names that it is asked for are not answered any more: intercept fewer addresses, let this host "
            "ask another one, or make it a service of what is intercepted",
        )
    return frozenset(routers), found


def others_pool(pools: Pools | None, own: Iterable[Address]) -> str:
    """Why nothing may be caught: an address of this host is the first of a pool, and no device of this edge is there
    that would have it. Else empty. Two edges with one pool would refuse what the other one carries.
    """
    firsts = {} if pools is None else {pool[1]: pool for pool in (pools.v4, pools.v6)}
    for one in own:
        if one in firsts:
            return (
                f"{one} is an address of this host already, and would be this edge's own in its pool {firsts[one]}: "
                "where another edge runs on this host, give this one another name with --tun, and other pools "
                "(ferrule set edge NAME pool=SUBNET, once for each version of IP)"
            )
    return ""


class Behind(NamedTuple):
    """Assets behind an edge that send through its host: their names, and their addresses as far as they are known;
    an empty one stands for all others.
    """

    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


def forwarded_assets(assignments: Assignments, own: Iterable[Address]) -> Behind:
    """Who is neither on the host itself, nor such as it hosts."""
    here = {str(one) for one in own}
    hosted = {one.asset for one in assignments.hosted}
    found = [
        one
        for one in assignments.behind
        if one.asset not in hosted
        and one.address not in here
        and not ((address := as_address(one.address)) is not None and address.is_loopback)
    ]
    addresses = sorted({one.address for one in found})
    if len(addresses) > TOLD:
        addresses = ["", *addresses[-TOLD:]]
    return Behind(tuple(sorted({one.asset for one in found})), tuple(addresses))


def _of_edge(table: Table, address: Address) -> bool:
    """One of the first addresses of a pool, where an edge answers for names."""
    pools = table.pools
    if pools is None or not pools.contain(address):
        return False
    return int(address) - int(pools.of_version(address.version).network_address) < OWN_NUMBERS
