"""What the controller knows of paths: how long the hops of a session take, and what hangs on a single thread."""

import itertools
from collections.abc import Mapping, Sequence

from controller.actions import types as t
from controller.actions.core import Core
from controller.actions.errors import NotFound
from controller.store.tables import CircuitRow
from overlay.policy.model import NodeState, Plant
from overlay.policy.names import shown
from overlay.wire.timestamps import format_time


class Paths(Core):
    """`ferrule trace`."""

    async def trace(self, actor: t.Actor, name: str) -> t.Trace:
        """The hops of a session's path, with the round trip that the nodes at their ends measured last.

        Raises:
            NotFound: no such session.
        """
        async with self.reading(actor) as session:
            row = await session.get(CircuitRow, name.strip().lower())
            if row is None:
                raise NotFound(f"there is no session {shown(name)}: see ferrule sessions")
            path = tuple(row.path)
            hops = tuple(
                t.Hop(node=one, to=other, round_trip_ms=self.presence.trip(one, other))
                for one, other in itertools.pairwise(path)
            )
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


def single_paths(
    plant: Plant, routers: Sequence[str], links: Mapping[str, frozenset[str]]
) -> tuple[t.Alert, ...]:
    """Edges with one link, and assets before which one edge is left. Pure.

    Args:
        plant: what there should be.
        routers: those that are connected.
        links: to which routers each connected edge has links.
    """
    found: list[t.Alert] = []
    if len(routers) == 1:
        text = f"all paths lead over one router, {routers[0]}: add another"
        found.append(t.Alert(kind="plant", name=plant.name, text=text))
    else:
        for name, near in sorted(links.items()):
            if len(near) == 1:
                text = f"edge {name} has a single path: it reaches only {next(iter(near))}"
                found.append(t.Alert(kind="edge", name=name, text=text))
    served = {service.asset for service in plant.services}
    for asset in plant.assets:
        here = [name for name in asset.edges if name in links]
        if asset.name in served and len(here) == 1:
            before = "before it" if len(asset.edges) == 1 else "before it that is connected"
            text = f"{asset.name} has a single path: {here[0]} is the only edge {before}"
            found.append(t.Alert(kind="service", name=asset.name, text=text))
    return tuple(found)


def connected_links(
    plant: Plant, links: Mapping[str, frozenset[str] | None]
) -> dict[str, frozenset[str]]:
    """Of the edges that are connected."""
    return {
        edge.name: links.get(edge.name) or frozenset()
        for edge in plant.edges
        if edge.state is NodeState.CONNECTED
    }
