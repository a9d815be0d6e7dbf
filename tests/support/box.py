"""A box of `tests.support.tun_box` in three namespaces, as tests of interception drive it."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from edge.intercept.flows import CONNECTIONS_PER_SOURCE
from tests.support.docs import ROOT
from tests.support.namespaces import (
    BOX,
    HMI,
    SERVER_ADDRESS,
    Namespaces,
    echoing,
    namespaces,
)
from tests.support.needs import need_program, need_root

PLACES = ("100.64.0.7", "fd64::7", "192.168.1.5", "fd05::5")
"""The asset by name (its overlay addresses) and at its own addresses."""


OTHER_POOLS = "pools=198.18.0.0/16,fd65::/64"
"""For a second one."""


class Box:
    """The program on the box."""

    def __init__(self, net: Namespaces, *options: str, before: tuple[str, ...] = ()) -> None:
        self.net = net
        self.mode = "tun"
        command = [sys.executable, "-m", "tests.support.tun_box", SERVER_ADDRESS, *options]
        self.process = subprocess.Popen(
            [*net.inside(BOX), *before, *command], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.log = ""
        self.first = self.process.stdout.readline().strip()

    def status(self) -> dict[str, Any]:
        """What it counted; `asked` since the last time."""
        return self.tell("")

    def tell(self, what: str) -> dict[str, Any]:
        """Give it a line, as `tests.support.tun_box` takes them; its status."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        found: dict[str, Any] = json.loads(self.process.stdout.readline())
        return found

    def stop(self) -> str:
        """End it; what it logged. It ends by itself when its input does, and with 0; 1 when it never began."""
        if self.process.poll() is None or not self.log:
            _, self.log = self.process.communicate(timeout=20)
        assert self.process.returncode == (0 if self.first == "ready" else 1), self.log
        return self.log


@contextlib.contextmanager
def box_net() -> Iterator[Namespaces]:
    """The namespaces, with a server that echoes."""
    need_root()
    need_program("ip", "iproute2")
    need_program("sysctl", "procps")
    with namespaces() as made, echoing(made):
        yield made


def client(net: Namespaces, side: str, role: str, *arguments: object) -> str:
    """What one client says."""
    done = subprocess.run(
        [*net.inside(side), sys.executable, "-m", "tests.support.tun_client", role,
         *map(str, arguments)],
        cwd=ROOT, text=True, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout.strip() or done.stderr[-500:]


@contextlib.contextmanager
def crowd(net: Namespaces, side: str, host: str, port: int, count: int) -> Iterator[str]:
    """Connections of one client that stay open meanwhile; what they heard, as `many` of the client says it."""
    program = [
        sys.executable,
        "-m",
        "tests.support.tun_client",
        "hold",
        host,
        str(port),
        str(count),
    ]
    with subprocess.Popen(
        [*net.inside(side), *program], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.communicate(timeout=60)


def check_share_of_one_source(box: Box) -> None:
    """A device has so many connections and no more, and another one has room meanwhile."""
    most = CONNECTIONS_PER_SOURCE
    with crowd(box.net, HMI, PLACES[0], 5000, most + 50) as said:
        good, refused = said.split()
        assert int(good) == most
        assert refused in ("ECONNREFUSED:50", "ECONNRESET:50")
        assert client(box.net, HMI, "many", PLACES[1], 5000, 1000) == "1000", (
            "by IPv6 it is another"
        )


FORGED = "fdaa::1"
"""An address of the box that the device behind it has taken, too."""


@contextlib.contextmanager
def forged_source(net: Namespaces) -> Iterator[None]:
    """The device behind the box sends to the asset's addresses of IPv6 as if it were the box."""
    routes = [("-6", "route", "replace", host, "via", "fd77::1") for host in PLACES if ":" in host]
    net.run(BOX, "ip", "address", "add", f"{FORGED}/128", "dev", "fs", "nodad", check=True)
    net.run(HMI, "ip", "address", "add", f"{FORGED}/128", "dev", "fh", "nodad", check=True)
    try:
        for route in routes:
            net.run(HMI, "ip", *route, "src", FORGED, check=True)
        yield
    finally:
        for _, _, _, host, *_ in routes:
            net.run(HMI, "ip", "-6", "route", "del", host)
        for side, device in ((BOX, "fs"), (HMI, "fh")):
            net.run(side, "ip", "address", "del", f"{FORGED}/128", "dev", device)


MASQUERADED = "masqueraded"


@contextlib.contextmanager
def masquerading(net: Namespaces) -> Iterator[None]:
    """The box gives whatever it forwards an address of its own, as routers to the Internet do, only everywhere."""
    chain = "chain out {\ntype nat hook postrouting priority srcnat\nmasquerade\n}"
    nft = need_program("nft", "nftables")
    net.run(BOX, nft, f"table inet {MASQUERADED} {{\n{chain}\n}}", check=True)
    try:
        yield
    finally:
        net.run(BOX, nft, "delete", "table", "inet", MASQUERADED)


STRANGER = "192.168.77.66"


@contextlib.contextmanager
def stranger(net: Namespaces, *targets: str) -> Iterator[None]:
    """The device behind the box has an address that nobody knows, and reaches these from it."""
    net.run(HMI, "ip", "address", "add", f"{STRANGER}/24", "dev", "fh", check=True)
    try:
        for target in targets:
            route = (target, "via", "192.168.77.1", "src", STRANGER)
            net.run(HMI, "ip", "route", "replace", *route, check=True)
        yield
    finally:
        for target in targets:
            net.run(HMI, "ip", "route", "del", target)
        net.run(HMI, "ip", "address", "del", f"{STRANGER}/24", "dev", "fh")
