"""Namespaces joined by wires that can be made bad: a network of nodes, each with one address, `with network(...)`.

A node is a namespace `PREFIX-NODE` with the address 10.79.0.N on its loopback; a wire between two nodes leads from
one's address to the other's, and no further unless `route` says so. What of it is left behind is removed at the start.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator

from bench.errors import BenchError
from bench.impairment.wires import Wires, wires
from bench.path import ip

MOST_NODES = 250
QUEUE = "4000"
"""Packets that the kernel keeps for the process that carries them, when that has its hands full."""
_SETTINGS = (
    "net/ipv4/conf/all/rp_filter=0",
    "net/ipv4/conf/default/rp_filter=0",
    "net/ipv4/ip_forward=0",
    "net/ipv6/conf/all/disable_ipv6=1",
    "net/ipv6/conf/default/disable_ipv6=1",
)


class Network:
    """Made by `network`. `wires` spoils and cuts: a wire between nodes x and y, joined in this order, is `x-y`."""

    def __init__(self, prefix: str, nodes: Iterable[str], wires: Wires) -> None:
        self.prefix = prefix
        self.wires = wires
        self.nodes = tuple(nodes)
        self.addresses = {node: f"10.79.0.{number}" for number, node in enumerate(self.nodes, 1)}

    def name(self, node: str) -> str:
        """The namespace of a node."""
        return f"{self.prefix}-{node}"

    def inside(self, node: str) -> list[str]:
        """What stands before a command that runs at a node; the command becomes the process itself."""
        return ["ip", "netns", "exec", self.name(node)]

    def make(self) -> None:
        """The namespaces, without any wire.

        Raises:
            BenchError: they cannot be made.
        """
        if len(self.nodes) > MOST_NODES:
            raise BenchError(f"a network has at most {MOST_NODES} nodes")
        for node, address in self.addresses.items():
            name = self.name(node)
            ip("netns", "add", name)
            for setting in _SETTINGS:
                self.setting(node, setting)
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "address", "add", f"{address}/32", "dev", "lo")

    def setting(self, node: str, setting: str) -> None:
        """Write `net/...=VALUE` below /proc/sys of a node; what this kernel does not have is left as it is."""
        name, value = setting.split("=")
        script = f"[ ! -e /proc/sys/{name} ] || echo {value} > /proc/sys/{name}"
        subprocess.run([*self.inside(node), "sh", "-c", script], check=False, capture_output=True)

    def join(self, first: str, second: str) -> str:
        """A wire between two nodes; its name."""
        name = f"{first}-{second}"
        self.wires.join(name, (self.name(first), f"w-{second}"), (self.name(second), f"w-{first}"))
        for node, other in ((first, second), (second, first)):
            ip("-n", self.name(node), "link", "set", f"w-{other}", "txqueuelen", QUEUE, "up")
            self.route(node, other, other)
        return name

    def cable(self, first: str, second: str) -> None:
        """A pair of veth between two nodes: as good as the kernel has it, and never spoiled."""
        ip(
            "link", "add", f"w-{second}", "netns", self.name(first),
            "type", "veth", "peer", f"w-{first}", "netns", self.name(second),
        )  # fmt: skip
        for node, other in ((first, second), (second, first)):
            ip("-n", self.name(node), "link", "set", f"w-{other}", "up")
            self.route(node, other, other)

    def route(self, node: str, to: str, over: str) -> None:
        """At `node`, what goes `to` another one takes the wire or cable to the neighbour `over`."""
        past = ["via", self.addresses[over], "onlink"] if to != over else []
        where = [f"{self.addresses[to]}/32", *past, "dev", f"w-{over}", "src", self.addresses[node]]
        ip("-n", self.name(node), "route", "replace", *where)

    def forward(self, node: str, *between: str) -> None:
        """Let the kernel of `node` carry packets between two neighbours, as a plain path without programs."""
        first, second = between
        self.setting(node, "net/ipv4/ip_forward=1")
        for one, other in ((first, second), (second, first)):
            self.route(one, other, node)

    def readdress(self, node: str, address: str) -> None:
        """The node has another address from now on, as a laptop that goes from Wi-Fi to LTE; the old one is gone."""
        old, self.addresses[node] = self.addresses[node], address
        name = self.name(node)
        ip("-n", name, "address", "add", f"{address}/32", "dev", "lo")
        ip("-n", name, "address", "del", f"{old}/32", "dev", "lo")
        for other in self.nodes:
            if f"{node}-{other}" in self.wires or f"{other}-{node}" in self.wires:
                self.route(node, other, other)
                self.route(other, node, node)

    def remove(self) -> None:
        """End what runs in the namespaces, and remove them, where they are."""
        for node in self.nodes:
            found = subprocess.run(
                ["ip", "netns", "pids", self.name(node)],
                check=False, capture_output=True, text=True,
            )  # fmt: skip
            for pid in found.stdout.split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run(
                ["ip", "netns", "del", self.name(node)], check=False, capture_output=True
            )


@contextlib.contextmanager
def network(prefix: str, nodes: Iterable[str], seed: int = 1) -> Iterator[Network]:
    """Make the nodes, and remove them and all that runs in them, whatever happens.

    Raises:
        BenchError: they cannot be made.
    """
    with wires(seed) as carrier:
        made = Network(prefix, nodes, carrier)
        made.remove()
        try:
            made.make()
            yield made
        finally:
            made.remove()
