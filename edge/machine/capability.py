"""Whether a program may change this host's network."""

import re
from pathlib import Path

CAP_NET_ADMIN = 12
_STATUS = Path("/proc/self/status")


def has_net_admin(status: str) -> bool:
    """Of a program, from its /proc/PID/status."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return found is not None and bool(int(found[1], 16) >> CAP_NET_ADMIN & 1)


def own_net_admin() -> bool:
    """Of this one."""
    return has_net_admin(_STATUS.read_text(encoding="utf-8", errors="replace"))
