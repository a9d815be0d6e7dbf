"""How the host comes to ask this edge for names of assets: by systemd-resolved, by resolv.conf, or not at all."""

import ipaddress
from pathlib import Path
from typing import NamedTuple

from edge.host_changes import Change, FileChange, HostError, ResolvedChange
from edge.host_machine import read_small, resolved_runs
from edge.names.server import DNS_PORT, Address

MODES = ("auto", "resolved", "resolv.conf", "none")
RESOLV_CONF = Path("/etc/resolv.conf")
LOOPBACK = "lo"
NAMESERVERS = 3
"""As many as a C library asks (resolv.conf(5))."""
MARK = "# ferrule-edge: names below {} are answered here first; undone when the edge ends"


class Chosen(NamedTuple):
    """`mode` is one of `MODES` but auto; `why` says why; `change` makes it so; `others` answer everything else."""

    mode: str
    why: str
    change: Change | None = None
    others: tuple[Address, ...] = ()


async def choose(
    mode: str, interface: str, server: str, domain: str, path: Path = RESOLV_CONF
) -> Chosen:
    """What is done on this host. `auto` takes systemd-resolved where it runs, else resolv.conf.

    Args:
        mode: one of `MODES`.
        interface: that of the resolver's address.
        server: the resolver's address.
        domain: what it answers.

    Raises:
        HostError: it cannot be done this way here.
    """
    if mode == "none":
        return Chosen("none", "as it was asked for")
    if mode in ("auto", "resolved"):
        if interface == LOOPBACK:
            why = "systemd-resolved takes no names from the loopback interface"
            if mode == "resolved":
                raise HostError(f"{why}: intercept by tun, or choose another --names")
        elif await resolved_runs():
            return Chosen(
                "resolved",
                "systemd-resolved runs on this host",
                ResolvedChange(interface, server, domain),
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
    content, others = with_server(before, server, domain)
    return Chosen("resolv.conf", why, FileChange(str(path), content), others)


def with_server(before: bytes, server: str, domain: str) -> tuple[bytes, tuple[Address, ...]]:
    """A resolv.conf that asks `server` first, and those that it asked until now.

    These stay in the file behind ours, so that names resolve also when the edge is killed. Everything else stays, too.
    """
    lines = before.decode("utf-8", "surrogateescape").splitlines()
    kept, others = [], []
    for line in lines:
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":
            if words[1] != server:
                others.append(words[1])
        elif not line.startswith(MARK.partition("{")[0]):
            kept.append(line)
    made = [MARK.format(domain), f"nameserver {server}"]
    made += [f"nameserver {other}" for other in others[: NAMESERVERS - 1]]
    text = "\n".join([*made, *kept]) + "\n"
    return text.encode("utf-8", "surrogateescape"), tuple(
        (other, DNS_PORT) for other in others if _is_address(other)
    )


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return True
