"""A plant whose programs are nodes of a network that can be made bad.

`c` is where the controller and the operator are; a router and an edge are where their names say.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from bench.impairment.driver import entered
from bench.impairment.network import Network
from deploy.demo.plant import Plant
from router.processes import usual_workers

CONTROLLER = "c"
ESTABLISHED = "01"
Links = Mapping[str, tuple[str, ...]]
"""For each router the nodes that reach it by a wire of their own; routers dial it, too."""

TWIN: Links = {"r1": ("a", "b", CONTROLLER), "r2": ("a", "b", CONTROLLER)}
"""Two edges, each with a way to both routers."""
RANKS: Links = {
    "r1": ("a", CONTROLLER, "r3", "r4"), "r2": ("a", CONTROLLER, "r3", "r4"),
    "r3": (CONTROLLER,), "r4": (CONTROLLER,),
    "r5": ("b", CONTROLLER, "r3", "r4"), "r6": ("b", CONTROLLER, "r3", "r4"),
}  # fmt: skip
"""Three ranks of two routers between the edges: the caller's, the middle, the host's."""
ALONE: Links = {"r1": ("a", CONTROLLER)}
"""One router, to which edge-b has another way than a wire."""
EDGES = {"edge-a": "a", "edge-b": "b"}


def nodes(links: Links) -> tuple[str, ...]:
    """All nodes that such a plant needs."""
    return ("a", "b", CONTROLLER, *links)


class NetworkPlant(Plant):
    """`edge-a` with callers and `edge-b` with assets, over the routers of `links`; their wires are there at once."""

    def __init__(self, net: Network, links: Links, folder: Path | None = None) -> None:
        super().__init__(folder=folder)
        self.net = net
        self.links = links
        self.keep = folder is not None
        self.router_names = list(links)
        self.router_ports = dict.fromkeys(links, 4443)

        for router, others in links.items():
            self.dials[router] = [one for one in others if one in links]
            for other in others:
                self.net.join(other, router)
        # Whoever is dialled has to be known before.
        self.router_names.sort(key=lambda name: len(self.dials[name]))

    def address_of(self, router: str) -> str:
        return f"{self.net.addresses[router]}:{self.router_ports[router]}"

    def node(self, name: str) -> str:
        """Where a program lives."""
        return name if name in self.links else EDGES.get(name, CONTROLLER)

    def prefix(self, name: str) -> list[str]:
        return self.net.inside(self.node(name))

    def wire(self, one: str, other: str) -> str:
        """The wire between two nodes, whichever was named first."""
        name = f"{one}-{other}"
        return name if name in self.net.wires else f"{other}-{one}"

    def connections(self, node: str) -> set[tuple[str, int, int]]:
        """A node's established connections with routers, as its kernel sees them: router, own port, its port."""
        with entered(self.net.name(node)):
            table = Path("/proc/thread-self/net/tcp").read_text()
        known = {
            "".join(f"{int(part):02X}" for part in reversed(address.split("."))): name
            for name, address in self.net.addresses.items()
            if name in self.links
        }
        found = set()
        for fields in map(str.split, table.splitlines()[1:]):
            (_, port), (peer, far) = (field.split(":") for field in fields[1:3])
            if fields[3] == ESTABLISHED and peer in known:
                found.add((known[peer], int(port, 16), int(far, 16)))
        return found

    def linked(self, node: str) -> set[str]:
        """The routers to which a node has connections."""
        return {router for router, _, _ in self.connections(node)}

    def missing(self) -> list[str]:
        """The links that there should be and that are not established, as `NODE-ROUTER`."""
        nodes = {other for others in self.links.values() for other in others}
        there = {one: Counter(to for to, _, _ in self.connections(one)) for one in nodes}
        return [
            f"{other}-{router}"
            for router, others in self.links.items()
            for other in others
            if there[other][router] < lanes(other)
        ]


def lanes(node: str) -> int:
    """Links that a node has with a router: express, and the bulk lanes but for a controller."""
    return 1 if node == CONTROLLER else 1 + usual_workers()
