"""How the host comes to ask this edge for names of assets: by systemd-resolved, by resolv.conf, or not at all."""

import ipaddress
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edge.machine.changes import Change, FileChange, HostError, ResolvedChange
from edge.machine.making import read_small, resolved_runs
from edge.names.answers import DNS_PORT
from edge.names.server import Address

MODES = ("auto", "resolved", "resolv.conf", "none")
RESOLV_CONF = Path("/etc/resolv.conf")
UPSTREAM = Path("/run/systemd/resolve/resolv.conf")
"""Whom systemd-resolved asks (systemd-resolved(8)); resolv.conf itself may name its stub only."""
LOOPBACK = "lo"
NAMESERVERS = 3
"""As many as a C library asks (resolv.conf(5))."""
_OF_NONE = "127.0.0.1"
"""Whom a C library asks where resolv.conf names nobody (resolv.conf(5))."""
MARK = "# ferrule-edge: names below {} are answered here first; undone when the edge ends"


class Chosen(NamedTuple):
    """`mode` is one of `MODES` but auto; `why` says why; `change` makes it so; `others` answer everything else."""

    mode: str
    why: str
    change: Change | None = None
    others: tuple[Address, ...] = ()


async def choose(
    mode: str, interface: str, servers: Sequence[str], domain: str, path: Path = RESOLV_CONF
) -> Chosen:
    """What is done on this host. `auto` takes systemd-resolved where it runs, else resolv.conf.

    Args:
        mode: one of `MODES`.
        interface: that of the resolver's addresses.
        servers: the resolver's addresses.
        domain: what it answers.

    Raises:
        HostError: it cannot be done this way here.
    """
    if mode == "none":
        return Chosen("none", "as it was asked for", others=others_of(servers))
    if mode in ("auto", "resolved"):
        if interface == LOOPBACK:
            why = "systemd-resolved takes no names from the loopback interface"
            if mode == "resolved":
                raise HostError(f"{why}: intercept by tun, or choose another --names")
        elif await resolved_runs():
            return Chosen(
                "resolved",
                "systemd-resolved runs on this host",
                ResolvedChange(interface, tuple(servers), domain),
                others_of(servers),
            )
        elif mode == "resolved":
            raise HostError("systemd-resolved does not run on this host: choose another --names")
        else:
            why = "systemd-resolved does not run on this host"
    else:
        why = "as it was asked for"
    try:
        before = read_small(path)
    except OSError as error:
        raise HostError(f"{path} cannot be read: {error.strerror}") from None
    content, others = with_servers(before, servers, domain)
    return Chosen("resolv.conf", why, FileChange(str(path), content), others)


def with_servers(
    before: bytes, servers: Sequence[str], domain: str
) -> tuple[bytes, tuple[Address, ...]]:
    """A resolv.conf that asks the first of `servers` first, and those that it asked until now.

    One address is enough for programs of this host, and leaves room for the others: they stay in the file behind ours,
    so that names resolve also when the edge is killed. Everything else stays, too.
    """
    lines = before.decode("utf-8", "surrogateescape").splitlines()
    kept, others = [], []
    for line in lines:
        named = _nameserver(line)
        if named is not None:
            if named not in servers:
                others.append(named)
        elif not line.startswith(MARK.partition("{")[0]):
            kept.append(line)
    others = others or [_OF_NONE]
    made = [MARK.format(domain), f"nameserver {servers[0]}"]
    made += [f"nameserver {other}" for other in others[: NAMESERVERS - 1]]
    text = "\n".join([*made, *kept]) + "\n"
    return text.encode("utf-8", "surrogateescape"), tuple(
        (other, DNS_PORT) for other in others if _is_address(other)
    )


def others_of(servers: Sequence[str]) -> tuple[Address, ...]:
    """Whom devices' other names are asked of, where resolv.conf stays as it is."""
    found = (str(one) for one in resolvers())
    return tuple((one, DNS_PORT) for one in found if one not in servers)[:NAMESERVERS]


def resolvers() -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Whom this host asks for names, as far as files say it."""
    found: list[str] = []
    for path in (RESOLV_CONF, UPSTREAM):
        try:
            content = read_small(path)
        except OSError:
            continue
        named = map(_nameserver, content.decode("utf-8", "replace").splitlines())
        found += [one.partition("%")[0] for one in named if one is not None]
    return [ipaddress.ip_address(one) for one in dict.fromkeys(found) if _is_address(one)]


def _nameserver(line: str) -> str | None:
    """Whom a line of resolv.conf names."""
    words = line.split()
    return words[1] if len(words) >= 2 and words[0] == "nameserver" else None


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
