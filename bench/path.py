"""The measured path: three network namespaces in a row, joined by two pairs of veth.

::

    [ a: client, edge ]──10.77.1.0/24──[ r: router ]──10.77.2.0/24──[ b: edge, server ]       forwarding off
                      └─10.78.1.0/24──[ r: kernel ]──10.78.2.0/24─┘                          forwarding on

Nothing passes `r` on the upper pair but through a program, which listens on 10.77.0.1, reached from both sides. The
lower pair is the direct kernel path. A tunnel that routes in `r` turns forwarding on for its own interface only.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.errors import BenchError

PREFIX = "ferrule-bench"
NAMES = {side: f"{PREFIX}-{side}" for side in "arb"}
LOCK = Path("/run/ferrule-bench.lock")

ROUTER = "10.77.0.1"
FAR = "10.77.2.2"
"""Where `b` is for `r`; `a` has no way there."""
DIRECT = "10.78.2.2"
SERVER_PORT = 5201
IPERF_PORT = 5202

# A connection's port may be used again after a second instead of a minute, or thousands of connections a second
# would soon find no free port; and server and client of a tunnel may buffer as much as fast links need.
SETTINGS = {
    "ipv4/tcp_tw_reuse": "1",
    "ipv4/ip_local_port_range": "32768 65535",
    "core/somaxconn": "4096",
}


def ip(*arguments: str) -> None:
    """Run `ip`, which has to succeed.

    Raises:
        BenchError: with what it said.
    """
    done = subprocess.run(["ip", *arguments], check=False, capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def inside(side: str) -> list[str]:
    """The prefix that runs a command in namespace `a`, `r` or `b`; the command becomes the process itself."""
    return ["ip", "netns", "exec", NAMES[side]]


def setting(side: str, name: str, value: str) -> None:
    """Set what stands under /proc/sys/net in a namespace; what this kernel does not have is left as it is."""
    script = f"[ ! -e /proc/sys/net/{name} ] || echo {value} > /proc/sys/net/{name}"
    subprocess.run([*inside(side), "sh", "-c", script], check=False, capture_output=True)


def forward(interface: str) -> None:
    """Let `r` route what comes in through one interface."""
    setting("r", f"ipv4/conf/{interface}/forwarding", "1")


@contextlib.contextmanager
def namespaces() -> Iterator[None]:
    """Make the three namespaces, and remove them and all that runs in them, whatever happens.

    Raises:
        BenchError: another run has them, or they cannot be made.
    """
    with open(LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BenchError("another benchmark is running: wait until it has ended") from None
        clear()
        try:
            build()
            yield
        finally:
            clear()


def build() -> None:
    """The namespaces, both pairs of veth, and the routes."""
    for side, name in NAMES.items():
        ip("netns", "add", name)
        ip("-n", name, "link", "set", "lo", "up")
        setting(side, "ipv4/ip_forward", "0")
        for key, value in SETTINGS.items():
            setting(side, key, value)
    ip("-n", NAMES["r"], "address", "add", f"{ROUTER}/32", "dev", "lo")
    for net, kind in (("10.77", "fb"), ("10.78", "fbd")):
        for number, side in enumerate("ab", 1):
            pair(net, number, side, f"{kind}{side}")
    for number, side in enumerate("ab", 1):
        ip("-n", NAMES[side], "route", "add", f"{ROUTER}/32", "via", f"10.77.{number}.1")
        ip(
            "-n",
            NAMES[side],
            "route",
            "add",
            f"10.78.{3 - number}.0/24",
            "via",
            f"10.78.{number}.1",
        )
        forward(f"fbd{side}")


def pair(net: str, number: int, side: str, name: str) -> None:
    """One pair of veth between `side` (host 2) and `r` (host 1)."""
    mine, router = NAMES[side], NAMES["r"]
    ip("link", "add", name, "netns", mine, "type", "veth", "peer", name, "netns", router)
    for place, host in ((mine, 2), (router, 1)):
        ip("-n", place, "address", "add", f"{net}.{number}.{host}/24", "dev", name)
        ip("-n", place, "link", "set", name, "up")


def clear() -> None:
    """End what runs in the namespaces, and remove them, where they are."""
    for name in NAMES.values():
        found = subprocess.run(
            ["ip", "netns", "pids", name], check=False, capture_output=True, text=True
        )
        for pid in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def left_behind() -> list[str]:
    """The benchmark's namespaces that exist now."""
    found = subprocess.run(["ip", "netns", "list"], check=False, capture_output=True, text=True)
    return [line.split()[0] for line in found.stdout.splitlines() if line.startswith(PREFIX)]


def has_way_past() -> bool:
    """Whether `a` reaches `b` on the upper pair without a program in `r`; it must not."""
    done = subprocess.run(
        [*inside("a"), "ip", "route", "get", FAR], check=False, capture_output=True
    )
    return done.returncode == 0
