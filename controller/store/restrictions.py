"""What is void now, read from the tables: the content of the next authority."""

from sqlalchemy import Select, select
from sqlalchemy.ext.asyncio import AsyncSession

from controller.signing import Restrictions
from controller.store.tables import ConduitRow, KillRow, NodeRow, PlantRow, RevocationRow
from overlay.fabric.authority import Kill, Revocation, RouterEntry, Withdrawal


async def load_restrictions(session: AsyncSession) -> Restrictions:
    """Active kills, revocations of leaves that could still be valid, conduits that were denied (A-07).

    The time plays no part: what is over is taken out by a change, so that one version has one content (A-02).
    """
    kills = await session.execute(
        select(KillRow).where(KillRow.ended == 0).order_by(KillRow.since, KillRow.id)
    )
    revoked = await session.execute(
        select(RevocationRow)
        .where(RevocationRow.expires > 0)
        .order_by(RevocationRow.since, RevocationRow.name)
    )
    withdrawn = await session.execute(
        select(ConduitRow).where(ConduitRow.listed > 0).order_by(ConduitRow.ended, ConduitRow.id)
    )
    return Restrictions(
        kills=tuple(
            Kill(bytes.fromhex(row.id), row.level, row.name, row.reason, row.since, row.until)
            for row in kills.scalars()
        ),
        revoked=tuple(Revocation(row.name, row.generation) for row in revoked.scalars()),
        withdrawn=tuple(Withdrawal(row.id, row.withdrawn) for row in withdrawn.scalars()),
    )


async def load_map(session: AsyncSession) -> tuple[int, list[RouterEntry]]:
    """The fabric map's version and its routers; revoked ones are not in it."""
    version = (await session.execute(select(PlantRow.map))).scalar_one()
    rows = (await session.execute(unrevoked("router"))).scalars().all()
    names = {row.name for row in rows}
    entries = [
        RouterEntry(
            row.name, row.address, tuple(name for name in row.dials if name in names), row.draining
        )
        for row in rows
    ]
    return version, entries


def unrevoked(role: str) -> Select[NodeRow]:
    """The query for nodes of a role that are not revoked."""
    return (
        select(NodeRow)
        .outerjoin(RevocationRow, RevocationRow.name == NodeRow.name)
        .where(
            NodeRow.role == role,
            (RevocationRow.generation.is_(None)) | (RevocationRow.generation < NodeRow.generation),
        )
        .order_by(NodeRow.created, NodeRow.name)
    )
