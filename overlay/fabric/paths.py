"""Where nodes are attached, which way a circuit takes (docs/protocol/link.md, F-10 to F-13). Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from overlay import limits
from overlay.errors import LimitError, TrustError
from overlay.fabric.authority import FabricMap
from overlay.identity.certificate import Leaf, Role
from overlay.identity.trust import Signers, open_signed
from overlay.wire.bodies import Attachment

LIFE = int(limits.ATTACHMENT_LIFE * 1_000_000)
ATTACHMENTS = 65_536
"""Attachments that a router keeps; expired ones make room first."""
ROUTERS_PER_NODE = 16
"""Routers at which one node may be attached; the oldest gives way."""
ATTACH_BATCH_BYTES = limits.MAX_CONTROL // 2


@dataclass(frozen=True)
class Attached:
    """An attachment in force: its body, the bytes as signed (for the next router), the signer's leaf, its end here."""

    body: Attachment
    signed: bytes
    leaf: Leaf
    until: int


class Attachments:
    """All that this router knows about where edges and controllers are, by node and router."""

    def __init__(self, signers: Signers) -> None:
        self._signers = signers
        self._by_node: dict[str, dict[str, Attached]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def offer(self, data: bytes, now: int) -> Attached | None:
        """Take signed bytes; the attachment when it is newer (flood it on), None when it is no news (F-10).

        Its life counts from now at most: a node whose clock is ahead does not stay attached for ever.

        Raises:
            DecodeError: not a signed attachment.
            TrustError: bad signature, or signed by anybody but the edge or controller that it names.
            LimitError: `ATTACHMENTS` are in force.
        """
        body, leaf = open_signed(Attachment, data, self._signers, now)
        if leaf.identity.name != body.node or leaf.identity.role not in {
            Role.EDGE,
            Role.CONTROLLER,
        }:
            raise TrustError(f"{leaf.identity.name} may not say where {body.node} is attached")
        at = self._by_node.get(body.node, {})
        old = at.get(body.router)
        if old is not None and not _is_newer(body, leaf, old):
            return None
        if old is None:
            if body.until <= now:
                return None
            if self._count >= ATTACHMENTS:
                self.expire(now)
            if self._count >= ATTACHMENTS:
                raise LimitError(f"more than {ATTACHMENTS} attachments")
            at = self._by_node.setdefault(body.node, {})  # `expire` may have removed it
            if len(at) >= ROUTERS_PER_NODE:
                del at[min(at, key=lambda router: at[router].until)]
                self._count -= 1
            self._count += 1
        until = min(body.until, now + LIFE)
        attached = at[body.router] = Attached(body, data, leaf, until)
        return attached

    def routers_of(self, node: str, now: int) -> Iterator[Attached]:
        """Where a node is attached now."""
        for attached in self._by_node.get(node, {}).values():
            if attached.until > now:
                yield attached

    def controllers(self, now: int) -> list[str]:
        """Controllers that are attached anywhere now, by name."""
        return sorted(
            name
            for name, at in self._by_node.items()
            if any(one.leaf.identity.role is Role.CONTROLLER for one in at.values())
            and any(True for _ in self.routers_of(name, now))
        )

    def expire(self, now: int) -> None:
        """Forget what is over. A withdrawn attachment (`until` in the past) goes with it after its life, not before:
        until then an older one that arrives late loses against it."""
        for name in list(self._by_node):
            at = self._by_node[name]
            for router in [r for r, one in at.items() if one.until + LIFE <= now]:
                del at[router]
                self._count -= 1
            if not at:
                del self._by_node[name]

    def forget(self, node: str) -> None:
        """A node was revoked: it is nowhere."""
        self._count -= len(self._by_node.pop(node, {}))

    def batches(self, now: int) -> Iterator[tuple[bytes, ...]]:
        """All in force, in groups that fit a CONTROL frame, for a router that has just been connected."""
        batch: list[bytes] = []
        size = 0
        for at in self._by_node.values():
            for one in at.values():
                if one.until <= now:
                    continue
                if batch and (size + len(one.signed) > ATTACH_BATCH_BYTES or len(batch) >= 1024):
                    yield tuple(batch)
                    batch, size = [], 0
                batch.append(one.signed)
                size += len(one.signed)
        if batch:
            yield tuple(batch)


def _is_newer(body: Attachment, leaf: Leaf, old: Attached) -> bool:
    """Newer (generation, boot, counter) wins; a node that was enrolled anew counts its boots from the start."""
    return (leaf.generation, body.boot, body.counter) > (
        old.leaf.generation,
        old.body.boot,
        old.body.counter,
    )


class Topology:
    """Ways from this router to all others, over the map and its own living links.

    `neighbours` are the routers this one has a link to; `costs` are link costs by pair of names (any unit, default
    1.0), in both directions. At most `MAX_ROUTE` routers on a path, this one included.
    """

    def __init__(self, me: str) -> None:
        self._me = me
        self._ways: dict[str, tuple[float, tuple[str, ...]]] = {me: (0.0, ())}

    def update(
        self,
        fabric: FabricMap | None,
        neighbours: Collection[str],
        costs: Mapping[tuple[str, str], float] | None = None,
    ) -> None:
        """Compute all ways anew (after a new map, a link that came or went, or new costs)."""
        costs = costs or {}
        around: dict[str, set[str]] = {self._me: set(neighbours) - {self._me}}
        for entry in () if fabric is None else fabric.routers:
            for other in entry.dials:
                if self._me not in (entry.name, other):
                    around.setdefault(entry.name, set()).add(other)
                    around.setdefault(other, set()).add(entry.name)
        # Bellman-Ford by number of links, so that no way is longer than MAX_ROUTE routers.
        best: dict[str, tuple[float, tuple[str, ...]]] = {self._me: (0.0, ())}
        edge = dict(best)
        for _ in range(limits.MAX_ROUTE - 1):
            reached: dict[str, tuple[float, tuple[str, ...]]] = {}
            for name, (cost, way) in edge.items():
                for other in sorted(around.get(name, ())):
                    step = costs.get((name, other), costs.get((other, name), 1.0))
                    candidate = (cost + step, (*way, other))
                    known = min(
                        (one for one in (best.get(other), reached.get(other)) if one is not None),
                        default=None,
                    )
                    if known is None or candidate[0] < known[0]:
                        reached[other] = candidate
            if not reached:
                break
            best.update(reached)
            edge = reached
        self._ways = best

    def way(self, router: str) -> tuple[float, tuple[str, ...]] | None:
        """(cost, routers still to visit, `router` last; empty for this router itself); None when there is no way."""
        return self._ways.get(router)


def choose_route(
    hosts: Sequence[str],
    asset: str,
    attachments: Attachments,
    topology: Topology,
    local: Collection[str],
    now: int,
) -> tuple[str, ...] | None:
    """The nodes still to visit for one of `hosts`, the host itself last; None: no path to any of them (F-11, F-12).

    A host that says that `asset` is up comes before one that says it is down, then the cheaper path, then the order of
    `hosts`. `local` are the nodes with a living link here: they need no attachment, and without a link here an
    attachment at this router does not count.
    """
    best: tuple[tuple[bool, float, int], tuple[str, ...]] | None = None
    for place, host in enumerate(hosts):
        down = False
        ways: list[tuple[float, tuple[str, ...]]] = []
        for attached in attachments.routers_of(host, now):
            down = down or asset in attached.body.down
            way = topology.way(attached.body.router)
            if way is not None and way[1]:
                ways.append(way)
        if host in local:
            ways.append((0.0, ()))
        for cost, way_routers in ways:
            key = (down, cost, place)
            if best is None or key < best[0]:
                best = (key, (*way_routers, host))
    return None if best is None else best[1]
