"""Which nodes are connected, as the hub reports it; kept in memory, since it is true only while it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from controller.actions import types as t
from controller.store.snapshot import is_revoked
from controller.store.tables import NodeRow, RevocationRow
from overlay.policy.model import NodeState
from overlay.wire.timestamps import format_time

EDGE_LINKS = 2
"""A connected edge has links to this many routers, or to all that are connected if they are fewer."""


class Trip(NamedTuple):
    """A round trip in µs, and when the controller heard of it, in µs of plant time."""

    took: int
    heard: int


@dataclass
class _Node:
    role: str
    generation: int
    version: str
    since: int
    boot: int
    circuits: int = 1
    links: frozenset[str] | None = None
    trips: dict[str, Trip] = field(default_factory=dict)


class Presence:
    """The connected nodes. A node that dials anew may overlap with its old control circuit: both are counted."""

    def __init__(self) -> None:
        self._nodes: dict[str, _Node] = {}
        self._bytes: dict[str, dict[str, tuple[int, int]]] = {}
        self._settled: set[str] = set()
        """Nodes that lacked none of their circuits when they told of them last, and that have opened none since."""
        self._boots: dict[str, int] = {}
        self._restarted: set[str] = set()

    def connected(
        self, name: str, role: str, generation: int, version: str, boot: int, now: int
    ) -> None:
        """A control circuit of this node is up."""
        held = self._nodes.get(name)
        if self._boots.get(name, boot) != boot:
            self._restarted.add(name)
        self._boots[name] = boot
        if held is not None and (held.generation, held.boot) == (generation, boot):
            held.circuits += 1
            held.version = version
            return
        # A node that restarted may be here again before the end of its last circuit is noticed.
        left = held.circuits if held is not None and held.generation == generation else 0
        self._nodes[name] = _Node(role, generation, version, now, boot, left + 1)

    def disconnected(self, name: str, generation: int) -> bool:
        """One is gone; whether it was the last."""
        held = self._nodes.get(name)
        if held is None or held.generation != generation:
            return False
        held.circuits -= 1
        if held.circuits > 0:
            return False
        del self._nodes[name]
        return True

    def links(self, name: str, routers: Sequence[str]) -> bool:
        """The routers to which the node is attached; whether that is news."""
        held, links = self._nodes.get(name), frozenset(routers)
        if held is None or held.links == links:
            return False
        held.links = links
        return True

    def told(self, name: str, trips: Mapping[str, int], now: int) -> None:
        """All of the node's round trips to routers, in µs (0: not measured)."""
        held = self._nodes.get(name)
        if held is not None:
            held.trips = {}
            self.measured(name, trips, now)

    def measured(self, name: str, trips: Mapping[str, int], now: int) -> None:
        """Some of them are news."""
        held = self._nodes.get(name)
        if held is not None:
            held.trips |= {router: Trip(took, now) for router, took in trips.items() if took}

    def trip(self, one: str, other: str) -> Trip | None:
        """The round trip between two neighbours, as either of them said last."""
        ends = ((self._nodes.get(one), other), (self._nodes.get(other), one))
        said = [held.trips[there] for held, there in ends if held and there in held.trips]
        return max(said, key=lambda trip: trip.heard, default=None)

    def routers(self) -> list[str]:
        """Those that are connected."""
        return sorted(name for name, held in self._nodes.items() if held.role == "router")

    def links_of(self) -> dict[str, frozenset[str] | None]:
        """To which routers each connected node has links; None: it has not said so yet."""
        return {name: held.links for name, held in self._nodes.items()}

    def count(self, name: str, circuits: dict[str, tuple[int, int]]) -> bool:
        """Bytes of the circuits that the node hosts now, by circuit id: (towards the service, back).

        Returns whether one may be missing: they are others than before, or there is a doubt. None is from now on.
        """
        before = self._bytes.get(name)
        self._bytes[name] = circuits
        if name in self._settled and before is not None and before.keys() == circuits.keys():
            return False
        self._settled.add(name)
        return True

    def doubt(self, name: str) -> None:
        """A circuit of this node may be missing from its next report: one was, or it opened another, or began anew."""
        self._settled.discard(name)

    def bytes_of(self, node: str, circuit: str) -> tuple[int, int]:
        """What the hosting node reported last."""
        return self._bytes.get(node, {}).get(circuit, (0, 0))

    def last_boot(self, name: str) -> int | None:
        """The boot number with which the node was connected last, as far as this controller remembers."""
        return self._boots.get(name)

    def restarted(self, name: str) -> bool:
        """Whether the node has restarted since this controller has known it."""
        return name in self._restarted

    def facts(
        self, node: NodeRow, revocation: RevocationRow | None, fresh: frozenset[str]
    ) -> tuple[NodeState, int, str]:
        """State of a node, since when (microseconds), and its version."""
        held = self._nodes.get(node.name)
        if is_revoked(node, revocation, fresh):
            assert revocation is not None  # noqa: S101 - is_revoked says so
            return NodeState.REVOKED, revocation.since, node.version
        if held is not None and self._linked(held):
            return NodeState.CONNECTED, held.since, held.version
        if node.seen:
            return NodeState.LOST, node.seen, node.version
        return NodeState.WAITING, node.created, node.version

    def status(
        self, node: NodeRow, revocation: RevocationRow | None, fresh: frozenset[str]
    ) -> t.NodeStatus:
        """The same for people."""
        state, since, version = self.facts(node, revocation, fresh)
        return t.NodeStatus(
            name=node.name,
            state=state.value,
            since=format_time(since),
            version=version or None,
        )

    def _linked(self, node: _Node) -> bool:
        if node.role != "edge" or node.links is None:
            return True
        routers = sum(1 for other in self._nodes.values() if other.role == "router")
        return len(node.links) >= min(EDGE_LINKS, routers)
