"""What every node has to do, read at once for all of them: after a change each is told what is news to it."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncSession

from controller.actions.intercepts import PER_EDGE, Target, entries
from controller.store.tables import (
    AssetEdgeRow,
    AssetRow,
    CertificateRow,
    InterceptRow,
    ListenerRow,
    NodeRow,
    PlantRow,
    ServiceRow,
)
from overlay.control.messages import BehindEntry, HostedEntry, InterceptEntry, ListenerEntry
from overlay.identity.certificate import Leaf, read_leaf
from overlay.policy.names import TRANSPORTS


@dataclass(frozen=True)
class Assigned:
    """What edges have to do, by name; one that has nothing of a kind is missing there. `pools` as they were set."""

    version: int
    listeners: Mapping[str, Sequence[ListenerEntry]]
    hosted: Mapping[str, Sequence[HostedEntry]]
    intercepts: Mapping[str, Sequence[InterceptEntry]]
    behind: Mapping[str, Sequence[BehindEntry]]
    """Only where something is intercepted."""
    pools: Mapping[str, Sequence[str]]
    """Likewise."""


async def load_assigned(session: AsyncSession) -> Assigned:
    """All of it. Rows are plain columns: objects of the mapper would take most of the time."""
    version = (await session.execute(select(PlantRow.policy))).scalar_one()
    found = await session.execute(
        select(AssetRow.name, AssetRow.address, AssetRow.mac, AssetRow.number).order_by(
            AssetRow.name
        )
    )
    assets = {row.name: row for row in found}
    fronts: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for asset, edge, priority in await session.execute(
        select(AssetEdgeRow.asset, AssetEdgeRow.edge, AssetEdgeRow.priority)
    ):
        fronts[asset].append((edge, priority))
    services: defaultdict[str, list[Row[Any]]] = defaultdict(list)
    hosted: defaultdict[str, list[HostedEntry]] = defaultdict(list)
    for row in await session.execute(
        select(*ServiceRow.__table__.columns).order_by(ServiceRow.name)
    ):
        services[row.asset].append(row)
        address = assets[row.asset].address if row.asset in assets else ""
        for edge, priority in fronts[row.asset] if address else ():
            hosted[edge].append(_hosted(row, address, priority))
    listeners: defaultdict[str, list[ListenerEntry]] = defaultdict(list)
    for row in await session.execute(
        select(*ListenerRow.__table__.columns).order_by(ListenerRow.name)
    ):
        who, transport = row.who or row.edge, TRANSPORTS[row.transport]
        listeners[row.edge].append(ListenerEntry(row.service, row.listen, who, transport))
    intercepts: defaultdict[str, list[InterceptEntry]] = defaultdict(list)
    targets = {name: Target.of(row.number, row.address) for name, row in assets.items()}
    for row in await session.execute(
        select(*InterceptRow.__table__.columns).order_by(InterceptRow.name)
    ):
        intercepts[row.edge] += entries([row], targets, services)
    behind: defaultdict[str, list[BehindEntry]] = defaultdict(list)
    for name, known in assets.items():
        # A subnet is reached, it asks for nothing.
        if (known.address or known.mac) and "/" not in known.address:
            for edge, _ in fronts[name]:
                if edge in intercepts and len(behind[edge]) < PER_EDGE:
                    behind[edge].append(BehindEntry(name, known.address, known.mac))
    query = select(NodeRow.name, NodeRow.pools).where(
        NodeRow.name.in_(select(InterceptRow.edge).distinct())
    )
    pools = {name: tuple(kept or ()) for name, kept in await session.execute(query)}
    return Assigned(version, listeners, hosted, intercepts, behind, pools)


def _hosted(service: Row[Any], address: str, priority: int) -> HostedEntry:
    return HostedEntry(
        service.name,
        service.asset,
        address,
        service.port,
        service.port_end,
        TRANSPORTS[service.transport],
        priority,
        service.health,
        service.source == "caller",
    )


class Issued:
    """Certificates of nodes, as they were issued; they are read (in the other sense) only where they are needed."""

    def __init__(self, rows: Sequence[tuple[str, int, bytes]]) -> None:
        """`rows`: name, generation and DER, the newest first."""
        self._ders: defaultdict[tuple[str, int], list[bytes]] = defaultdict(list)
        for name, generation, der in rows:
            self._ders[name, generation].append(der)

    def of(self, leaf: Leaf, now: int, most: int) -> list[Leaf]:
        """Of its enrolment, still good, one per key: the leaf itself and then the newest, `most` in all."""
        leaves = [leaf]
        for der in self._ders.get((leaf.identity.name, leaf.generation), ()):
            if len(leaves) >= most:
                break
            if der != leaf.der:
                other = read_leaf(der)
                if other.key_id != leaf.key_id and other.not_after > now:
                    leaves.append(other)
        return leaves


async def load_issued(session: AsyncSession, now: int) -> Issued:
    """Those of edges that are good now."""
    query = (
        select(CertificateRow.name, CertificateRow.generation, CertificateRow.der)
        .where(CertificateRow.role == "edge", CertificateRow.not_after > now)
        .order_by(CertificateRow.not_after.desc())
    )
    return Issued([(name, made, der) for name, made, der in await session.execute(query)])
