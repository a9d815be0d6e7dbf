"""Whether this host's own rules let through what an edge needs, and which rule would. Pure.

Each thing that is needed is a packet in a hook (`Need`). It is led through every chain of that hook and of those before
and behind it; one that drops it, or may, is named with the rule that helps.
"""

import ipaddress
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from edge.doctor.findings import DEFAULT, Finding, Subject
from edge.doctor.rule_match import Fit, Network, Packet, Value
from edge.doctor.ruleset import Chain, Met, Rule, Ruleset
from edge.intercept.steering import GUARDS, Marks, table_name
from edge.names.answers import DNS_PORT
from overlay.policy.interception import as_address

AT_MOST = 4
"""Senders and subnets that packets are made of; where there are more, also one of nobody knows whom."""
NAMED = 12
"""Things that stand in the way that are said."""
UNJUDGED = "cannot be judged: "
_HOOKS = {
    "input": ("prerouting", "input"),
    "forward": ("prerouting", "forward", "postrouting"),
    "output": ("output", "postrouting"),
}
_FAMILIES = {"ipv4": ("ip", "inet"), "ipv6": ("ip6", "inet")}
_ACCEPTED = frozenset({"accept", "masquerade", "snat", "dnat", "redirect"})
_KNOWN = _ACCEPTED | {"drop", "reject"}
"""Verdicts; what else ends a packet's way (a program that is asked, an extension) decides itself."""
_MASKED = frozenset({"masquerade", "snat", "netmap"})
_ANSWERS = "ct state established,related accept"


class Need(NamedTuple):
    """A kind of packet that must get through a hook; `rule` would let it through."""

    what: str
    hook: str
    rule: str
    known: Packet


class _Obstacle(NamedTuple):
    """A chain that drops it (`sure`), or may."""

    chain: Chain
    sure: bool
    by: str


def firewall(text: str, subject: Subject = DEFAULT) -> Finding:
    """Of `nft -j list ruleset`."""
    try:
        ruleset = Ruleset(text)
        chains = [
            one
            for one in ruleset.chains
            if one.kind in ("filter", "route") and not _own(one, subject)
        ]
        closed, unclear = _stands(ruleset, chains, subject)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Finding(
            "firewall", ok=None, text=f"{UNJUDGED}the rules of nftables cannot be read ({error!r})"
        )
    if not closed and not unclear:
        return Finding(
            "firewall",
            ok=True,
            text="no rule of nftables drops what is intercepted, or what this edge needs",
        )
    said = (
        _say("the firewall drops what this edge needs: ", "drops", closed),
        _say(UNJUDGED, "may drop", unclear),
    )
    return Finding("firewall", ok=False if closed else None, text=". ".join(filter(None, said)))


def masquerade(text: str, subject: Subject = DEFAULT) -> Finding:
    """Rules that give devices an address of this host on their way to TUN (`edge.intercept.guard` drops them)."""
    name = subject.interface
    try:
        ruleset = Ruleset(text)
        rules = [
            met.rule
            for chain in ruleset.chains
            if chain.kind == "nat" and chain.hook == "postrouting" and not _own(chain, subject)
            for packet in _packets(
                {"oifname": name, "ct state": frozenset({"new"})}, subject, _anywhere, _places
            )
            if chain.family in _FAMILIES[str(packet["nfproto"])]
            for met in ruleset.walk(chain, packet)
            if met.rule is not None and met.verdict in _MASKED
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return Finding(
            "masquerade",
            ok=None,
            text=f"{UNJUDGED}the rules of nftables cannot be read ({error!r})",
        )
    if not rules:
        return Finding("masquerade", ok=True, text=f"devices keep their addresses to {name}")
    rule = rules[0]
    return Finding(
        "masquerade", ok=False,
        text=f"devices get an address of this host on their way to {name}, so that nobody knows who they are, "
        f"and are dropped: restrict the rule `{str(rule)[:120]}` of {rule.chain} to where it is needed (oifname, or -o "
        "in iptables)",
    )  # fmt: skip


def legacy(tables: Iterable[str], listing: str | None) -> Finding:
    """Rules of iptables-legacy, which nft does not show.

    Args:
        tables: that the kernel has.
        listing: of `iptables-legacy -S` and `ip6tables-legacy -S`; None where they are not there to be asked.
    """
    names = sorted(tables)
    if "filter" not in names and "mangle" not in names and "raw" not in names:
        return Finding("iptables-legacy", ok=True, text="no rules of iptables-legacy drop anything")
    lines = None if listing is None else [one.split() for one in listing.splitlines() if one]
    if (
        lines is not None
        and names == ["filter"]
        and all(one[:1] == ["-P"] and one[2:] == ["ACCEPT"] for one in lines)
    ):
        return Finding(
            "iptables-legacy",
            ok=True,
            text="iptables-legacy has no rules, and lets everything through",
        )
    return Finding(
        "iptables-legacy", ok=None,
        text=f"{UNJUDGED}this host also has rules of iptables-legacy ({', '.join(names)}), which nft does not show and "
        "which drop on their own: look at `iptables-legacy-save` and `ip6tables-legacy-save`, and let through there "
        "what the edge needs, or move them to nftables: `iptables-legacy-save | iptables-nft-restore`",
    )  # fmt: skip


# --- what is needed -----------------------------------------------------------------------------------

_Addresses = Callable[[Subject, int], Sequence[Network | None]]
"""Of a version of IP; None: one of which nothing is known."""


def needs(subject: Subject) -> Iterator[Need]:
    """Of an edge that intercepts so."""
    made = {"tun": _tun, "tproxy": _tproxy, "redirect": _redirect}
    for mode in subject.modes:
        yield from made[mode](subject)
    for at in () if subject.names is None else subject.names["at"]:
        yield from _names(subject, at)
    for host, port in subject.dials:
        yield from _links(host, port)


def _tun(subject: Subject) -> Iterator[Need]:
    """A client's connection is answered by the kernel, as one of the interface's neighbour to its own address."""
    name = subject.interface
    into, out = {"iifname": name}, {"oifname": name}
    enter, leave = f'iifname "{name}" accept', f'oifname "{name}" accept'
    for known in _packets(into | _new("tcp"), subject, _numbered(2), _numbered(1)):
        yield Need(f"connections that {name} brings", "input", enter, known)
    for known in _packets(out | _later("tcp"), subject, _numbered(1), _numbered(2)):
        yield Need(f"answers to connections that {name} brings", "output", leave, known)
    for protocol in ("tcp", "udp", "icmp"):
        for known in _packets(out | _new(protocol), subject, _anywhere, _places):
            yield Need(f"what programs of this host send to {name}", "output", leave, known)
        for known in _packets(into | _later(protocol), subject, _places, _anywhere):
            yield Need("answers to programs of this host", "input", enter, known)
        for known in _packets(out | _new(protocol), subject, _devices, _places):
            yield Need(f"what devices send to {name}", "forward", leave, known)
        for known in _packets(into | _later(protocol), subject, _places, _devices):
            yield Need("answers to devices", "forward", enter, known)


def _tproxy(subject: Subject) -> Iterator[Need]:
    """Steered packets have a mark and keep their addresses."""
    number = Marks.of(subject.interface).number
    mark, rule = {"mark": number}, f"meta mark {number:#x} accept"
    for protocol in ("tcp", "udp"):
        for state in (_new(protocol), _later(protocol)):
            for known in _packets(mark | state, subject, _devices, _places):
                yield Need("what devices send to what is intercepted", "input", rule, known)
            for hook, way in (("output", {}), ("input", {"iifname": "lo"})):
                for known in _packets(mark | way | state, subject, _anywhere, _places):
                    yield Need(
                        "what programs of this host send to what is intercepted", hook, rule, known
                    )
        for known in _packets(_later(protocol), subject, _places, _devices):
            yield Need("answers to devices", "output", _ANSWERS, known)


def _redirect(subject: Subject) -> Iterator[Need]:
    """Connections go to a port of this host, and connection tracking knows where they were to go."""
    dnat, rule = {"ct status": frozenset({"dnat", "confirmed"})}, "ct status dnat accept"
    for state in (_new("tcp"), _later("tcp")):
        for known in _packets(dnat | state, subject, _devices, _anywhere):
            yield Need("what devices send to what is intercepted", "input", rule, known)
        for hook, way in (("output", {}), ("input", {"iifname": "lo"})):
            for known in _packets(dnat | way | state, subject, _anywhere, _anywhere):
                yield Need(
                    "what programs of this host send to what is intercepted", hook, rule, known
                )
    for known in _packets(dnat | _later("tcp"), subject, _anywhere, _devices):
        yield Need("answers to devices", "output", _ANSWERS, known)


def _names(subject: Subject, at: str) -> Iterator[Need]:
    """The resolver is at an address of this host itself, which its own programs reach by loopback."""
    there = ipaddress.ip_network(at)
    version, word = (4, "ip") if there.version == 4 else (6, "ip6")
    rule = f"{word} daddr {at} meta l4proto {{ tcp, udp }} th dport {DNS_PORT} accept"
    ask: dict[str, Value] = {"dport": DNS_PORT, "daddr": there}
    answer: dict[str, Value] = {"sport": DNS_PORT, "saddr": there}
    for protocol in ("udp", "tcp"):
        new, later = _new(protocol), _later(protocol)
        for hook, way in (("output", {"oifname": "lo"}), ("input", {"iifname": "lo"})):
            asked, told = _base(version, None, None) | way | ask, _base(version, None, None) | way
            yield Need("names that programs of this host ask for", hook, rule, asked | new)
            yield Need("names that they are told", hook, _ANSWERS, told | answer | later)
        for device in _devices(subject, version):
            asked, told = _base(version, device, None) | ask, _base(version, None, device) | answer
            yield Need("names that devices ask for", "input", rule, asked | new)
            yield Need("names that devices are told", "output", _ANSWERS, told | later)


def _links(host: str, port: int) -> Iterator[Need]:
    """The edge's own way to a router, or to the proxy before it; a name may be at any address."""
    address = as_address(host)
    there = None if address is None else ipaddress.ip_network(address)
    versions = (4, 6) if address is None else (address.version,)
    where = "" if address is None else f"{'ip' if address.version == 4 else 'ip6'} daddr {address} "
    what = f"the edge's own link to {host} port {port}"
    for version in versions:
        base = _base(version, None, there)
        yield Need(
            what, "output", f"{where}tcp dport {port} accept", base | _new("tcp") | {"dport": port}
        )
        back = _base(version, there, None) | _later("tcp") | {"sport": port}
        yield Need(f"answers to {what}", "input", _ANSWERS, back)


def _new(protocol: str) -> dict[str, Value]:
    return {"l4proto": protocol, "ct state": frozenset({"new"}), "tcp flags": frozenset({"syn"})}


def _later(protocol: str) -> dict[str, Value]:
    state = frozenset({"established"})
    return {"l4proto": protocol, "ct state": state, "tcp flags": frozenset({"ack"})}


def _packets(
    known: dict[str, Value],
    subject: Subject,
    senders: _Addresses,
    targets: _Addresses,
) -> Iterator[Packet]:
    """One for each version, sender and target."""
    for version in (4, 6):
        for source, target in itertools.product(
            senders(subject, version), targets(subject, version)
        ):
            packet = _base(version, source, target) | known
            if version == 6 and packet.get("l4proto") == "icmp":
                packet["l4proto"] = "ipv6-icmp"
            yield packet


def _base(version: int, source: Network | None, target: Network | None) -> dict[str, Value]:
    found: dict[str, Value] = {
        "nfproto": f"ipv{version}", "protocol": "ip" if version == 4 else "ip6", "reversed": True,
    }  # fmt: skip
    found |= {} if source is None else {"saddr": source}
    return found | ({} if target is None else {"daddr": target})


def _anywhere(subject: Subject, version: int) -> Sequence[Network | None]:
    """This host's own addresses, which may be many: only where it intercepts by this version at all."""
    return [None] if _places(subject, version) else []


def _places(subject: Subject, version: int) -> Sequence[Network | None]:
    return _few(_of_version((*subject.pools, *subject.catches), version))


def _devices(subject: Subject, version: int) -> Sequence[Network | None]:
    """Those behind this host; one of which no address is known may have any."""
    known = _few(_of_version(filter(None, subject.senders), version))
    unknown = "" in subject.senders or (subject.devices and not subject.senders)
    return [*known, None] if unknown and None not in known else known


def _numbered(number: int) -> _Addresses:
    """An address of the pool: 1 is the edge's own, 2 plays its clients."""

    def of(subject: Subject, version: int) -> Sequence[Network | None]:
        pools = _of_version(subject.pools, version)
        return [ipaddress.ip_network(pool[number]) for pool in pools[:1]]

    return of


def _of_version(texts: Iterable[str], version: int) -> list[Network]:
    networks = (ipaddress.ip_network(one) for one in texts)
    return [one for one in networks if one.version == version]


def _few(some: list[Network]) -> Sequence[Network | None]:
    return some if len(some) <= AT_MOST else [*some[:AT_MOST], None]


# --- what stands in the way ---------------------------------------------------------------------------


def _own(chain: Chain, subject: Subject) -> bool:
    """The edge's own table, or the guard of another edge of this host, which knows its own interface only."""
    if chain.family != "inet":
        return False
    mine = chain.table.startswith(table_name(subject.interface, ""))
    return mine or (chain.table.endswith("_tun") and chain.name in GUARDS)


_Ways = dict[tuple[str, str], list[str]]
"""What goes there, by the chain with what drops it and the command that helps."""


def _stands(ruleset: Ruleset, chains: list[Chain], subject: Subject) -> tuple[_Ways, _Ways]:
    """What is dropped for certain, and what may be."""
    closed: _Ways = {}
    unclear: _Ways = {}
    for need in needs(subject):
        for obstacle in _obstacles(ruleset, chains, need):
            command = f"nft insert rule {obstacle.chain} {need.rule}"
            some = (closed if obstacle.sure else unclear).setdefault(
                (f"{obstacle.chain} ({obstacle.by})", command), []
            )
            if need.what not in some:
                some.append(need.what)
    helped = {command for _, command in closed}
    return closed, {one: what for one, what in unclear.items() if one[1] not in helped}


def _obstacles(ruleset: Ruleset, chains: list[Chain], need: Need) -> Iterator[_Obstacle]:
    for hook in _HOOKS[need.hook]:
        for chain in chains:
            if chain.hook == hook and chain.family in _FAMILIES[str(need.known["nfproto"])]:
                found = _obstacle(chain, ruleset.walk(chain, need.known))
                if found is not None:
                    yield found


def _obstacle(chain: Chain, met: list[Met]) -> _Obstacle | None:
    *maybe, end = met
    passes = end.verdict in _ACCEPTED
    others = [
        one
        for one in maybe
        if one.verdict not in _KNOWN or (one.verdict in _ACCEPTED) is not passes
    ]
    if end.verdict not in _KNOWN:
        return _Obstacle(chain, sure=False, by=_by(chain, end.rule))
    if passes and not others:
        return None
    doubtful = [one for one in others if passes or one.fit is Fit.UNKNOWN]
    if not doubtful:
        return _Obstacle(chain, sure=True, by=_by(chain, end.rule))
    rule = doubtful[0].rule
    if passes:
        return _Obstacle(chain, sure=False, by=f"for some of it: {_by(chain, rule)}")
    return _Obstacle(
        chain, sure=False, by=f"{_by(chain, end.rule)}, unless accepted by {_by(chain, rule)}"
    )


def _by(chain: Chain, rule: Rule | None) -> str:
    if rule is None:
        return f"policy {chain.policy}"
    inside = "" if rule.chain == chain else f" in chain {rule.chain.name}"
    return f"rule `{str(rule)[:120]}`, handle {rule.handle}{inside}"


def _say(beginning: str, verb: str, found: _Ways) -> str:
    """The ways that are closed, each with what goes there and the command that opens it."""
    if not found:
        return ""
    said = []
    for (where, command), what in itertools.islice(found.items(), NAMED):
        said.append(f"{where} {verb} {', '.join(what)}: `{command}`")
    more = "; and more of the kind" if len(found) > NAMED else ""
    return (
        f"{beginning}{'; '.join(said)}{more}. Keep what helps where this firewall's rules are kept"
    )
