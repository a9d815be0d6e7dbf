"""`ferrule status`: the plant's programs."""

from sqlalchemy import select

from controller.actions import types as t
from controller.actions.core import Core
from controller.actions.paths import connected_links, single_paths
from controller.store.snapshot import fresh_tokens, revocations
from controller.store.tables import NodeRow
from overlay.wire.timestamps import format_time


class StatusReport(Core):
    """Who is there."""

    async def status(self, actor: t.Actor) -> t.Status:
        """State of every controller, router and edge."""
        async with self.reading(actor) as session:
            nodes = list((await session.execute(select(NodeRow).order_by(NodeRow.name))).scalars())
            revoked = await revocations(session)
            fresh = await fresh_tokens(session, self.now())
        plant = await self.snapshot()
        told = self.presence.links_of()
        links = connected_links(plant, told)
        leaving = {node.name for node in nodes if node.draining}
        staying = [name for name in self.presence.routers() if name not in leaving]
        between = {name: told.get(name) or frozenset() for name in staying}
        shown = [
            (node.role, self.presence.status(node, revoked.get(node.name), fresh)) for node in nodes
        ]
        itself = t.NodeStatus(
            name=self.name,
            state="connected",
            since=format_time(self.started) if self.started else None,
            version=self.version or None,
        )
        return t.Status(
            plant=self.plant,
            controllers=(itself,),
            routers=tuple(status for role, status in shown if role == "router"),
            edges=tuple(status for role, status in shown if role == "edge"),
            alerts=single_paths(plant, staying, links, between),
        )
