"""The circuits of one node over all its links: opens them, accepts them, and moves them when a path is lost."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from overlay import limits
from overlay.aio.asking import Asking
from overlay.aio.caller_table import CallerTable
from overlay.aio.calling import Outgoing
from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.circuit_roles import CircuitEnd, CircuitFacts, GrantCheck, Refused
from overlay.aio.circuit_stream import CircuitStream, Predicate
from overlay.aio.hosting import Hosting
from overlay.aio.incoming import Declined, Incoming
from overlay.aio.lanes import Lanes
from overlay.aio.late_ends import late_ends
from overlay.aio.node_circuits import NodeCircuits
from overlay.aio.returning import Returning
from overlay.aio.world import World
from overlay.circuit.caller import Wish
from overlay.errors import Code, DecodeError, TrustError
from overlay.identity.certificate import Leaf
from overlay.identity.trust import Credentials, Signers
from overlay.policy.grant import Grant
from overlay.policy.grant_check import check_refresh
from overlay.wire.bodies import (
    ASSOCIATE_SERVICE,
    CONTROL_SERVICE,
    NORMAL,
    RIDERS,
    STREAM,
    LinkControl,
    Resume,
    ResumeIntent,
)
from overlay.wire.codec import decode
from overlay.wire.header import Header, Kind

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver


_STOPPING = "the node is stopping"


class Endpoint(NodeCircuits):
    """Implements `LinkOwner`: give it to the links of a node. Make it inside the event loop.

    Args:
        certificate_now: the time for certificates where it is not `plant_now` (A-20).
        admit: raises TrustError for a leaf that is revoked.
        on_control: gets the links' CONTROL bodies.
        on_link: gets each link with True when it comes up and False when it is gone.
        memory: bytes that its circuits may hold beyond their first windows (C-35).
        on_declined: circuits that were refused here before `on_incoming` was asked.
    """

    def __init__(  # noqa: PLR0913 - each is named where it is called
        self,
        world: World,
        credentials: Callable[[], Credentials],
        signers: Signers,
        plant_now: Callable[[], int],
        grants: GrantCheck,
        boot: int,
        *,
        certificate_now: Callable[[], int] | None = None,
        admit: Callable[[Leaf], None] | None = None,
        on_control: "Callable[[LinkDriver, LinkControl], object] | None" = None,
        on_link: "Callable[[LinkDriver, bool], object] | None" = None,
        memory: int = limits.CIRCUIT_MEMORY,
    ) -> None:
        super().__init__(
            world, credentials, signers, plant_now, grants, boot,
            certificate_now=certificate_now, admit=admit, memory=memory,
        )  # fmt: skip
        self.on_incoming: Callable[[Incoming], None] | None = None
        self.on_declined: Callable[[Declined], None] | None = None
        self.elsewhere: Callable[[Grant], bool] | None = None
        """Says of which grants another host should be asked first, because the asset does not answer here (C-18)."""
        self.on_health: Callable[[LinkDriver], None] | None = None
        """Gets each link whose `sound` has changed."""
        self._on_control = on_control
        self._on_link = on_link
        self._outgoing: dict[bytes, Outgoing] = {}
        self._callers = CallerTable(self)
        self._hosting = Hosting(self, self._asked, self._declined, self._elsewhere)
        self._asking = Asking(self)
        self._returning = Returning(self, self._outgoing.values)
        self._closed = False

    def use_lanes(self) -> Lanes:
        """From now on circuits that turn out to be bulk go to bulk lanes, where routers have them (L-08)."""
        resume = self._hosting.paths.resume
        self.lanes = Lanes(self._world, self, self.evacuate, self._outgoing.values, resume)
        return self.lanes

    # --- what programs ask --------------------------------------------------------------------------

    async def dial(
        self,
        service: str,
        grant: bytes = b"",
        *,
        early: bytes = b"",
        transport: int = STREAM,
        enrol: bool = False,
        links: "Sequence[LinkDriver]" = (),
        port: int = 0,
        address: bytes = b"",
    ) -> CircuitStream:
        """Open a circuit and wait until the host has reached the service.

        Args:
            service: its name, or `CONTROL_SERVICE`.
            grant: a signed grant; empty for the control service.
            early: first bytes of a stream, sent with OPEN where that is possible. They may be executed by the host
                although this call fails, but never twice.
            transport: STREAM or DATAGRAMS.
            enrol: as a newcomer (E-03).
            links: try these first.
            port: of a service with several ports (C-09).
            address: of an asset that is a subnet (C-19).

        Raises:
            Refused: nobody could or would; with the reason. ValueError: early data, and no stream.
        """
        stream = self.open(
            service,
            grant,
            early=early,
            transport=transport,
            enrol=enrol,
            links=links,
            port=port,
            address=address,
        )
        try:
            await stream.ready()
        except asyncio.CancelledError:
            stream.abort(Code.NORMAL, "nobody waits for it any more")
            raise
        return stream

    def open(
        self,
        service: str,
        grant: bytes = b"",
        *,
        early: bytes = b"",
        transport: int = STREAM,
        enrol: bool = False,
        links: "Sequence[LinkDriver]" = (),
        port: int = 0,
        address: bytes = b"",
    ) -> CircuitStream:
        """As `dial`, without waiting: what is written meanwhile leaves as soon as keys exist.

        Raises:
            Refused: no link, or the grant does not hold. ValueError: early data, and no stream.
        """
        if early and transport != STREAM:
            raise ValueError("datagrams cannot be early: they would be bytes of a stream")
        body: Grant | None = None
        hosts: tuple[str, ...] = ()
        if service != CONTROL_SERVICE:
            body = self._own_grant(grant, service, transport)
            hosts = body.hosts
        integrity = NORMAL if body is None else body.integrity
        wish = Wish(service, grant, hosts, integrity, transport, port, enrol, address)
        return self._open(wish, body, early, tuple(links)).stream

    def _open(
        self, wish: Wish, grant: Grant | None, early: bytes, links: "tuple[LinkDriver, ...]"
    ) -> Outgoing:
        if self._closed:
            raise Refused(Code.GOING_AWAY, "this node is stopping")
        if self.memory.full and wish.grant:
            raise Refused(Code.BUSY, "this node holds too much that its programs do not read")
        if not links and not self._links:
            raise Refused(Code.NO_ROUTE, "no router is reachable at the moment")
        stream = CircuitStream(
            self,
            circuit_id=self.random(16),
            hosting=False,
            service=wish.service,
            integrity=wish.integrity,
            transport=wish.transport,
            grant=grant,
            grant_bytes=wish.grant,
        )
        outgoing = Outgoing(self, self._callers, self._associate, stream, wish, early, links)
        self._outgoing[stream.circuit_id] = outgoing
        self.add(stream)
        outgoing.begin()
        return outgoing

    def cut(self, matches: Predicate, code: Code, reason: str) -> int:
        """End each circuit for which `matches(grant, circuit_id, peer)`; how many."""
        found = [
            stream
            for stream in self._streams.values()
            if not stream.closed.done() and matches(stream.grant, stream.circuit_id, stream.peer)
        ]
        for stream in found:
            stream.abort(code, reason)
        return len(found)

    def forget(self, matches: Callable[[Leaf], bool]) -> None:
        """Drop the associations with these peers: their next circuit needs a handshake (C-03)."""
        self._callers.forget(matches)
        self._hosting.associations.forget(matches)

    def live(self) -> list[CircuitFacts]:
        """All circuits that are open now, oldest first."""
        return [
            CircuitFacts(
                one.circuit_id, one.hosting, one.service, one.grant, one.peer, one.path,
                one.key_exchange, one.integrity, one.transport, one.started, one.bytes_in,
                one.bytes_out,
            )
            for one in self._streams.values()
            if one.is_open
        ]  # fmt: skip

    def streams(self) -> list[CircuitDriver]:
        """All circuits that have not ended, also those that are opening."""
        return [stream for stream in self._streams.values() if not stream.closed.done()]

    async def settled(self) -> None:
        """Until all that was cut so far is cut in bulk lanes, too."""
        if self.lanes is not None:
            await self.lanes.settled()

    def close(self) -> None:
        """End everything; for the program's end. `lanes.close` comes after it."""
        self._closed = True
        self._asking.close()
        self._returning.close()
        self._hosting.close()
        late_ends().flush()
        self.cut(lambda *_: True, Code.GOING_AWAY, _STOPPING)

    # --- LinkOwner ----------------------------------------------------------------------------------

    def link_up(self, link: "LinkDriver") -> None:
        """LinkOwner."""
        self._links[link] = {}
        if self._on_link is not None:
            self._on_link(link, not link.over)
        self._callers.link_up()
        self._evacuate_all()
        self._returning.sound(link)

    def began(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """Hops: hosting decides."""
        if header.kind is Kind.OPEN and self._closed:
            self.turn_away(link, header.circuit, Code.GOING_AWAY, _STOPPING)
        elif header.kind is Kind.OPEN:
            self._hosting.opened(link, header, payload)
        elif header.kind is Kind.RESUME and not self._asks(link, header, payload):
            self._hosting.paths.resume(link, header, payload)

    def _asks(self, link: "LinkDriver", header: Header, payload: memoryview) -> bool:
        """It is for a circuit that this node calls: its host asks for another path (C-64)."""
        try:
            body = decode(Resume, payload)
            outgoing = self._outgoing.get(decode(ResumeIntent, body.intent).circuit)
        except DecodeError:
            return False
        if outgoing is None:
            return False
        self.free(link, header.circuit)  # it never becomes a path
        outgoing.stream.at_owner(outgoing.host_asks, header, body)
        return True

    def control(self, link: "LinkDriver", body: LinkControl) -> None:
        """LinkOwner."""
        if self._on_control is not None:
            self._on_control(link, body)

    def link_down(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """LinkOwner."""
        self.lose(link, reason)
        if self._on_link is not None:
            self._on_link(link, not link.over)

    def health(self, link: "LinkDriver") -> None:
        """LinkOwner."""
        if link.sound:
            self._evacuate_all()
            self._returning.sound(link)
        else:
            self.evacuate(link)
        if self.on_health is not None:
            self.on_health(link)

    def evacuate(self, link: "LinkDriver") -> None:
        """Move what this node calls from a link that is not sound to one that is, and ask the callers of what it hosts
        to do so; without one it stays."""
        if not link.sound and any(other.sound for other in self._links):
            for outgoing in list(self._outgoing.values()):
                outgoing.evacuate(link)
            if link.suspect:
                for stream in list(self._streams.values()):
                    if stream.hosting and stream.link is link:
                        self._asking.begin(stream)

    def _evacuate_all(self) -> None:
        """There is a sound link more: circuits that stayed where they were for want of one may go there."""
        lanes = () if self.lanes is None else self.lanes.links
        for link in (*self._links, *lanes):
            self.evacuate(link)

    # --- from hosting -------------------------------------------------------------------------------

    def _asked(self, incoming: Incoming) -> bool:
        if self.on_incoming is None:
            return False
        self.on_incoming(incoming)
        return True

    def _elsewhere(self, grant: Grant) -> bool:
        return self.elsewhere is not None and self.elsewhere(grant)

    def _declined(self, declined: Declined) -> None:
        if self.on_declined is not None:
            self.on_declined(declined)

    # --- StreamOwner --------------------------------------------------------------------------------

    def confirmed(self, stream: CircuitDriver, boot: int | None) -> None:
        """StreamOwner."""
        if boot is not None:
            stream.started = self.plant_now()
        outgoing = self._outgoing.get(stream.circuit_id)
        if outgoing is not None:
            outgoing.confirmed(boot)

    def pathless(self, stream: CircuitDriver, link: "LinkDriver", code: Code, reason: str) -> None:
        """StreamOwner."""
        outgoing = self._outgoing.get(stream.circuit_id)
        if outgoing is not None:
            outgoing.pathless(link, code, reason)
        elif stream.hosting:
            self._asking.begin(stream)

    def refreshed(self, stream: CircuitDriver, grant: bytes) -> None:
        """StreamOwner."""
        self._hosting.paths.refreshed(stream, grant)

    def refresh(self, stream: CircuitDriver, grant: bytes) -> None:
        """StreamOwner."""
        old = stream.grant
        if stream.hosting or old is None:
            raise Refused(Code.BAD_GRANT, "only a caller with a grant has one to refresh")
        # A circuit keeps the key that opened it, also after this node's certificate was renewed.
        body = self._own_grant(grant, stream.service, stream.transport, key_id=old.caller_key)
        objection = check_refresh(old, body)
        if objection is not None:
            raise Refused(*objection)
        stream.take_grant(body, grant)

    def fault(self, stream: CircuitDriver, code: Code, reason: str) -> None:
        """StreamOwner."""
        self.security(code, reason, stream)

    def ended(self, stream: CircuitDriver, end: CircuitEnd) -> None:
        """StreamOwner."""
        stream.tell(end)
        self._hosting.answered(stream.circuit_id)
        outgoing = self._outgoing.pop(stream.circuit_id, None)
        if outgoing is not None:
            outgoing.over()
            if self.lanes is not None:
                self.lanes.over(outgoing)

    def finished(self, stream: CircuitDriver) -> None:
        """StreamOwner."""
        self.remove(stream)
        if stream.hosting:
            self._hosting.paths.keep(stream)
        else:
            stream.forget()

    def _own_grant(
        self, grant: bytes, service: str, transport: int, key_id: bytes | None = None
    ) -> Grant:
        """Raises: Refused: it does not hold."""
        try:
            body = self.verified(grant)
        except (DecodeError, TrustError) as error:
            raise Refused(Code.BAD_GRANT, str(error)) from None
        if service in RIDERS:
            service, transport = body.service, body.transport
        objection = self.check(
            body,
            key_id=self.credentials().key.key_id if key_id is None else key_id,
            via=self.name,
            service=service,
            transport=transport,
            integrity=body.integrity,
            circuit=b"",
            host=None,
        )
        if objection is not None:
            raise Refused(*objection)
        return body

    def _associate(self, host: str, wish: Wish, stream: CircuitDriver) -> Outgoing:
        """A fresh association with this very host, under the circuit's grant (C-62). Raises: Refused."""
        probe = Wish(ASSOCIATE_SERVICE, stream.grant_bytes, (host,), wish.integrity, wish.transport)
        return self._open(probe, stream.grant, b"", ())
