"""Rules of nftables that steer intercepted traffic to a listener of the edge (modes `tproxy` and `redirect`). Pure.

What has a service goes to the listener. Everything else to the same addresses is told to the edge (by `log`, with a
limit) and refused by the kernel itself, so that it fails as fast as with TUN. One set for each prefix length: elements
of one set must not overlap.
"""

import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from overlay.policy.interception import Prefix
from overlay.wire.bodies import DATAGRAMS, STREAM

TOLD_PER_SECOND, TOLD_BURST = 100, 200
"""Refused packets of which the edge is told; the others are refused unseen."""
DENIED_SECONDS = 3
"""For so long the kernel itself refuses datagrams of a flow that was denied."""
DENIED = 4096
"""Flows of which it knows that."""
PRIORITY = 8246
"""Of the routing rule: before the tables main and default (32766, 32767), behind what an administrator put first."""
_PROTOCOLS = {STREAM: "tcp", DATAGRAMS: "udp"}
_WORDS = {4: ("ip", "ipv4_addr", "127.0.0.1"), 6: ("ip6", "ipv6_addr", "[::1]")}


class Served(NamedTuple):
    """Ports of a prefix behind which there are services; of one prefix and transport they do not overlap."""

    prefix: Prefix
    transport: int
    port: int
    port_end: int


class Plan(NamedTuple):
    """What one mode catches: `served` goes to the listener, everything else to `alone` is refused."""

    served: tuple[Served, ...] = ()
    alone: tuple[Prefix, ...] = ()

    def prefixes(self) -> list[Prefix]:
        """All, in order, each once."""
        return sorted({*self.alone, *(one.prefix for one in self.served)})


class Marks(NamedTuple):
    """`number` is the mark of steered packets, and of the routing table for them; `group` is where refused ones are
    told. Of the interface's name, so that two edges of one host do not meet.
    """

    number: int
    group: int

    @classmethod
    def of(cls, interface: str) -> "Marks":
        """Always the same for a name."""
        low = zlib.crc32(interface.encode()) & 0xFFFF
        return cls(0x4652_0000 | low, low or 1)


def tproxy(plan: Plan, port: int, marks: Marks) -> str:
    """The table for TPROXY: packets keep their addresses; `port` is one of 127.0.0.1 and ::1, for TCP and UDP."""
    steer = [
        f"meta nfproto {'ipv4' if version == 4 else 'ipv6'} meta l4proto {{ tcp, udp }} meta mark set {marks.number} "
        f"tproxy {words[0]} to {words[2]}:{port} accept"
        for version, words in _WORDS.items()
    ]
    own = [f"{match} meta mark set {marks.number} return" for match in _matches(plan)]
    return "\n".join([
        *_sets(plan), _refuse(marks),
        _chain("steer", "", (*_denied(), *steer)),
        _chain("caught", "type filter hook prerouting priority mangle; policy accept;", (
            _LOCAL, *_FORGED, *(f"{match} goto steer" for match in _matches(plan)), *_rest(plan))),
        _chain("own", "type route hook output priority mangle; policy accept;", (
            _LOCAL, *_denied(), *own, *_rest(plan))),
    ])  # fmt: skip


def redirect(plan: Plan, port: int, marks: Marks) -> str:
    """The table for REDIRECT: TCP only; the kernel's connection tracking remembers where packets were to go."""
    sent = [f"{match} meta l4proto tcp redirect to :{port}" for match in _matches(plan)]
    through = [f"{match} return" for match in _matches(plan)]
    return "\n".join([
        *_sets(plan), _refuse(marks),
        _chain("caught", "type filter hook prerouting priority mangle; policy accept;", (
            _LOCAL, *_FORGED, *through, *_rest(plan))),
        _chain("own", "type filter hook output priority mangle; policy accept;", (
            _LOCAL, *through, *_rest(plan))),
        _chain("sent", "type nat hook prerouting priority dstnat; policy accept;", (_LOCAL, *sent)),
        _chain("own_sent", "type nat hook output priority -100; policy accept;", (_LOCAL, *sent)),
        # Whoever connects to the listener itself was not redirected.
        _chain("guard", "type filter hook input priority filter; policy accept;", (
            f"tcp dport {port} ct status & dnat == 0 reject with tcp reset",)),
    ])  # fmt: skip


def guard(interface: str) -> str:
    """The table for TUN: what this host forwards is not of a program on it, whatever it says."""
    return _chain("guard", "type filter hook forward priority filter; policy accept;", (
        f'oifname "{interface}" fib saddr type local drop',))  # fmt: skip


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


def _groups(plan: Plan) -> dict[tuple[int, int], list[Served]]:
    """By version and prefix length, the longest first."""
    found: dict[tuple[int, int], list[Served]] = {}
    for one in plan.served:
        found.setdefault((one.prefix.version, one.prefix.length), []).append(one)
    return dict(sorted(found.items(), key=lambda item: (item[0][0], -item[0][1])))


def _matches(plan: Plan) -> list[str]:
    return [
        f"{_WORDS[version][0]} daddr . meta l4proto . th dport @served{version}_{length}"
        for version, length in _groups(plan)
    ]


def _rest(plan: Plan) -> list[str]:
    return [
        f"{_WORDS[version][0]} daddr @alone{version} goto refuse"
        for version in sorted({prefix.version for prefix in plan.alone})
    ]


def _sets(plan: Plan) -> list[str]:
    made = [
        f"  set denied{version} {{\n    type {words[1]} . {words[1]} . inet_proto . inet_service\n"
        f"    flags timeout\n    timeout {DENIED_SECONDS}s\n    size {DENIED}\n  }}"
        for version, words in _WORDS.items()
    ]
    for (version, length), some in _groups(plan).items():
        elements = ", ".join(
            f"{one.prefix.as_network()} . {_PROTOCOLS[one.transport]} . {one.port}-{one.port_end}"
            if one.port != one.port_end
            else f"{one.prefix.as_network()} . {_PROTOCOLS[one.transport]} . {one.port}"
            for one in some
        )
        made.append(
            f"  set served{version}_{length} {{\n    type {_WORDS[version][1]} . inet_proto . inet_service\n"
            f"    flags interval\n    elements = {{ {elements} }}\n  }}"
        )
    for version in sorted({prefix.version for prefix in plan.alone}):
        elements = ", ".join(
            str(prefix.as_network()) for prefix in plan.alone if prefix.version == version
        )
        made.append(
            f"  set alone{version} {{\n    type {_WORDS[version][1]}\n    flags interval\n    auto-merge\n"
            f"    elements = {{ {elements} }}\n  }}"
        )
    return made
