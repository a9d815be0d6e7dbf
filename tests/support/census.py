"""What a process holds: listening sockets, children and open files, read from /proc."""

import ipaddress
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_TCP_LISTEN = "0A"
_UDP_UNCONNECTED = "07"


class Socket(NamedTuple):
    """A socket that takes what anybody sends to it."""

    transport: str
    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return ipaddress.ip_address(self.host).is_loopback


def _address(text: str) -> tuple[str, int]:
    """`0100007F:1F90` or the 32 digits of an IPv6 address: the kernel prints words in host order."""
    host, port = text.split(":")
    words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
    return str(ipaddress.ip_address(b"".join(words))), int(port, 16)


def tree(pid: int) -> list[int]:
    """A process and all that it started."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(below for child in children for below in tree(int(child)))]


def _inodes(pid: int) -> set[str]:
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(entry)
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(target[8:-1])
    return found


def listening(pid: int) -> set[Socket]:
    """Every TCP socket that listens and every UDP socket that takes datagrams from anybody, children included."""
    found = set()
    for process in tree(pid):
        inodes = _inodes(process)
        for table in ("tcp", "tcp6", "udp", "udp6"):
            path = Path(f"/proc/{process}/net/{table}")
            if not path.exists():
                continue  # a kernel without IPv6
            state = _TCP_LISTEN if table.startswith("tcp") else _UDP_UNCONNECTED
            for row in path.read_text().splitlines()[1:]:
                words = row.split()
                if words[3] == state and words[9] in inodes:
                    found.add(Socket(table[:3], *_address(words[1])))
    return found


def alive(pid: int) -> bool:
    """Not gone, and no zombie that somebody else has to bury."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def none_alive(pids: Iterable[int]) -> bool:
    """Whether all of them are gone."""
    return not any(map(alive, pids))
