"""What the controller knows of routers and paths: how long hops take, and what hangs on a single thread."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from controller.actions import types as t
from controller.actions.core import Core
from controller.actions.errors import Conflict
from controller.actions.records import find_session
from controller.store.restrictions import unrevoked
from controller.store.tables import NodeRow
from overlay.identity.enrolment import MAX_ROUTERS as TOKEN_ROUTERS
from overlay.policy.model import NodeState, Plant
from overlay.wire.timestamps import format_time

Measure = Callable[[str, Sequence[str]], Awaitable[Mapping[str, int]]]
"""Round trips in µs from a node to routers, measured by it now; without those that it cannot tell."""


class Paths(Core):
    """`ferrule trace`."""

    measure: Measure
    """How nodes are asked; the program says it once there is a hub."""

    def _prepare(self) -> None:
        super()._prepare()
        self.measure = _unmeasured

    async def trace(self, actor: t.Actor, name: str) -> t.Trace:
        """The hops of a session's path, measured now by the nodes at their ends; where none of both can, with what they
        said last.

        Raises:
            NotFound, Invalid: as `find_session`.
        """
        async with self.reading(actor) as session:
            row = await find_session(session, name)
        path = tuple(row.path)
        if not row.ended:
            await self._measure(path)
        hops = tuple(self._hop(one, other) for one, other in itertools.pairwise(path))
        known = [hop.round_trip_ms for hop in hops if hop.round_trip_ms is not None]
        return t.Trace(
            id=row.id,
            who=row.who,
            service=row.service,
            address=row.address,
            path=path,
            moves=row.moves,
            ended=format_time(row.ended) if row.ended else None,
            hops=hops,
            round_trip_ms=round(sum(known), 3) if known and len(known) == len(hops) else None,
        )

    async def _measure(self, path: tuple[str, ...]) -> None:
        """All nodes at once; edges, at both ends, measure and are not measured (K-06)."""
        routers = range(1, len(path) - 1)
        near = {
            node: [path[other] for other in (place - 1, place + 1) if other in routers]
            for place, node in enumerate(path)
        }
        asked = {node: found for node, found in near.items() if found}
        answers = await asyncio.gather(*(self.measure(node, asked[node]) for node in asked))
        now = self.now()
        for node, trips in zip(asked, answers, strict=True):
            self.presence.measured(node, trips, now)

    def _hop(self, one: str, other: str) -> t.Hop:
        trip = self.presence.trip(one, other)
        if trip is None:
            return t.Hop(node=one, to=other, round_trip_ms=None, age=None)
        age = max(0, self.now() - trip.heard) / 1_000_000
        return t.Hop(node=one, to=other, round_trip_ms=trip.took / 1000, age=round(age, 1))


async def _unmeasured(node: str, routers: Sequence[str]) -> Mapping[str, int]:
    del node, routers
    return {}


async def check_another_router(session: AsyncSession, name: str, without: str) -> None:
    """That another router than this one takes circuits.

    Raises:
        Conflict: none does; `without` says what would become of the plant.
    """
    others = unrevoked("router").where(
        NodeRow.name != name, NodeRow.draining.is_(False), NodeRow.generation > 0
    )
    if await session.scalar(others.limit(1)) is None:
        raise Conflict(
            f"{name} is the last router that takes circuits: {without}. "
            "Add a router or `ferrule drain router NAME --undo` first"
        )


async def check_router_removal(session: AsyncSession, name: str) -> None:
    """That no edge loses the last router that it could hear of another one from.

    Raises:
        Conflict: it would.
    """
    serves = unrevoked("router").where(NodeRow.name == name, NodeRow.generation > 0)
    edges = unrevoked("edge").where(NodeRow.generation > 0)
    if await session.scalar(serves) and await session.scalar(edges.limit(1)):
        await check_another_router(session, name, "removed, no edge would hear of another one")


async def token_routers(session: AsyncSession, node: NodeRow) -> list[str]:
    """Addresses that a newcomer may dial: all routers that are not revoked, itself aside."""
    others = unrevoked("router").where(NodeRow.name != node.name).limit(TOKEN_ROUTERS)
    return [row.address for row in (await session.execute(others)).scalars()]


def single_paths(
    plant: Plant,
    routers: Sequence[str],
    links: Mapping[str, frozenset[str]],
    between: Mapping[str, frozenset[str]],
) -> tuple[t.Alert, ...]:
    """Edges with one link, routers that alone join some edges, and assets before which one edge is left. Pure.

    Args:
        plant: what there should be.
        routers: those that are connected and stay (a router that drains is on its way out).
        links: to which routers each edge that is there has links.
        between: to which others each router has links, of those that have said so.
    """
    found: list[t.Alert] = []
    near = {name: reached & frozenset(routers) for name, reached in links.items()}
    if len(routers) == 1:
        text = f"all paths lead over one router, {routers[0]}: add another"
        found.append(t.Alert(kind="plant", name=plant.name, text=text))
    else:
        for name, reached in sorted(near.items()):
            if len(reached) == 1:
                text = f"edge {name} has a single path: it reaches only {next(iter(reached))}"
                found.append(t.Alert(kind="edge", name=name, text=text))
        for router in _joints(routers, frozenset(near.values()), between):
            text = (
                f"without router {router} some edges do not reach each other: add another beside it"
            )
            found.append(t.Alert(kind="router", name=router, text=text))
    served = {service.asset for service in plant.services}
    for asset in plant.assets:
        here = [name for name in asset.edges if name in links]
        if asset.name in served and len(here) == 1:
            before = "before it" if len(asset.edges) == 1 else "before it that is connected"
            text = f"{asset.name} has a single path: {here[0]} is the only edge {before}"
            found.append(t.Alert(kind="service", name=asset.name, text=text))
    return tuple(found)


def _joints(
    routers: Sequence[str],
    places: Collection[frozenset[str]],
    between: Mapping[str, frozenset[str]],
) -> Iterator[str]:
    """Routers without which edges at two of these places (sets of routers) are parted that are joined now.

    Nobody is blamed for an edge that loses its only router: that is said of the edge.
    """
    if _parted(frozenset(routers), places, between):
        return  # they are apart as it is, or not everybody has said yet what it reaches
    for router in routers:
        rest = frozenset(routers) - {router}
        if _parted(rest, [place & rest for place in places if place & rest], between):
            yield router


def _parted(
    routers: frozenset[str],
    places: Collection[frozenset[str]],
    between: Mapping[str, frozenset[str]],
) -> bool:
    """Whether edges at two of these places do not reach each other over these routers."""
    parts: dict[str, int] = {}
    for part, first in enumerate(routers):
        ahead = [] if first in parts else [first]
        while ahead:
            router = ahead.pop()
            if router not in parts:
                parts[router] = part
                ahead += between.get(router, frozenset()) & routers
    reached = {frozenset(parts[router] for router in place) for place in places if place}
    return any(one.isdisjoint(other) for one, other in itertools.combinations(reached, 2))


def connected_links(
    plant: Plant, links: Mapping[str, frozenset[str] | None]
) -> dict[str, frozenset[str]]:
    """Of the edges that are there, with however few links: `links` are those of all nodes that are."""
    return {
        edge.name: links[edge.name] or frozenset()
        for edge in plant.edges
        if edge.name in links and edge.state is not NodeState.REVOKED
    }
