"""Rules of nftables that steer intercepted traffic to a listener of the edge (modes `tproxy` and `redirect`). Pure.

What has a service goes to the listener, a connection only when its sender has a grant (`Plan.allowed`). Everything
else to the same addresses is told to the edge (by `log`, with a limit) and refused by the kernel itself, so that it
fails as fast as with TUN. One set for each prefix length, whose elements are networks: such a set is a hash, so that
elements come and go in a time that does not depend on how many there are. Ranges of ports have sets of their own, which
are slower. See ADR 8.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from edge.intercept.plan import Plan, Served
from overlay.policy.interception import BITS, Prefix
from overlay.wire.bodies import DATAGRAMS, STREAM

TOLD_PER_SECOND, TOLD_BURST = 100, 200
"""Refused packets of which the edge is told; the others are refused unseen."""
DENIED_SECONDS = 3
"""For so long the kernel itself refuses datagrams of a flow that was denied."""
DENIED = 4096
"""Flows of which it knows that."""
_MAC, _ADDRESSES = 6, (4, 16)
"""Bytes of a hardware address, and of those of IP. Who is known by both has one behind the other."""
PRIORITY = 8246
"""Of the routing rule: before the tables main and default (32766, 32767), behind what an administrator put first."""
_PROTOCOLS = {STREAM: "tcp", DATAGRAMS: "udp"}
_WORDS = {4: ("ip", "ipv4_addr", "127.0.0.1"), 6: ("ip6", "ipv6_addr", "[::1]")}


class Marks(NamedTuple):
    """`number` is the mark of steered packets, and of the routing table for them; `group` is where refused ones are
    told. Of the interface's name, so that two edges of one host do not meet; a group has one
    reader, so each mode has its own.
    """

    number: int
    group: int

    @classmethod
    def of(cls, interface: str, mode: str = "") -> "Marks":
        """Always the same for a name and a mode; the number is that of the name."""
        group = zlib.crc32(f"{interface} {mode}".encode()) & 0xFFFF
        return cls(0x4652_0000 | zlib.crc32(interface.encode()) & 0xFFFF, group or 1)


class Rules(NamedTuple):
    """A table in three parts: `sets` (and chains without a hook) and what is in them must be there, whole, before a
    packet meets `hooks`. Who has a grant changes `elements` only.
    """

    sets: str
    hooks: str
    elements: tuple[tuple[str, tuple[str, ...]], ...]
    """By name of the set, as nft takes them."""


class _Group(NamedTuple):
    """Places with a service that one set can hold, and how its rules name it."""

    version: int
    length: int
    ranges: bool
    """Of ports."""

    @property
    def suffix(self) -> str:
        """Of the names of its sets and chains."""
        return f"{self.version}_{self.length}{'r' if self.ranges else ''}"

    @classmethod
    def of(cls, served: Served) -> "_Group":
        """Where it belongs."""
        prefix = served.prefix
        return cls(prefix.version, prefix.length, served.port != served.port_end)


class Layout:
    """What of the rules does not depend on who has a grant, told once: there may be ten thousand places."""

    def __init__(self, plan: Plan) -> None:
        self._made_of = plan.served, plan.alone, plan.beside
        self.groups = sorted(
            {_Group.of(one) for one in plan.served},
            key=lambda one: (one.version, -one.length, one.ranges),
        )
        self.beside = sorted({_Group.of(one) for one in plan.beside})
        self.alone = sorted({(prefix.version, prefix.length) for prefix in plan.alone})
        """Version and prefix length of what is refused besides what has a service."""
        suffixes = {group: group.suffix for group in self.groups}
        self.texts = {one: (suffixes[_Group.of(one)], _element(one)) for one in plan.served}
        """Suffix of its sets, and how it stands in them."""
        found: dict[str, list[str]] = {}
        for suffix, text in self.texts.values():
            found.setdefault(f"served{suffix}", []).append(text)
        for one in plan.beside:
            found.setdefault(f"beside{_Group.of(one).suffix}", []).append(_element(one))
        for prefix in plan.alone:
            name = f"alone{prefix.version}_{prefix.length}"
            found.setdefault(name, []).append(_address(prefix.version, prefix.network))
        self.elements = tuple((name, tuple(some)) for name, some in found.items())

    def fits(self, plan: Plan) -> bool:
        """It is that of this plan."""
        served, alone, beside = self._made_of
        return plan.served is served and plan.alone is alone and plan.beside is beside

    def matches(self) -> list[tuple[str, str]]:
        """Suffix of a group's names, and what matches it."""
        return [(one.suffix, f"{_place(one)} @served{one.suffix}") for one in self.groups]


def tproxy(plan: Plan, layout: Layout, port: int, marks: Marks) -> Rules:
    """The table for TPROXY: packets keep their addresses; `port` is one of 127.0.0.1 and ::1, for TCP and UDP."""
    steer = [
        f"meta nfproto {'ipv4' if version == 4 else 'ipv6'} meta l4proto {{ tcp, udp }} meta mark set {marks.number} "
        f"tproxy {words[0]} to {words[2]}:{port} accept"
        for version, words in _WORDS.items()
    ]
    gates = _Gates(plan, layout, "goto steer", f"meta mark set {marks.number} return")
    sets = [
        *_sets(plan, layout),
        _refuse(marks),
        _chain("steer", "", (*_denied(), *steer)),
        *gates.chains(),
    ]
    return _rules(plan, layout, sets, [
        _chain("caught", "type filter hook prerouting priority mangle; policy accept;", (
            _LOCAL, *_FORGED, f'iif "lo" meta mark {marks.number} goto steer', *gates.devices(),
            *_errors(f"socket transparent 1 meta mark set {marks.number} accept"), *_rest(layout))),
        _chain("own", "type route hook output priority mangle; policy accept;", (
            _LOCAL, *_denied(), *gates.programs(), *_rest(layout))),
    ])  # fmt: skip


def redirect(plan: Plan, layout: Layout, port: int, marks: Marks) -> Rules:
    """The table for REDIRECT: TCP only; the kernel's connection tracking remembers where packets were to go."""
    sent = [f"{match} meta l4proto tcp redirect to :{port}" for _, match in layout.matches()]
    # What began before these rules was not redirected, and the kernel would never do so: it would go past the edge.
    past = [
        f"{match} tcp flags & (fin | syn | rst | ack) != syn ct status & dnat == 0 reject with tcp reset"
        for _, match in layout.matches()
    ]
    gates = _Gates(plan, layout, "return", "return")
    return _rules(plan, layout, [*_sets(plan, layout), _refuse(marks), *gates.chains()], [
        _chain("caught", "type filter hook prerouting priority mangle; policy accept;", (
            _LOCAL, *_FORGED, *past, *gates.devices(),
            *_errors("ct state related ct status dnat accept"), *_rest(layout))),
        _chain("own", "type filter hook output priority mangle; policy accept;", (
            _LOCAL, *past, *gates.programs(), *_rest(layout))),
        _chain("sent", "type nat hook prerouting priority dstnat; policy accept;", (_LOCAL, *sent)),
        _chain("own_sent", "type nat hook output priority -100; policy accept;", (_LOCAL, *sent)),
        # Whoever connects to the listener itself was not redirected.
        _chain("guard", "type filter hook input priority filter; policy accept;", (
            f"tcp dport {port} ct status & dnat == 0 reject with tcp reset",)),
    ])  # fmt: skip


GUARDS = ("guard", "masked")
"""Chains of that table: they drop nothing but what leaves by its own interface."""


def guard(interface: str) -> str:
    """The table for TUN: what this host forwards is not of a program on it, whatever it says, and whatever address the
    host's own rules (`masquerade`) give it on the way.
    """
    return "\n".join([
        _chain(GUARDS[0], "type filter hook forward priority filter; policy accept;", (
            f'oifname "{interface}" fib saddr type local drop',)),
        # Only what is forwarded came in by an interface.
        _chain(GUARDS[1], "type filter hook postrouting priority srcnat + 10; policy accept;", (
            f'oifname "{interface}" meta iif != 0 fib saddr type local drop',)),
    ])  # fmt: skip


def table_name(interface: str, mode: str) -> str:
    """Of the table of one mode, as nft takes it."""
    text = f"{interface}_{mode}"
    plain = "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in text)
    return plain if plain[0].isalpha() else f"_{plain}"


def denied(table: str, flows: Iterable[tuple[str, str, int]]) -> str:
    """A command of nft: datagrams of these flows (source, destination, port) are refused for a while."""
    lines = []
    for source, destination, port in flows:
        version = 6 if ":" in source else 4
        lines.append(
            f"add element inet {table} denied{version} {{ {source} . {destination} . udp . {port} }}"
        )
    return "\n".join(lines) + "\n"


_LOCAL = "fib daddr type local return"
"""Traffic to this host's own addresses is not intercepted, as with TUN."""
_FORGED = (
    'iif != "lo" fib saddr type local ip daddr < 224.0.0.0 fib daddr type != broadcast drop',
    'iif != "lo" fib saddr type local ip6 daddr != ff00::/8 drop',
)
"""A device on the LAN is not this host itself. What this host sends to a group it hears by the interface where it went
out, so groups are left alone."""


def _rules(plan: Plan, layout: Layout, sets: Sequence[str], hooks: Sequence[str]) -> Rules:
    elements = (*layout.elements, *_senders_of(plan, layout))
    return Rules("\n".join(sets), "\n".join(hooks), elements)


def _chain(name: str, head: str, rules: Sequence[str]) -> str:
    body = "\n".join(f"    {line}" for line in (head, *rules) if line)
    return f"  chain {name} {{\n{body}\n  }}"


def _refuse(marks: Marks) -> str:
    return _chain("refuse", "", (
        f"limit rate {TOLD_PER_SECOND}/second burst {TOLD_BURST} packets log group {marks.group}",
        "meta l4proto tcp reject with tcp reset",
        "reject with icmpx admin-prohibited",
    ))  # fmt: skip


def _denied() -> list[str]:
    return [
        f"{words[0]} saddr . {words[0]} daddr . meta l4proto . th dport @denied{version} goto refuse"
        for version, words in _WORDS.items()
    ]


class _Gates:
    """Chains, one for each prefix length, that let through who has a grant.

    Of a connection only the first packet is looked at: the edge itself ends one that has no grant any more.

    Args:
        plan: what is caught.
        layout: of it.
        devices, programs: what becomes of what may go on, of devices and of programs of this host.
    """

    def __init__(self, plan: Plan, layout: Layout, devices: str, programs: str) -> None:
        self._known = plan.allowed is not None
        self._layout = layout
        self._through = {"gate": devices, "own": programs}

    def devices(self) -> list[str]:
        """Rules for what comes in by an interface."""
        return self._rules("gate")

    def programs(self) -> list[str]:
        """Rules for what this host sends."""
        return self._rules("own")

    def chains(self) -> list[str]:
        """Where these lead."""
        if not self._known:
            return []
        return [
            _chain(f"{gate}{group.suffix}", "", (
                f"tcp flags & (fin | syn | rst | ack) != syn {through}",
                *(
                    f"{before}{_place(group)} @{kind}{group.suffix} {through}"
                    for kind, before in _senders(gate, group.version)
                ),
                "goto refuse",
            ))
            for group in self._layout.groups
            for gate, through in self._through.items()
        ]  # fmt: skip

    def _rules(self, gate: str) -> list[str]:
        through = self._through[gate]
        return [
            f"{match} {f'goto {gate}{suffix}' if self._known else through}"
            for suffix, match in self._layout.matches()
        ]


def _senders(gate: str, version: int) -> list[tuple[str, str]]:
    """Kinds of senders that a chain looks for, and how rules say them."""
    if gate == "own":
        return [("host", "")]
    address = f"{_WORDS[version][0]} saddr . "
    return [("from", address), ("mac", "ether saddr . "), ("both", f"ether saddr . {address}")]


def _place(group: _Group) -> str:
    """What a rule looks up: a set with intervals knows prefixes, another one networks."""
    version, length, ranges = group
    return f"{_network(version, 0 if ranges else length)} . meta l4proto . th dport"


def _network(version: int, length: int) -> str:
    """Where a packet goes, cut to a prefix length; 0: the whole address."""
    whole = f"{_WORDS[version][0]} daddr"
    mask = Prefix(version, 0, length).mask
    return f"{whole} & {_address(version, mask)}" if 0 < length < BITS[version] else whole


def _errors(heard: str) -> list[str]:
    """What devices and routers before them say of packets on the way to a client, for example that one is too long: the
    kernel hears it when `heard` finds the connection that it quotes.
    """
    return [
        f"icmp type {{ destination-unreachable, time-exceeded, parameter-problem }} {heard}",
        "icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem } "
        + heard,
    ]


def _rest(layout: Layout) -> list[str]:
    return [
        *(f"{_place(group)} @beside{group.suffix} return" for group in layout.beside),
        *(
            f"{_network(version, length)} @alone{version}_{length} goto refuse"
            for version, length in layout.alone
        ),
    ]


def _sets(plan: Plan, layout: Layout) -> list[str]:
    made: list[str] = [
        f"  set denied{version} {{\n    type {words[1]} . {words[1]} . inet_proto . inet_service\n"
        f"    flags timeout\n    timeout {DENIED_SECONDS}s\n    size {DENIED}\n  }}"
        for version, words in _WORDS.items()
    ]
    for group in layout.groups:
        kind = _WORDS[group.version][1]
        senders = {
            "served": "", "from": f"{kind} . ", "mac": "ether_addr . ",
            "both": f"ether_addr . {kind} . ", "host": "",
        }  # fmt: skip
        flags = "    flags interval\n" if group.ranges else ""
        made += [
            f"  set {name}{group.suffix} {{\n    type {sender}{kind} . inet_proto . inet_service\n{flags}  }}"
            for name, sender in senders.items()
            if name == "served" or plan.allowed is not None
        ]
    for group in layout.beside:
        flags = "    flags interval\n" if group.ranges else ""
        kind = _WORDS[group.version][1]
        made.append(
            f"  set beside{group.suffix} {{\n    type {kind} . inet_proto . inet_service\n{flags}  }}"
        )
    made += [
        f"  set alone{version}_{length} {{\n    type {_WORDS[version][1]}\n  }}"
        for version, length in layout.alone
    ]
    return made


def _senders_of(plan: Plan, layout: Layout) -> list[tuple[str, tuple[str, ...]]]:
    """What is in the sets of those who are let through."""
    found: dict[str, list[str]] = {}
    names = {source: _sender(source) for source in {one.source for one in plan.allowed or ()}}
    for source, served in plan.allowed or ():
        (kind, words), (suffix, text) = names[source], layout.texts[served]
        found.setdefault(kind + suffix, []).append(words + text)
    return [(name, tuple(some)) for name, some in found.items()]


def _sender(source: bytes) -> tuple[str, str]:
    """In which kind of set, and how it stands there."""
    if not source:
        return "host", ""
    if len(source) in _ADDRESSES:
        return "from", f"{_host(source)} . "
    mac, address = source[:_MAC].hex(":"), source[_MAC:]
    return ("both", f"{mac} . {_host(address)} . ") if address else ("mac", f"{mac} . ")


def _element(one: Served) -> str:
    version, network, length = one.prefix
    place = _address(version, network)
    if one.port != one.port_end:
        return f"{place}/{length} . {_PROTOCOLS[one.transport]} . {one.port}-{one.port_end}"
    return f"{place} . {_PROTOCOLS[one.transport]} . {one.port}"


def _address(version: int, number: int) -> str:
    return _host(number.to_bytes(4 if version == 4 else 16, "big"))


def _host(packed: bytes) -> str:
    """`ipaddress` takes ten times as long."""
    return packed.hex(":", 2) if len(packed) > 4 else ".".join(map(str, packed))
