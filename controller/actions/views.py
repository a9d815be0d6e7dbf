"""Rows of the store as the objects that people see: `ls` and `show`."""

from collections.abc import Callable
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from controller.actions import types as t
from controller.actions.checks import missing
from controller.actions.core import Core
from controller.actions.errors import Invalid, NotFound, Unsupported
from controller.actions.intercepts import domain_of, prefixes_of
from controller.store.snapshot import conduit_of, fresh_tokens, revocations
from controller.store.tables import (
    AssetEdgeRow,
    AssetRow,
    Base,
    ConduitRow,
    InterceptRow,
    KillRow,
    ListenerRow,
    NodeRow,
    ServiceRow,
    ZoneRow,
)
from overlay.policy.interception import Pools
from overlay.policy.names import hint, shown
from overlay.policy.times import format_duration, format_local
from overlay.wire.timestamps import format_time

TABLES: dict[str, type[Base]] = {
    "zone": ZoneRow,
    "router": NodeRow,
    "edge": NodeRow,
    "asset": AssetRow,
    "service": ServiceRow,
    "listener": ListenerRow,
    "intercept": InterceptRow,
    "conduit": ConduitRow,
    "kill": KillRow,
}
LATER = frozenset({"user", "request", "session"})
"""Kinds that the command line knows and this build does not list."""


def fields(made: t.Result) -> dict[str, Any]:
    """The fields of a result, by attribute name."""
    return msgspec.structs.asdict(made)


def check_kind(kind: str) -> str:
    """The kind of object that is meant.

    Raises:
        Unsupported: a kind of later builds. Invalid: no kind at all.
    """
    if kind in TABLES:
        return kind
    if kind in LATER:
        raise Unsupported(f"this build does not keep objects of the kind {kind} yet")
    near = hint(kind, TABLES)
    raise Invalid(f"{shown(kind)} is not a kind of object: {near or ', '.join(TABLES)}")


class Views(Core):
    """`ferrule ls` and `ferrule show`."""

    async def list_objects(self, actor: t.Actor, kind: str) -> list[t.Result]:
        """All objects of a kind, by name; conduits and kills that are in force, oldest first.

        Raises:
            Unsupported, Invalid: not a kind that this build has.
        """
        table = TABLES[check_kind(kind)]
        async with self.reading(actor) as session:
            query = select(table)
            if table is NodeRow:
                query = query.where(NodeRow.role == kind)
            if table is ConduitRow:
                query = query.where(ConduitRow.ended == 0)
            if table is KillRow:
                query = query.where(KillRow.ended == 0, KillRow.level != "circuit")
            rows = list((await session.execute(query)).scalars())
            context = await self._context(session, kind)
        found = [_VIEWS[kind](self, row, context) for row in rows]
        return sorted(found, key=_order)

    async def show_object(self, actor: t.Actor, kind: str, name: str) -> t.Result:
        """One object; conduits and kills also when they ended.

        Raises:
            NotFound: nothing of that kind has this name. Unsupported, Invalid: not a kind that this build has.
        """
        async with self.reading(actor) as session:
            made: t.Result = await self.view(session, kind, await self.row(session, kind, name))
        return made

    async def row(self, session: AsyncSession, kind: str, name: str) -> Any:
        """The row of an object.

        Raises:
            NotFound, Unsupported, Invalid: as `show_object`.
        """
        table = TABLES[check_kind(kind)]
        key = name.strip().lower()
        row = await session.get(table, key)
        if row is None or (isinstance(row, NodeRow) and row.role != kind):
            if "name" in table.__table__.columns and kind != "kill":
                raise await missing(session, table, kind, key)
            raise NotFound(f"there is no {kind} {shown(name)}: see ferrule ls {kind}")
        return row

    async def view(self, session: AsyncSession, kind: str, row: Any) -> Any:
        """What people see of a row."""
        return _VIEWS[kind](self, row, await self._context(session, kind, row))

    async def _context(
        self, session: AsyncSession, kind: str, row: Any | None = None
    ) -> dict[str, Any]:
        """What the views of a kind need besides the rows, read once for all of them."""
        if kind in {"router", "edge"}:
            return {
                "revoked": await revocations(session),
                "fresh": await fresh_tokens(session, self.now()),
            }
        if kind == "asset":
            query = select(AssetEdgeRow).order_by(AssetEdgeRow.priority, AssetEdgeRow.edge)
            if row is not None:
                query = query.where(AssetEdgeRow.asset == row.name)
            fronts: dict[str, list[t.AssetEdge]] = {}
            for front in (await session.execute(query)).scalars():
                made = t.AssetEdge(front.edge, front.priority, front.weight)
                fronts.setdefault(front.asset, []).append(made)
            return {"fronts": fronts}
        if kind == "intercept":
            nodes = select(NodeRow.name, NodeRow.pools).where(NodeRow.role == "edge")
            numbers = select(AssetRow.name, AssetRow.number).where(
                AssetRow.number > 0, AssetRow.address.not_like("%/%")
            )
            return {
                "pools": {row.name: row.pools for row in await session.execute(nodes)},
                "numbers": {row.name: row.number for row in await session.execute(numbers)},
            }
        return {}


def _node_state(core: Core, row: NodeRow, context: dict[str, Any]) -> t.NodeState:
    revocation = context["revoked"].get(row.name)
    return core.presence.status(row, revocation, context["fresh"]).state


def _zone(_core: Core, row: ZoneRow, _context: dict[str, Any]) -> t.Zone:
    return t.Zone(name=row.name, level=row.level, sl=row.sl, parent=row.parent)


def _router(core: Core, row: NodeRow, context: dict[str, Any]) -> t.Router:
    return t.Router(
        name=row.name,
        address=row.address,
        dials=tuple(row.dials),
        draining=row.draining,
        state=_node_state(core, row, context),
        generation=row.generation,
    )


def _edge(core: Core, row: NodeRow, context: dict[str, Any]) -> t.Edge:
    return t.Edge(
        name=row.name,
        zone=row.zone,
        state=_node_state(core, row, context),
        generation=row.generation,
        pools=tuple(map(str, Pools.of(row.pools, core.anchor.digest))),
    )


def _asset(_core: Core, row: AssetRow, context: dict[str, Any]) -> t.Asset:
    return t.Asset(
        name=row.name,
        edges=tuple(context["fronts"].get(row.name, ())),
        address=row.address or None,
        mac=row.mac or None,
        zone=row.zone,
        tags=tuple(row.tags),
    )


def _service(_core: Core, row: ServiceRow, _context: dict[str, Any]) -> t.Service:
    return t.Service(
        name=row.name,
        asset=row.asset,
        protocol=row.protocol,
        port=row.port,
        port_end=row.port_end,
        transport="udp" if row.transport == "udp" else "tcp",
        connect="at-once" if row.connect == "at-once" else "held",
        health=row.health or None,
        source="caller" if row.source == "caller" else "edge",
    )


def _listener(_core: Core, row: ListenerRow, _context: dict[str, Any]) -> t.Listener:
    return t.Listener(
        name=row.name,
        edge=row.edge,
        service=row.service,
        listen=row.listen,
        transport="udp" if row.transport == "udp" else "tcp",
        as_asset=row.who,
    )


def _intercept(core: Core, row: InterceptRow, context: dict[str, Any]) -> t.Intercept:
    pools = Pools.of(context["pools"][row.edge], core.anchor.digest)
    return t.Intercept(
        name=row.name,
        edge=row.edge,
        asset=row.asset,
        service=row.service,
        mode=row.mode,  # type: ignore[arg-type]
        addresses=tuple(row.addresses),
        overlay=tuple(map(str, prefixes_of(pools, context["numbers"].get(row.asset, 0)))),
        dns=f"{row.asset}.{domain_of(core.plant)}",
        as_asset=row.who,
    )


def _conduit(core: Core, row: ConduitRow, _context: dict[str, Any]) -> t.Conduit:
    until = f" until {format_local(row.until, core.time_zone)}" if row.until else ", no end"
    return t.Conduit(
        id=row.id,
        who=row.who,
        to=row.to,
        protocol=row.protocol,
        until=format_time(row.until) if row.until else None,
        max_session=row.max_session or None,
        away=f"hold:{format_duration(row.hold)}" if row.hold else "close",
        strict=row.strict,
        reason=row.reason or None,
        by=row.by,
        created=format_time(row.created),
        ended=format_time(row.ended) if row.ended else None,
        end_reason=row.end_reason or None,
        text=f"{conduit_of(row).sentence}{until}",
    )


def _kill(_core: Core, row: KillRow, _context: dict[str, Any]) -> t.Kill:
    return kill_view(row)


def kill_view(row: KillRow) -> t.Kill:
    """A kill as people see it."""
    return t.Kill(
        id=row.id,
        level=row.level,  # type: ignore[arg-type]  # the store holds these words only
        name=row.name,
        reason=row.reason,
        by=row.by,
        since=format_time(row.since),
        until=format_time(row.until) if row.until else None,
    )


_View = Callable[[Core, Any, dict[str, Any]], t.Result]
_VIEWS: dict[str, _View] = {
    "zone": _zone,
    "router": _router,
    "edge": _edge,
    "asset": _asset,
    "service": _service,
    "listener": _listener,
    "intercept": _intercept,
    "conduit": _conduit,
    "kill": _kill,
}


def _order(made: t.Result) -> tuple[str, str]:
    since = getattr(made, "created", "") or getattr(made, "since", "")
    return since, getattr(made, "name", "")
