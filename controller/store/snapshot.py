"""The plant as policy sees it, read from the tables (`overlay.policy.model.Plant`)."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from controller.store.tables import (
    AssetEdgeRow,
    AssetRow,
    ConduitRow,
    KillRow,
    NodeRow,
    PlantRow,
    RevocationRow,
    ServiceRow,
    TokenRow,
    UserRow,
    ZoneRow,
)
from overlay.policy import model
from overlay.policy.names import TRANSPORTS
from overlay.wire.bodies import NORMAL, STRICT, LocalKill

REMEMBERED = 30 * 86_400 * 1_000_000
"""How long an ended conduit is still named as the reason why something is not allowed any more (microseconds)."""


async def load_plant(session: AsyncSession, now: int) -> model.Plant:
    """Everything that decisions depend on; states of nodes are `revoked` or else `waiting`."""
    plant = (await session.execute(select(PlantRow))).scalar_one()
    nodes = await _all(session, NodeRow, NodeRow.name)
    revoked = await revocations(session)
    fresh = await fresh_tokens(session, now)
    edges = tuple(
        _edge(node, revoked.get(node.name), fresh) for node in nodes if node.role == "edge"
    )
    fronts: defaultdict[str, list[AssetEdgeRow]] = defaultdict(list)
    for front in await _all(session, AssetEdgeRow, AssetEdgeRow.edge):
        fronts[front.asset].append(front)
    conduits = await session.execute(
        select(ConduitRow)
        .where(or_(ConduitRow.ended == 0, ConduitRow.ended > now - REMEMBERED))
        .order_by(ConduitRow.created, ConduitRow.id)
    )
    kills = await session.execute(
        select(KillRow)
        .where(KillRow.ended == 0, KillRow.level != "circuit")
        .order_by(KillRow.since, KillRow.id)
    )
    return model.Plant(
        name=plant.name,
        time_zone=plant.time_zone,
        zones=tuple(
            model.Zone(row.name, row.parent) for row in await _all(session, ZoneRow, ZoneRow.name)
        ),
        edges=edges,
        assets=tuple(
            _asset(row, fronts[row.name]) for row in await _all(session, AssetRow, AssetRow.name)
        ),
        users=tuple(row.name for row in await _all(session, UserRow, UserRow.name)),
        routers=tuple(node.name for node in nodes if node.role == "router"),
        services=tuple(
            model.Service(
                row.asset,
                row.protocol,
                row.port,
                row.port_end,
                TRANSPORTS[row.transport],
                row.source == "caller",
            )
            for row in await _all(session, ServiceRow, ServiceRow.name)
        ),
        conduits=tuple(conduit_of(row) for row in conduits.scalars()),
        kills=tuple(
            model.ActiveKill(row.id, row.level, row.name, row.reason, row.by, row.since, row.until)
            for row in kills.scalars()
        ),
    )


async def _all(
    session: AsyncSession, table: type[Any], order: InstrumentedAttribute[str]
) -> Sequence[Any]:
    return (await session.execute(select(table).order_by(order))).scalars().all()


async def revocations(session: AsyncSession) -> dict[str, RevocationRow]:
    """What was revoked, by name, also of nodes that were removed or enrolled anew."""
    return {row.name: row for row in (await session.execute(select(RevocationRow))).scalars()}


async def fresh_tokens(session: AsyncSession, now: int) -> frozenset[str]:
    """Names of nodes that hold a token which can still be redeemed."""
    rows = await session.execute(
        select(TokenRow.name).where(TokenRow.spent == 0, TokenRow.expires > now)
    )
    return frozenset(rows.scalars())


def is_revoked(node: NodeRow, revocation: RevocationRow | None, fresh: frozenset[str]) -> bool:
    """Whether all certificates of a node are void and no new one can come: a fresh token ends it."""
    return (
        revocation is not None
        and revocation.generation >= node.generation
        and node.name not in fresh
    )


def _edge(node: NodeRow, revocation: RevocationRow | None, fresh: frozenset[str]) -> model.Edge:
    if not is_revoked(node, revocation, fresh):
        switch = None
        if node.local_kill is not None:
            switch = LocalKill(node.local_kill, node.local_since)
        return model.Edge(node.name, node.zone, model.NodeState.WAITING, local_kill=switch)
    assert revocation is not None  # noqa: S101 - is_revoked says so
    return model.Edge(
        node.name,
        node.zone,
        model.NodeState.REVOKED,
        since=revocation.since,
        revoked=revocation.reason,
    )


def _asset(row: AssetRow, fronts: list[AssetEdgeRow]) -> model.Asset:
    ordered = sorted(fronts, key=lambda front: (front.priority, front.edge))
    return model.Asset(
        row.name,
        tuple(front.edge for front in ordered),
        address=row.address,
        zone=row.zone,
        tags=tuple(row.tags),
        priorities=tuple(front.priority for front in ordered),
        weights=tuple(front.weight for front in ordered),
    )


def conduit_of(row: ConduitRow) -> model.Conduit:
    """A conduit as policy sees it. For new circuits one that was denied is over at once, whatever moment its running
    circuits got to move (`withdrawn`)."""
    return model.Conduit(
        id=row.id,
        who=row.who,
        to=row.to,
        protocol=row.protocol,
        starts=row.created,
        ends=row.until,
        max_session=row.max_session,
        hold=row.hold,
        integrity=STRICT if row.strict else NORMAL,
        reason=row.reason,
        by=row.by,
        ended=row.ended if row.ended_by else 0,
        ended_by=row.ended_by,
        ended_reason=row.end_reason,
    )
