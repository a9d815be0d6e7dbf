"""`ferrule-edge doctor`: what on this host keeps interception from working, and what to do about it."""

import ipaddress
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from edge.host_changes import HostError
from edge.host_machine import run
from edge.intercept.steered import LOOPBACK
from edge.intercept.steering import Marks
from edge.netlink import Netlink
from overlay.policy.interception import POOL

CAP_NET_ADMIN = 12
_STATUS = Path("/proc/self/status")
_SYS = Path("/proc/sys/net")


class Subject(NamedTuple):
    """What is examined: the edge's interface, its pools, the modes by which it intercepts, and what it complains of."""

    interface: str = "ferrule0"
    pools: tuple[str, ...] = (POOL,)
    modes: tuple[str, ...] = ("tun",)
    problems: tuple[str, ...] = ()


DEFAULT = Subject()


class Finding(NamedTuple):
    """One check; `text` says what is and, where it is not `ok`, what to do."""

    check: str
    ok: bool
    text: str


def capability(status: str) -> Finding:
    """CAP_NET_ADMIN, from /proc/PID/status."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    ok = found is not None and bool(int(found[1], 16) >> CAP_NET_ADMIN & 1)
    if ok:
        return Finding("capability", ok=True, text="CAP_NET_ADMIN is there")
    return Finding(
        "capability", ok=False,
        text="CAP_NET_ADMIN is missing, so nothing can be intercepted: run the edge as in "
        "deploy/systemd/ferrule-edge.service (AmbientCapabilities=CAP_NET_ADMIN)",
    )  # fmt: skip


def device(*, there: bool, usable: bool) -> Finding:
    """/dev/net/tun."""
    if usable:
        return Finding("device", ok=True, text="/dev/net/tun can be used")
    text = (
        "/dev/net/tun cannot be opened: give the edge's user access to it (mode 0666 is usual), or in a container "
        "--device /dev/net/tun"
        if there
        else "/dev/net/tun is missing: modprobe tun, or in a container --device /dev/net/tun"
    )
    return Finding("device", ok=False, text=text)


def intercepts(problems: Iterable[str]) -> Finding:
    """What of that which is assigned is not caught."""
    text = "; ".join(problems)
    return Finding(
        "intercepts", ok=not text, text=text or "nothing stands against what is assigned"
    )


def routes(taken: Iterable[tuple[str, str]], pools: Iterable[str] = (POOL,)) -> Finding:
    """Whether another program's routes lie in a pool; `taken` are (destination, interface)."""
    wanted = [ipaddress.ip_network(pool) for pool in pools]
    overlapping = [
        (f"{destination} by {interface}", pool)
        for destination, interface in taken
        for pool in wanted
        if (network := ipaddress.ip_network(destination)).version == pool.version
        and network.prefixlen
        and network.overlaps(pool)
    ]
    names = " and ".join(map(str, wanted))
    if not overlapping:
        return Finding("routes", ok=True, text=f"no other route lies in {names}")
    found = ", ".join(words for words, _ in overlapping[:4])
    return Finding(
        "routes", ok=False,
        text=f"there are routes in the pool {overlapping[0][1]} already ({found}): choose another pool, "
        "`ferrule set edge NAME pool=198.18.0.0/16`",
    )  # fmt: skip


def default_routes(interfaces: Iterable[str]) -> Finding:
    """More than one way out."""
    names = sorted(set(interfaces))
    if len(names) < 2:
        return Finding(
            "default route", ok=True, text="there is one way out" if names else "there is none"
        )
    return Finding(
        "default route", ok=False,
        text=f"there are default routes by {' and '.join(names)}: answers to devices may leave by the other one; "
        "give one a higher metric, or remove it",
    )  # fmt: skip


def forwarding(v4: str, v6: str) -> Finding:
    """Devices that route through this host need it; programs on it do not."""
    if v4 == "1":
        words = "and IPv6" if v6 == "1" else "but not IPv6"
        return Finding("forwarding", ok=True, text=f"IPv4 is forwarded, {words}")
    return Finding(
        "forwarding", ok=False,
        text="nothing is forwarded, so devices behind this host cannot use it (programs on it can): "
        "sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1",
    )  # fmt: skip


def reverse_path(strict: str, marks: str) -> Finding:
    """rp_filter and src_valid_mark: TUN works with each; together they break TPROXY."""
    if strict == "1" and marks == "1":
        return Finding(
            "rp_filter", ok=False,
            text="rp_filter=1 and src_valid_mark=1 (wg-quick sets it) break the mode tproxy for devices behind this "
            "host; tun works",
        )  # fmt: skip
    return Finding(
        "rp_filter", ok=True, text=f"rp_filter is {strict or 'not there'}; tun works with each"
    )


def firewall(ruleset: str, subject: Subject = DEFAULT) -> Finding:
    """A policy of drop in a chain through which intercepted traffic goes, without a rule that lets it through."""
    name = subject.interface
    needed: dict[str, list[str]] = {"input": [], "forward": []}
    if "tun" in subject.modes:
        needed["input"].append(f"iifname {name} accept")
        needed["forward"] += [f"oifname {name} accept", f"iifname {name} accept"]
    if "tproxy" in subject.modes:
        needed["input"].append(f"meta mark {Marks.of(name).number:#x} accept")
    if "redirect" in subject.modes:
        needed["input"].append("ct status dnat accept")
    found = [
        f"{hook} {rule}"
        for hook, rules in needed.items()
        for chain in _dropping(ruleset, hook)
        for rule in rules
        if not all(word.strip('"') in chain.replace('"', "") for word in rule.split()[:-1])
    ]
    if not found:
        return Finding("firewall", ok=True, text="no nftables chain drops what is intercepted")
    hooks = dict.fromkeys(one.split()[0] for one in found)
    return Finding(
        "firewall", ok=False,
        text=f"this host's firewall drops what no rule accepts ({' and '.join(hooks)}), also what is "
        f"intercepted: add {'; '.join(dict.fromkeys(found))}",
    )  # fmt: skip


def _dropping(ruleset: str, hook: str) -> list[str]:
    """Chains of this hook whose policy is drop, as text."""
    found, chain = [], None
    for line in ruleset.splitlines():
        if line.startswith("\tchain "):
            chain = ""
        elif line == "\t}":
            if chain and f"type filter hook {hook} " in chain and "policy drop;" in chain:
                found.append(chain)
            chain = None
        elif chain is not None:
            chain += line + "\n"
    return found


def senders(without_nft: str = "") -> Finding:
    """Whether a device on the LAN can pass as this host by `tun` (`edge.intercept.guard`)."""
    if without_nft:
        return Finding(
            "senders", ok=False,
            text=f"{without_nft}: by tun, a device on the LAN that sends with an IPv6 address of this host counts as "
            "this host itself: install nftables",
        )  # fmt: skip
    return Finding("senders", ok=True, text="nft is there, to drop what only says it is this host")


def receive_offload(features: str, interface: str) -> Finding:
    """GRO: without it forwarded traffic comes in small packets and is several times slower."""
    off = re.search(r"^generic-receive-offload: off", features, re.MULTILINE) is not None
    if off:
        return Finding(
            "offload", ok=False,
            text=f"{interface} does not merge packets (GRO is off), so forwarded traffic is several times slower: "
            f"ethtool -K {interface} gro on",
        )  # fmt: skip
    return Finding(
        "offload", ok=True, text=f"{interface} merges packets, or ethtool is not there to ask"
    )


async def examine(subject: Subject = DEFAULT) -> list[Finding]:
    """Look at this host. Never raises for what the host does not have."""
    found = [capability(_own_status()), _device(), intercepts(subject.problems)]
    try:
        with Netlink() as kernel:
            names = {link.number: link.name for link in kernel.links()}
            table = [
                (str(one.destination), names.get(one.interface, "?")) for one in kernel.routes()
            ]
    except OSError:
        names, table = {}, []
    others = [one for one in table if one[1] not in (subject.interface, LOOPBACK)]
    out = [name for destination, name in table if destination == "0.0.0.0/0"]
    found += [
        routes(others, subject.pools),
        default_routes(out),
        forwarding(_read("ipv4/ip_forward"), _read("ipv6/conf/all/forwarding")),
        reverse_path(_read("ipv4/conf/all/rp_filter"), _read("ipv4/conf/all/src_valid_mark")),
    ]

    def behind(ruleset: str) -> Finding:
        return firewall(ruleset, subject)

    found.append(await _asked(behind, "firewall", "nft", "list", "ruleset"))
    if "tun" in subject.modes:
        found.append(await _senders())
    for name in sorted(set(out)):

        def judge(text: str, name: str = name) -> Finding:
            return receive_offload(text, name)

        found.append(await _asked(judge, "offload", "ethtool", "-k", name))
    return found


async def _senders() -> Finding:
    try:
        await run("nft", "--version")
    except HostError as error:
        return senders(str(error))
    return senders()


async def _asked(judge: Callable[[str], Finding], check: str, *command: str) -> Finding:
    try:
        return judge(await run(*command))
    except HostError as error:
        return Finding(check, ok=True, text=f"not looked at: {error}")


def _own_status() -> str:
    return _STATUS.read_text(encoding="utf-8", errors="replace")


def _device() -> Finding:
    path = Path("/dev/net/tun")
    return device(there=path.exists(), usable=os.access(path, os.R_OK | os.W_OK))


def _read(name: str) -> str:
    try:
        return (_SYS / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""
