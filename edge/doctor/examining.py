"""`ferrule-edge doctor`: what on this host keeps interception from working, and what to do about it."""

import ipaddress
import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from edge.doctor.findings import DEFAULT, Finding, Subject
from edge.doctor.firewall import UNJUDGED, firewall, legacy, masquerade
from edge.intercept.steered import LOOPBACK
from edge.machine.changes import HostError
from edge.machine.making import run
from edge.machine.netlink import Netlink
from overlay.aio.lifecycle import describe
from overlay.policy.interception import POOL

_SYS = Path("/proc/sys/net")
_INTERFACES = Path("/sys/class/net")
_LEGACY = {
    Path("/proc/net/ip_tables_names"): "iptables-legacy",
    Path("/proc/net/ip6_tables_names"): "ip6tables-legacy",
}
_BRIDGE_CALLS = "bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"


def capability(subject: Subject) -> Finding:
    """CAP_NET_ADMIN of the edge that runs here; the doctor's own says nothing of it."""
    if not subject.runs or subject.admin is None:
        return Finding(
            "capability", ok=None,
            text=f"{UNJUDGED}no edge runs here that could say whether it has CAP_NET_ADMIN: start it, and ask again",
        )  # fmt: skip
    if subject.admin:
        return Finding("capability", ok=True, text="the edge has CAP_NET_ADMIN")
    return Finding(
        "capability", ok=False,
        text="the edge runs without CAP_NET_ADMIN, so nothing can be intercepted: run it with "
        "deploy/systemd/ferrule-edge.service.d/intercept.conf (AmbientCapabilities=CAP_NET_ADMIN)",
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


def names(told: Mapping[str, Any] | None) -> Finding:
    """Whether names of what is intercepted are answered, and this host asks for them."""
    if told is None:
        return Finding("names", ok=True, text="none are to be answered")
    text = "; ".join(told["problems"])
    at, mode = " and ".join(told["at"]), told["mode"]
    good = f"names below {told['domain']} are answered at {at}; this host asks there by: {mode}"
    return Finding("names", ok=not text, text=text or good)


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


def forwarding(v4: str, v6: str, subject: Subject = DEFAULT) -> Finding:
    """Devices that route through this host need it, where they are intercepted by TUN; programs on it do not."""
    if v4 == "1":
        words = "and IPv6" if v6 == "1" else "but not IPv6"
        return Finding("forwarding", ok=True, text=f"IPv4 is forwarded, {words}")
    how = "sysctl -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1"
    if "tun" not in subject.modes or not subject.devices:
        return Finding(
            "forwarding", ok=True,
            text=f"nothing is forwarded, which nobody needs here; devices behind this host would, by tun: {how}",
        )  # fmt: skip
    named = ", ".join(subject.devices[:4]) + (", ..." if len(subject.devices) > 4 else "")
    return Finding(
        "forwarding", ok=False,
        text=f"nothing is forwarded, so devices behind this host ({named}) cannot use it by tun: {how}",
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


def bridges(names: Iterable[str], v4: str, v6: str) -> Finding:
    """br_netfilter: rules see a bridge's frames before they are packets; the kernel forgets what TPROXY said of them.
    TUN and REDIRECT work with it.
    """
    keys = (("bridge-nf-call-iptables", v4), ("bridge-nf-call-ip6tables", v6))
    called = [f"net.bridge.{key}=0" for key, value in keys if value == "1"]
    found = sorted(names)
    if not found or not called:
        return Finding("bridges", ok=True, text="no bridge keeps tproxy from catching")
    return Finding(
        "bridges", ok=False,
        text=f"tproxy does not catch devices behind the bridge {' or '.join(found)}, since br_netfilter is on: "
        f"sysctl -w {' '.join(called)}, or intercept by tun",
    )  # fmt: skip


def senders(without_nft: str = "") -> Finding:
    """Whether a device on the LAN can pass as this host by `tun` (`edge.intercept.guard`)."""
    if without_nft:
        return Finding(
            "senders", ok=False,
            text=f"{without_nft}: by tun, a device on the LAN that sends with an IPv6 address of this host, or is "
            "masqueraded by it, counts as this host itself: install nftables",
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


Judge = Callable[[str], Finding]


async def examine(subject: Subject = DEFAULT) -> list[Finding]:
    """Look at this host. Never raises for what the host does not have."""
    found = [capability(subject), _device(), intercepts(subject.problems), names(subject.names)]
    try:
        with Netlink() as kernel:
            links = {link.number: link.name for link in kernel.links()}
            table = [
                (str(one.destination), links.get(one.interface, "?")) for one in kernel.routes()
            ]
    except OSError:
        table = []
    others = [one for one in table if one[1] not in (subject.interface, LOOPBACK)]
    out = [name for destination, name in table if destination == "0.0.0.0/0"]
    found += [
        routes(others, subject.pools),
        default_routes(out),
        forwarding(_read("ipv4/ip_forward"), _read("ipv6/conf/all/forwarding"), subject),
        reverse_path(_read("ipv4/conf/all/rp_filter"), _read("ipv4/conf/all/src_valid_mark")),
    ]

    judges: dict[str, Judge] = {"firewall": partial(firewall, subject=subject)}
    if "tun" in subject.modes:
        found.append(await _senders())
        judges["masquerade"] = partial(masquerade, subject=subject)
    found += await _asked(judges, "nft", "-j", "list", "ruleset")
    found.append(await _legacy())
    if "tproxy" in subject.modes:
        found.append(_bridges())
    for name in sorted(set(out)):
        judge = partial(receive_offload, interface=name)
        found += await _asked({"offload": judge}, "ethtool", "-k", name)
    return found


async def _legacy() -> Finding:
    """The kernel tells which tables there are to root only; who lists a table that is not there makes it."""
    tables: set[str] = set()
    said: list[str] | None = []
    for path, program in _LEGACY.items():
        try:
            names = path.read_text(encoding="ascii").split()
        except FileNotFoundError:
            continue
        except OSError as error:
            return Finding(
                "iptables-legacy", ok=None, text=f"{UNJUDGED}{describe(error)} Run this as root."
            )
        tables |= set(names)
        try:
            if said is not None and "filter" in names:
                said.append(await run(program, "-S"))
        except HostError:
            said = None
    return legacy(tables, None if said is None else "\n".join(said))


def _bridges() -> Finding:
    names = [path.parent.name for path in _INTERFACES.glob("*/bridge")]
    return bridges(names, *map(_read, _BRIDGE_CALLS))


async def _senders() -> Finding:
    try:
        await run("nft", "--version")
    except HostError as error:
        return senders(str(error))
    return senders()


async def _asked(judges: dict[str, Judge], *command: str) -> list[Finding]:
    """What a program prints, asked once and judged by all of these."""
    try:
        text = await run(*command)
    except HostError as error:
        return [Finding(one, ok=None, text=f"{UNJUDGED}{error}") for one in judges]
    return [judge(text) for judge in judges.values()]


def _device() -> Finding:
    path = Path("/dev/net/tun")
    return device(there=path.exists(), usable=os.access(path, os.R_OK | os.W_OK))


def _read(name: str) -> str:
    try:
        return (_SYS / name).read_text(encoding="ascii").strip()
    except OSError:
        return ""
