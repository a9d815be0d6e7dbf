"""Where nodes are attached, which way a circuit takes (docs/protocol/link.md, F-10 to F-13). Pure; used by routers."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from overlay import limits
from overlay.errors import ClockError, LimitError, TrustError
from overlay.identity.certificate import Leaf, Role
from overlay.identity.trust import Signers, open_signed
from overlay.wire.bodies import Attachment

LIFE = int(limits.ATTACHMENT_LIFE * 1_000_000)
TOLERANCE = 5_000_000
"""How much further ahead than its life an attachment may end (µs): plant time differs a little from node to node."""
ATTACH_BATCH_BYTES = limits.MAX_CONTROL // 2

SUSPECT_COST = 10_000_000
"""What a link costs (µs) besides, while the other side does not answer: it carries what has no other way (L-35)."""

UNMEASURED_COST = 1000
"""What a link costs (µs) before its first PING was answered, and one of which its node has not said anything yet."""

AWAY_COST = 5_000
"""What a way through another router costs (µs) besides, against a link here: so much PING varies on a busy host, and
each further router is one more that may fail (F-11)."""

Way = tuple[float, tuple[str, ...]]
"""Cost in µs, and the routers still to visit."""


class Places(Protocol):
    """Where nodes are attached."""

    def where(self, node: str, now: int) -> Attachment | None:
        """What a node says of where it is attached now."""
        ...

    def controllers(self, now: int) -> list[str]:
        """Controllers that are attached anywhere now, by name (F-13)."""
        ...


@dataclass(frozen=True)
class Attached:
    """An attachment in force: its body, the bytes as signed (for the next router), the signer's leaf."""

    body: Attachment
    signed: bytes
    leaf: Leaf


class Attachments:
    """All that this router knows about where edges, controllers and routers are: one attachment per node."""

    def __init__(self, signers: Signers) -> None:
        self._signers = signers
        self._by_node: dict[str, Attached] = {}

    def __len__(self) -> int:
        return len(self._by_node)

    def offer(self, data: bytes, now: int) -> Attached | None:
        """Take signed bytes; the attachment when it is newer (flood it on), None when it is no news (F-10).

        One with `until` in the past withdraws the node from everywhere.

        Raises:
            DecodeError: not a signed attachment.
            TrustError: bad signature, or signed by anybody but the node that it names.
            ClockError: it ends further ahead than its life.
            LimitError: `ATTACHMENTS` are in force.
        """
        body, leaf = open_signed(Attachment, data, self._signers, now)
        if leaf.identity.name != body.node:
            raise TrustError(f"{leaf.identity.name} may not say where {body.node} is attached")
        if body.until > now + LIFE + TOLERANCE:
            raise ClockError(f"the attachment of {body.node} ends too far ahead")
        old = self._by_node.get(body.node)
        if old is not None and not _is_newer(body, leaf, old):
            return None
        if old is None:
            if body.until <= now:
                return None
            if len(self._by_node) >= limits.ATTACHMENTS:
                self.expire(now)
            if len(self._by_node) >= limits.ATTACHMENTS:
                raise LimitError(f"more than {limits.ATTACHMENTS} attachments")
        attached = self._by_node[body.node] = Attached(body, data, leaf)
        return attached

    def get(self, node: str, now: int) -> Attached | None:
        """Where a node is attached now."""
        attached = self._by_node.get(node)
        return attached if attached is not None and attached.body.until > now else None

    def where(self, node: str, now: int) -> Attachment | None:
        """What a node says of where it is attached now."""
        attached = self.get(node, now)
        return None if attached is None else attached.body

    def bodies(self, now: int) -> list[Attachment]:
        """All that is in force."""
        return [one.body for one in self._by_node.values() if one.body.until > now]

    def controllers(self, now: int) -> list[str]:
        """Controllers that are attached anywhere now, by name (F-13)."""
        return sorted(
            name
            for name, one in self._by_node.items()
            if one.leaf.identity.role is Role.CONTROLLER and one.body.until > now
        )

    def routers(self, now: int) -> Iterator[Attached]:
        """What routers say about their neighbours."""
        for one in self._by_node.values():
            if one.leaf.identity.role is Role.ROUTER and one.body.until > now:
                yield one

    def expire(self, now: int) -> None:
        """Forget what has been over for a life: until then an older one that arrives late loses against it."""
        for name in [n for n, one in self._by_node.items() if one.body.until + LIFE <= now]:
            del self._by_node[name]

    def forget(self, node: str) -> None:
        """A node was revoked: it is nowhere."""
        self._by_node.pop(node, None)

    def batches(self, now: int) -> Iterator[tuple[bytes, ...]]:
        """All in force, in groups that fit a CONTROL frame, for a router that has just been connected."""
        batch: list[bytes] = []
        size = 0
        for one in self._by_node.values():
            if one.body.until <= now:
                continue
            full = (
                size + len(one.signed) > ATTACH_BATCH_BYTES
                or len(batch) >= limits.ATTACHMENTS_PER_FRAME
            )
            if batch and full:
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
    """Ways from this router to all others: its own living links, and between others what both ends attest.

    A link counts only when both of its routers list it, so that none can draw traffic to itself by claiming neighbours.
    At most `MAX_ROUTE` routers are on a path, this one included.
    """

    def __init__(self, me: str) -> None:
        self.me = me
        self.ways: dict[str, Way] = {me: (0.0, ())}
        """The best way to each router; replaced as a whole."""

    def update(
        self,
        neighbours: Mapping[str, float],
        attachments: Attachments,
        now: int,
        drained: Collection[str] = (),
    ) -> None:
        """Compute all ways anew: after an attachment of a router, or a link to a router that came or went.

        Args:
            neighbours: cost in µs of each living link to a router.
            attachments: what the others say.
            now: plant time, microseconds.
            drained: a way through these costs `SUSPECT_COST` more (L-37).
        """
        claimed = {
            one.body.node: dict(one.body.routers)
            for one in attachments.routers(now)
            if one.body.node != self.me
        }
        around: dict[str, dict[str, float]] = {
            name: {
                other: float(max(cost, claimed[other][name]))
                for other, cost in listed.items()
                if name in claimed.get(other, {})
            }
            for name, listed in claimed.items()
        }
        around[self.me] = dict(neighbours)
        # Bellman-Ford by number of links, so that no way is longer than MAX_ROUTE routers.
        best: dict[str, Way] = {self.me: (0.0, ())}
        edge = dict(best)
        for _ in range(limits.MAX_ROUTE - 1):
            reached: dict[str, Way] = {}
            for name, (cost, way) in sorted(edge.items()):
                for other, step in sorted(around.get(name, {}).items()):
                    step += SUSPECT_COST * (other in drained)
                    known = reached.get(other) or best.get(other)
                    if known is None or cost + step < known[0]:
                        reached[other] = (cost + step, (*way, other))
            if not reached:
                break
            best.update(reached)
            edge = reached
        self.ways = best

    def way(self, router: str) -> Way | None:
        """How to get to a router, itself last (empty for this router); None when there is no way."""
        return self.ways.get(router)


def choose_route(
    hosts: Sequence[str],
    asset: str,
    attachments: Places,
    topology: Topology,
    local: Collection[str],
    now: int,
    ranks: Sequence[int] = (),
    weights: Sequence[int] = (),
    draw: float = 0.0,
) -> tuple[str, ...] | None:
    """The nodes still to visit for one of `hosts`, the host itself last; None: no path to any of them (F-11, F-12).

    A host that does not say that `asset` is down comes before one that does, then one with a way that nobody suspects,
    then the lower of `ranks`. Of those that are left one is taken by its share of `weights` (F-15), `draw` being random
    in [0, 1); where none has a weight, the one with the cheaper path, then by the order of `hosts`. `local` are the
    nodes with a living link here: they need no attachment, and without a link an attachment to this router does not
    count. A link here costs what its host says of it (F-14), a way through another router `AWAY_COST` besides.
    """
    found: dict[int, tuple[tuple[bool, bool, int], float, tuple[str, ...]]] = {}
    for place, host in enumerate(hosts):
        attached = attachments.where(host, now)
        down = attached is not None and asset in attached.down
        listed = () if attached is None else attached.routers
        ways: list[Way] = []
        if host in local:
            ways.append((float(dict(listed).get(topology.me, UNMEASURED_COST)), ()))
        for router, last in listed:
            way = topology.way(router)
            if way is not None and way[1]:
                ways.append((way[0] + last, way[1]))
        for cost, through in ways:
            rank = ranks[place] if place < len(ranks) else 0
            whole = cost + AWAY_COST * bool(through)
            if place not in found or whole < found[place][1]:
                found[place] = (down, cost >= SUSPECT_COST, rank), whole, (*through, host)
    best = min((key for key, _, _ in found.values()), default=None)
    equals = [place for place, (key, _, _) in found.items() if key == best]
    if not equals:
        return None
    shares = [weights[place] if place < len(weights) else 0 for place in equals]
    if any(shares):
        return found[equals[_share(shares, draw)]][2]
    return found[min(equals, key=lambda place: found[place][1])][2]


def _share(shares: Sequence[int], draw: float) -> int:
    """The place that `draw` falls into when each is as wide as its share; one of them is above 0."""
    left = draw * sum(shares)
    for place, share in enumerate(shares):
        left -= share
        if left < 0:
            return place
    return max(range(len(shares)), key=shares.__getitem__)
