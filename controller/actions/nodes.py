"""What the hub asks and tells on behalf of nodes: authority, map, assignments, grants, presence."""

import asyncio
from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import select, update

from controller import signing
from controller.actions.assigned import Assigned, Issued, load_assigned, load_issued
from controller.actions.core import RecordLimiter
from controller.actions.enrolment import Enrolment
from controller.actions.errors import Unavailable
from controller.actions.intercepts import domain_of
from controller.actions.kept import Kept
from controller.actions.projection import IDS_PER_QUERY
from controller.actions.recording import Recording
from controller.store.restrictions import load_map, load_restrictions
from controller.store.snapshot import fresh_tokens, is_revoked, revocations
from controller.store.tables import CircuitRow, LogRow, NodeRow, PlantRow
from overlay.audit.event import EventName, security_event
from overlay.control.messages import Assignments
from overlay.errors import Code
from overlay.fabric.authority import RouterEntry
from overlay.identity.certificate import Leaf, Role
from overlay.policy.evaluate import grants_for
from overlay.policy.grant import Grant
from overlay.policy.interception import Pools

KEYS_AT_ONCE = 2
"""Keys of one node that get grants: the newest, and the one before while it lasts (E-08)."""
LOOK_SECONDS = 1.0
"""An answer about the version stands on a store that could be read so long ago at most (K-03)."""
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


class Versions(NamedTuple):
    """The counters in force."""

    authority: int
    policy: int


class Nodes(Enrolment, Recording):
    """The hub's side of the action layer."""

    def _prepare(self) -> None:
        super()._prepare()
        # Of 10,000 nodes 2,000 ask in a second. A store that could not be written is tried anew each time (K-03).
        self._versions = Kept(
            lambda: None if self._unwritable else self.epoch,
            self._load_versions,
            clock=self.world.clock.boot,
            lasts=LOOK_SECONDS,
        )
        self._assigned = Kept(lambda: self.epoch, self._load_assigned)
        self._map_entries = Kept(lambda: self.epoch, self._load_map)
        self._certificates = Kept(lambda: self.issues, self._load_certificates)
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
        return (await self._versions.get()).authority

    async def _load_versions(self) -> Versions:
        await self.check_writable()
        async with self.reading() as session:
            query = select(PlantRow.authority, PlantRow.policy)
            return Versions(*(await session.execute(query)).one())

    async def fabric_map(self) -> bytes:
        """The signed fabric map. One version always has one content, and the same bytes while this controller runs.

        Raises:
            Unavailable: the store cannot be read.
        """
        version, routers = await self._map_entries.get()
        held = self._signed_map
        if held is None or held[0] != version or held[1] != self.credentials.chain:
            signed = signing.sign_map(self.credentials, version, routers)
            held = self._signed_map = (version, self.credentials.chain, signed)
        return held[2]

    async def _load_map(self) -> tuple[int, list[RouterEntry]]:
        async with self.reading() as session:
            return await load_map(session)

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
        fabric, all_ = await self.fabric_map(), await self._assigned.get()
        if leaf.identity.role is not Role.EDGE:
            return Assignments(all_.version, fabric, (), ())
        intercepts = tuple(all_.intercepts.get(name, ()))
        pools: tuple[str, ...] = ()
        if intercepts:
            pools = tuple(map(str, Pools.of(all_.pools.get(name, ()), self.anchor.digest)))
        return Assignments(
            all_.version,
            fabric,
            tuple(all_.listeners.get(name, ())),
            tuple(all_.hosted.get(name, ())),
            intercepts,
            tuple(all_.behind.get(name, ())),
            pools,
            domain_of(self.plant) if intercepts else "",
        )

    async def _load_assigned(self) -> Assigned:
        async with self.reading() as session:
            return await load_assigned(session)

    async def grants_for(self, leaf: Leaf) -> tuple[Grant, ...]:
        """All grants of this edge now, for its newest key and the one before (E-08). None for a router.

        Raises:
            Unavailable: the store cannot be read.
        """
        if leaf.identity.role is not Role.EDGE:
            return ()
        versions = await self._versions.get()  # without its store a controller grants nothing
        plant, certificates = await self.snapshot(), await self._certificates.get()
        now = self.now()
        specs = grants_for(plant, leaf.identity.name, now)
        return tuple(
            signing.make_grant(spec, one, versions.policy, now)
            for one in certificates.of(leaf, now, KEYS_AT_ONCE)
            for spec in specs
        )

    async def _load_certificates(self) -> Issued:
        async with self.reading() as session:
            return await load_issued(session, self.now())

    async def sign_grants(self, grants: Sequence[Grant]) -> list[bytes]:
        """Signed, in the same order.

        Raises:
            LimitError: one is too long.
        """
        signed = []
        for grant in grants:
            signed.append(signing.sign_grant(self.credentials, grant))
            if len(signed) % SIGNED_AT_ONCE == 0:
                await asyncio.sleep(0)
        return signed

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
                self.presence.doubt(name)
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
        self.presence.told(name, dict(zip(routers, trips, strict=False)), self.now())
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
        self._opened.pop(name, None)
        counted = {circuit.hex(): (there, back) for circuit, there, back in circuits}
        if not self.presence.count(name, counted):
            return  # so it is with almost every report of a plant in which little happens
        try:
            missing = await self._miss(name, counted)
        except BaseException:
            self.presence.doubt(name)
            raise
        if missing:
            self.presence.doubt(name)

    async def _miss(self, name: str, counted: Collection[str]) -> bool:
        """Whether circuits of a node are live by its events, but not by its word; those that were missed before end."""
        async with self.reading() as session:
            query = select(CircuitRow.id).where(CircuitRow.node == name, CircuitRow.ended == 0)
            live = frozenset((await session.execute(query)).scalars())
        missing = live.difference(counted)
        gone = missing & self._suspects.get(name, frozenset())
        self._suspects[name] = missing - gone
        if not gone:
            return bool(missing)
        reason = RESTARTED if self.presence.restarted(name) else VANISHED
        async with self.change(self.itself, None, EventName.CIRCUIT_CLOSE, name) as work:
            ids = sorted(gone)
            # A statement takes so many values and no more.
            for at in range(0, len(ids), IDS_PER_QUERY):
                some = CircuitRow.id.in_(ids[at : at + IDS_PER_QUERY])
                await work.session.execute(
                    update(CircuitRow)
                    .where(some, CircuitRow.node == name, CircuitRow.ended == 0)
                    .values(ended=work.now, end_reason=reason)
                )
            work.topics.add("sessions")
        return True
