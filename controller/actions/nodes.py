"""What the hub asks and tells on behalf of nodes: authority, map, assignments, grants, presence."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from controller import signing
from controller.actions.core import RecordLimiter
from controller.actions.enrolment import Enrolment
from controller.actions.errors import Unavailable
from controller.actions.intercepts import domain_of, told
from controller.actions.recording import Recording
from controller.store.restrictions import load_map, load_restrictions
from controller.store.snapshot import fresh_tokens, is_revoked, revocations
from controller.store.tables import (
    AssetEdgeRow,
    AssetRow,
    CertificateRow,
    CircuitRow,
    ListenerRow,
    LogRow,
    NodeRow,
    PlantRow,
    ServiceRow,
)
from overlay.audit.event import EventName, security_event
from overlay.control.messages import Assignments, GrantUpdate, HostedEntry, ListenerEntry
from overlay.errors import Code
from overlay.identity.certificate import Leaf, Role, read_leaf
from overlay.policy.evaluate import grants_for
from overlay.policy.interception import Pools
from overlay.policy.names import TRANSPORTS

KEYS_AT_ONCE = 2
"""Keys of one node that get grants: the newest, and the one before while it lasts (E-08)."""
SIGNED_AT_ONCE = 16
"""Grants that are signed before everything else gets a turn: a node may have hundreds, and events wait meanwhile."""
RESTARTED = "host restarted"
VANISHED = "the host does not have it any more"


class RouterToDial(NamedTuple):
    """A router that the controller keeps a link to.

    `enrolled`: it has a certificate that is not revoked. `newcomer`: a token for it can be redeemed, so it may still
    (or again) show a self-signed key (E-07). Both at once: try the one, then the other.
    """

    name: str
    address: str
    enrolled: bool
    newcomer: bool


class Nodes(Enrolment, Recording):
    """The hub's side of the action layer."""

    def _prepare(self) -> None:
        super()._prepare()
        self._suspects: dict[str, frozenset[str]] = {}
        self._faults = RecordLimiter()
        self._signed_map: tuple[int, tuple[bytes, ...], bytes] | None = None

    async def authority(self) -> bytes:
        """A freshly signed authority: version and content as committed, the time of now (A-01).

        Raises:
            Unavailable: the store cannot be read.
        """
        async with self.reading() as session:
            version = (await session.execute(select(PlantRow.authority))).scalar_one()
            restrictions = await load_restrictions(session)
            head = (await session.execute(select(LogRow.head))).scalar_one()
        return signing.sign_authority(self.credentials, restrictions, version, self.now(), head)

    async def authority_version(self) -> int:
        """The version in force, for `Answer`.

        Raises:
            Unavailable: the store cannot be read, or could not be written when it was last tried and cannot now: then
                there must be no answer (K-03).
        """
        await self.check_writable()
        async with self.reading() as session:
            return (await session.execute(select(PlantRow.authority))).scalar_one()

    async def fabric_map(self) -> bytes:
        """The signed fabric map.

        Raises:
            Unavailable: the store cannot be read.
        """
        async with self.reading() as session:
            return await self._map(session)

    async def _map(self, session: AsyncSession) -> bytes:
        """One version always has one content, and the same bytes while this controller runs."""
        version, routers = await load_map(session)
        held = self._signed_map
        if held is None or held[0] != version or held[1] != self.credentials.chain:
            signed = signing.sign_map(self.credentials, version, routers)
            held = self._signed_map = (version, self.credentials.chain, signed)
        return held[2]

    async def routers_to_dial(self) -> list[RouterToDial]:
        """Every router that is not revoked, oldest first.

        Raises:
            Unavailable: the store cannot be read.
        """
        async with self.reading() as session:
            query = select(NodeRow).where(NodeRow.role == "router")
            rows = await session.execute(query.order_by(NodeRow.created, NodeRow.name))
            nodes = rows.scalars().all()
            revoked = await revocations(session)
            fresh = await fresh_tokens(session, self.now())
        found = []
        for node in nodes:
            revocation = revoked.get(node.name)
            if is_revoked(node, revocation, fresh):
                continue
            above = 0 if revocation is None else revocation.generation
            newcomer = node.name in fresh
            found.append(RouterToDial(node.name, node.address, node.generation > above, newcomer))
        return found

    async def assignments_for(self, leaf: Leaf) -> Assignments:
        """All that this node has to do.

        Raises:
            Unavailable: the store cannot be read.
        """
        name = leaf.identity.name
        async with self.reading() as session:
            version = (await session.execute(select(PlantRow.policy))).scalar_one()
            fabric = await self._map(session)
            if leaf.identity.role is not Role.EDGE:
                return Assignments(version, fabric, (), ())
            listeners = await session.execute(
                select(ListenerRow).where(ListenerRow.edge == name).order_by(ListenerRow.name)
            )
            hosted = await session.execute(
                select(ServiceRow, AssetRow.address, AssetEdgeRow.priority)
                .join(AssetRow, AssetRow.name == ServiceRow.asset)
                .join(AssetEdgeRow, AssetEdgeRow.asset == AssetRow.name)
                .where(AssetEdgeRow.edge == name, AssetRow.address != "")
                .order_by(ServiceRow.name)
            )
            intercepts, behind = await told(session, name)
            pools: tuple[str, ...] = ()
            if intercepts:
                kept = await session.scalar(select(NodeRow.pools).where(NodeRow.name == name))
                pools = tuple(map(str, Pools.of(kept or (), self.anchor.digest)))
            return Assignments(
                version,
                fabric,
                tuple(
                    ListenerEntry(
                        row.service, row.listen, row.who or name, TRANSPORTS[row.transport]
                    )
                    for row in listeners.scalars()
                ),
                tuple(
                    HostedEntry(
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
                    for service, address, priority in hosted
                ),
                intercepts,
                behind,
                pools,
                domain_of(self.plant) if intercepts else "",
            )

    async def grants_for(self, leaf: Leaf) -> GrantUpdate:
        """All grants of this edge now, signed; for its newest key and the one before (E-08). Empty for a router.

        The hub splits what does not fit into one message (`more`).

        Raises:
            Unavailable: the store cannot be read.
        """
        now = self.now()
        if leaf.identity.role is not Role.EDGE:
            return GrantUpdate(full=True, put=())
        plant = await self.snapshot()
        specs = grants_for(plant, leaf.identity.name, now)
        async with self.reading() as session:
            epoch = (await session.execute(select(PlantRow.policy))).scalar_one()
            leaves = await self._leaves(session, leaf, now)
        signed: list[bytes] = []
        for one in leaves:
            for spec in specs:
                grant = signing.make_grant(spec, one, epoch, now)
                signed.append(signing.sign_grant(self.credentials, grant))
                if len(signed) % SIGNED_AT_ONCE == 0:
                    await asyncio.sleep(0)
        return GrantUpdate(full=True, put=tuple(signed))

    async def _leaves(self, session: AsyncSession, leaf: Leaf, now: int) -> list[Leaf]:
        """Certificates of this enrolment that are still good, one per key, the newest first."""
        rows = await session.execute(
            select(CertificateRow.der)
            .where(
                CertificateRow.name == leaf.identity.name,
                CertificateRow.generation == leaf.generation,
                CertificateRow.not_after > now,
            )
            .order_by(CertificateRow.not_after.desc())
        )
        leaves = [leaf]
        for der in rows.scalars():
            other = read_leaf(der)
            if len(leaves) < KEYS_AT_ONCE and other.key_id != leaf.key_id:
                leaves.append(other)
        return leaves

    # --- presence ---------------------------------------------------------------------------------

    async def node_connected(self, leaf: Leaf, version: str, boot: int) -> None:
        """The node's control circuit is up (its `Start` came). The token that made its leaf is spent from now on.

        Raises:
            Unavailable: the store cannot be written.
        """
        name, role = leaf.identity.name, leaf.identity.role.value
        async with self.change(self.itself, None, EventName.NODE_START, name) as work:
            await work.session.execute(
                update(NodeRow)
                .where(NodeRow.name == name)
                .values(seen=work.now, version=version.replace("\0", "")[:32])
            )
            await self.first_link(work, leaf)
            known = self.presence.last_boot(name)
            if known is not None and known != boot:
                live = select(CircuitRow.id).where(CircuitRow.node == name, CircuitRow.ended == 0)
                self._suspects[name] = frozenset((await work.session.execute(live)).scalars())
            work.topics.add("presence")
        self.presence.connected(name, role, leaf.generation, version, boot, self.now())

    async def link_fault(self, router: str, code: Code, reason: str) -> None:
        """The hub found that something came over a router's link that must not have come (L-15).

        A router that goes on with it does not fill the log: masses are merged.
        """
        event, outcome = security_event(code)
        async with self.change(self.itself, None, event, router) as work:
            if count := self._faults.take(work.now):
                work.note(event, outcome, who=router, via=router, reason=reason, count=count)

    async def node_disconnected(self, leaf: Leaf, reason: str) -> None:
        """A control circuit of the node is gone; `reason` is for the log of whoever calls."""
        name = leaf.identity.name
        if not self.presence.disconnected(name, leaf.generation):
            return
        try:
            async with self.change(self.itself, None, EventName.NODE_STOP, name) as work:
                await work.session.execute(
                    update(NodeRow).where(NodeRow.name == name).values(seen=work.now)
                )
        except Unavailable:
            pass  # it is only when it was last seen
        self.publish("presence")

    def node_links(self, name: str, routers: Sequence[str], trips: Sequence[int] = ()) -> None:
        """The routers to which this node is attached, where the hub knows (`status` of edges needs it), and the round
        trips to them in µs (0: not measured)."""
        self.presence.measured(name, dict(zip(routers, trips, strict=False)))
        if self.presence.links(name, routers):
            self.publish("presence")

    async def node_live(self, leaf: Leaf, circuits: Sequence[tuple[bytes, int, int]]) -> None:
        """A `Live` report: bytes of the circuits that the node hosts. One that it lacks has ended (K-06).

        A circuit must be missing twice, since its own `circuit.close` may be on the way; after a restart of the host
        once is enough.

        Raises:
            Unavailable: the store cannot be read or written.
        """
        name = leaf.identity.name
        counted = {circuit.hex(): (there, back) for circuit, there, back in circuits}
        self.presence.count(name, counted)
        async with self.reading() as session:
            query = select(CircuitRow.id).where(CircuitRow.node == name, CircuitRow.ended == 0)
            live = frozenset((await session.execute(query)).scalars())
        missing = live - counted.keys()
        gone = missing & self._suspects.get(name, frozenset())
        self._suspects[name] = missing - gone
        if not gone:
            return
        reason = RESTARTED if self.presence.restarted(name) else VANISHED
        async with self.change(self.itself, None, EventName.CIRCUIT_CLOSE, name) as work:
            await work.session.execute(
                update(CircuitRow)
                .where(CircuitRow.id.in_(gone), CircuitRow.ended == 0)
                .values(ended=work.now, end_reason=reason)
            )
            work.topics.add("sessions")
