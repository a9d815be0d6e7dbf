"""A router: admits circuits, forwards frames between links, cuts what is void (docs/protocol/link.md, L-20 to L-34).

It opens and reseals headers and never sees payload. It is a node, too: its own `_control` circuit runs over its links.
"""

import asyncio
import contextlib
import itertools
from collections.abc import Iterable

from overlay import limits
from overlay.aio.link_driver import LinkDriver, LinkOwner
from overlay.aio.logs import get_logger
from overlay.aio.node import NodeAgent
from overlay.aio.world import World
from overlay.audit.event import EventName, Outcome, security_event
from overlay.control.messages import Assignments
from overlay.errors import SECURITY_CODES, Code, DecodeError, ProtocolError, TrustError
from overlay.fabric.authority import Authority, FabricMap
from overlay.identity.certificate import Role
from overlay.link.opening import Opened
from overlay.policy.grant import Grant
from overlay.wire.bodies import CONTROL_SERVICE, EXPRESS, Attach, LinkControl, Publish, Refusal
from overlay.wire.codec import encode
from overlay.wire.header import Flag, Header, Kind
from router.admission import Admission, Denied, Request, Source, read_request
from router.fabric import Fabric
from router.forwarding import Circuit, Hop
from router.links import Links
from router.passing import DATA, Passing

NEWCOMERS = 32
"""Links of newcomers at the same time."""
_CREDIT_SIZE = 32
_TICK = 0.1
_FABRIC_TURNS = 20
_DRAIN_SECONDS = 1.0

_LAST = frozenset({Kind.RESET, Kind.REFUSE})

_log = get_logger("router")


class Router(Passing):
    """Owner of all links, and the hooks of its node agent."""

    def __init__(self, world: World, agent: NodeAgent, endpoint: LinkOwner, version: str) -> None:
        super().__init__()
        self.links: Links[LinkDriver] = Links()
        self.fabric: Fabric | None = None
        self._world = world
        self._agent = agent
        self._endpoint = endpoint
        self._version = version
        self._admission: Admission | None = None
        self._news_from: LinkDriver | None = None
        self._next_withdrawal: int | None = None
        self._draining = False
        self._empty = asyncio.Event()

    # --- LinkOwner ----------------------------------------------------------------------------------

    def link_up(self, link: LinkDriver) -> None:
        """A link is up. One for bulk carries circuits and nothing else (L-08)."""
        self.links.add(link)
        self._hops[link] = self.table.hops(link)
        self.may_splice(link)
        if link.peer is None:
            return
        if self._is_own(link):
            self._endpoint.link_up(link)
        elif self._agent.name:
            self._record_link(EventName.LINK_UP, link, _lane_text(link))
        if not link.newcomer and link.lane == EXPRESS:
            self._need_fabric().link_up(link)

    def link_down(self, link: LinkDriver, code: Code, reason: str) -> None:
        """A link is gone: its circuits have lost their path."""
        self.links.discard(link)
        for hop in self.table.of_link(link):
            self.table.remove(hop.circuit)
            hop.other.link.reset(
                hop.other.number, Code.PATH_LOST, f"the link to {link.name} is gone"
            )
        self.table.forget_link(link)
        del self._hops[link]
        self._queues.forget(link)
        if self._is_own(link):
            self._endpoint.link_down(link, code, reason)
        elif link.peer is not None:
            self._record_link(EventName.LINK_DOWN, link, reason)
        if link.found and code in SECURITY_CODES:
            self._record_security(link, code, reason)
        if self.fabric is not None and not link.newcomer and link.lane == EXPRESS:
            self.fabric.link_down(link)

    def frame(self, link: LinkDriver, header: Header, payload: memoryview) -> None:
        """A frame of a circuit."""
        hop = self._hops[link].get(header.circuit)
        if hop is None:
            self._frame_of_no_circuit(link, header, payload)
            return
        kind = header.kind
        if kind is DATA:
            self.pass_data(hop.other, header, payload)
            return
        if kind is Kind.DATAGRAM:
            self.pass_datagram(hop.other, header, payload)
            return
        other = hop.other
        if kind in _LAST:
            self.table.remove(hop.circuit)
            if self._draining and not len(self.table):
                self._empty.set()
        elif (
            kind is Kind.CREDIT and header.flags & Flag.GRANT and not self._pass_grant(hop, payload)
        ):
            return
        other.link.send(kind, other.number, payload, flags=header.flags, sequence=header.sequence)
        self.frames += 1

    def control(self, link: LinkDriver, body: LinkControl) -> None:
        """Attachments and publications."""
        if isinstance(body, Attach):
            self._need_fabric().attach(link, body)
            return
        self._news_from = link
        try:
            news = self._agent.link_control(link, body)
            if isinstance(body, Publish) and news:
                self._need_fabric().publish(news, link)
        finally:
            self._news_from = None

    def room(self, link: LinkDriver, circuit: int) -> None:
        """A circuit of this router's own may send again."""
        if circuit not in self._hops[link]:
            self._endpoint.room(link, circuit)

    # --- circuits -----------------------------------------------------------------------------------

    def _frame_of_no_circuit(self, link: LinkDriver, header: Header, payload: memoryview) -> None:
        if bool(header.circuit & 1) is link.dialer:  # this router's own endpoint opened it
            self._endpoint.frame(link, header, payload)
        elif header.kind is Kind.OPEN or header.kind is Kind.RESUME:
            self._open(link, header, payload)

    def _open(self, link: LinkDriver, header: Header, payload: memoryview) -> None:
        """Admit a circuit, or say why not.

        Raises:
            ProtocolError: the other side may not send this (L-33).
        """
        try:
            request = read_request(header.kind, payload)
        except DecodeError as error:
            raise ProtocolError(str(error)) from None
        unready = self._unready(request)
        if unready is not None:
            self._refuse(link, header, request, unready)
            return
        self._need_fabric()
        assert self._admission is not None  # noqa: S101 - made together with the fabric
        source = Source(link.name, link.peer, self.table.calls(link))
        now, trust_now = self._agent.plant_now(), self._agent.certificate_now()
        local = self.links.roles(link.lane)
        verdict = self._admission.judge(request, source, local, now, trust_now)
        if isinstance(verdict, Denied):
            self._refuse(link, header, request, verdict)
            return
        out = self.links.lane(link.lane).get(verdict.route[0])  # L-09: no other lane will do
        if out is None or out is link:
            where = "here" if link.lane == EXPRESS else f"here on lane {link.lane}"
            gone = Denied(
                Code.NO_ROUTE, f"{verdict.route[0]} is not attached {where}", verdict.grant
            )
            self._refuse(link, header, request, gone)
            return
        number = out.next_circuit()
        payload_out = request.passed_on(verdict.route, verdict.path)
        self.table.add(
            request.intent.circuit, verdict.grant, verdict.route[-1],
            (link, header.circuit), (out, number),
        )  # fmt: skip
        out.send(header.kind, number, payload_out, sequence=header.sequence)
        self.counts["admitted"] += 1

    def _unready(self, request: Request) -> Denied | None:
        """Why nothing is admitted now, whoever asks."""
        if self._draining:
            return Denied(Code.GOING_AWAY, "this router is going away")
        if not self._agent.name:
            return Denied(Code.NO_ROUTE, "this router is not enrolled")
        if request.intent.service != CONTROL_SERVICE and not self._agent.room():
            return Denied(Code.BUSY, "this router's audit spool is full")  # U-09
        return None

    def _refuse(self, link: LinkDriver, header: Header, request: Request, denied: Denied) -> None:
        link.send(
            Kind.REFUSE,
            header.circuit,
            encode(Refusal(denied.code, denied.reason[: limits.MAX_REASON])),
        )
        self.counts[f"refused_{denied.code.name.lower()}"] += 1
        intent, grant = request.intent, denied.grant
        if denied.code in {Code.GOING_AWAY, Code.BUSY} or not self._agent.name:
            return
        event = EventName.SECURITY_REFUSED if denied.security else EventName.CIRCUIT_OPEN
        path = request.body.path
        self._agent.record(
            event,
            Outcome.DENIED,
            who=grant.who if grant is not None else (path[0] if path else link.name),
            via=path[0] if path else link.name,
            asset=grant.asset if grant is not None else "",
            service=intent.service,
            conduit=grant.conduit if grant is not None else "",
            circuit=intent.circuit.hex(),
            reason=denied.reason[: limits.MAX_REASON],
        )

    def _pass_grant(self, hop: Hop[LinkDriver], payload: memoryview) -> bool:
        """A refreshed grant on its way from caller to host (G-03); False: the circuit was cut."""
        circuit = hop.circuit
        if circuit.grant is None or hop is not circuit.caller or self._admission is None:
            self._fault(hop, Code.PROTOCOL, "a grant where none belongs")
            return False
        now, trust_now = self._agent.plant_now(), self._agent.certificate_now()
        data = bytes(payload[_CREDIT_SIZE:])
        grant = self._admission.refresh(circuit.grant, data, circuit.host_name, now, trust_now)
        if isinstance(grant, Denied):
            if grant.code in SECURITY_CODES:
                self._fault(hop, grant.code, grant.reason)
            else:
                self._cut(circuit, grant.code, grant.reason)
            return False
        self.table.refresh(circuit, grant)
        return True

    def _cut(self, circuit: Circuit[LinkDriver], code: Code, reason: str) -> None:
        self.table.remove(circuit)
        for hop in (circuit.caller, circuit.host):
            hop.link.reset(hop.number, code, reason, discard=True)
        self.counts["cut"] += 1

    def _fault(self, hop: Hop[LinkDriver], code: Code, reason: str) -> None:
        """Cut a circuit for what came in on this hop."""
        self._cut(hop.circuit, code, reason)
        self._record_security(hop.link, code, reason, hop.circuit.grant)

    # --- hooks of the agent ---------------------------------------------------------------------------

    def authority_changed(self, authority: Authority) -> None:
        """Cut what is void now, and tell everybody (A-01, A-04)."""
        state = self._agent.state.authority
        for link in self.links:
            if link.peer is not None and state.revoked(link.peer):
                self._need_fabric().attachments.forget(link.name)
                if state.held is not None and link.lane == EXPRESS:
                    # A node believes only what a controller signed.
                    link.send_control(Publish(state.held.signed))
                link.goodbye(Code.REVOKED, f"{link.name} is revoked")
        self._cut_void()
        if state.held is not None and self._news_from is None and self.fabric is not None:
            self.fabric.publish([state.held.signed], None)

    def map_changed(self, fabric: FabricMap) -> None:
        """Dial whom the map says."""
        self._need_fabric().map_changed(fabric, self)
        held = self._agent.state.fabric.held
        if held is not None and self._news_from is None:
            self._need_fabric().publish([held.signed], None)

    def assigned(self, assignments: Assignments) -> None:
        """A router has neither listeners nor hosted services."""

    def granted(self, put: list[tuple[Grant, bytes]], gone: list[Grant]) -> None:
        """A router dials nothing under grants."""

    def live(self) -> Iterable[tuple[bytes, int, int]]:
        """A router hosts nothing."""
        return ()

    def refuse_link(self, opened: Opened) -> tuple[Code, str] | None:
        """For the listener: what speaks against an authenticated peer."""
        if self._draining:
            return Code.GOING_AWAY, "this router is going away"
        if opened.peer is not None and self._agent.name:
            try:
                self._agent.holdings.admit(opened.peer)
            except TrustError as error:
                who, reason = (
                    opened.peer.identity.name,
                    f"a link was refused: {error}"[: limits.MAX_REASON],
                )
                event = EventName.SECURITY_REFUSED
                self._agent.record(event, Outcome.DENIED, who=who, reason=reason)
                return Code.REVOKED, str(error)
        if opened.newcomer and self.links.newcomers() >= NEWCOMERS:
            return Code.BUSY, "too many newcomers at once"
        return None

    def handshake_failed(self, source: tuple[str, int], error: Exception) -> None:
        """For the listener: somebody could not show who it is."""
        self.counts["handshakes_failed"] += 1
        if isinstance(error, TrustError) and self._agent.name:
            reason = f"a handshake failed: {error}"[: limits.MAX_REASON]
            self._agent.record(
                EventName.SECURITY_REFUSED, Outcome.DENIED, address=source[0], reason=reason
            )

    # --- time and end ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Cut circuits whose grants end, keep the fabric fresh, for ever."""
        for turn in itertools.count():
            await asyncio.sleep(_TICK)
            if self.fabric is not None and turn % _FABRIC_TURNS == 0:
                self.fabric.tick()
            now = self._agent.plant_now()
            for circuit in self.table.ended(now):
                self._cut(circuit, Code.EXPIRED, "the grant has ended")
            if self._next_withdrawal is not None and now >= self._next_withdrawal:
                self._cut_void()

    async def drain(self) -> None:
        """Say goodbye to all, give circuits a moment to move, then close the links."""
        self._draining = True
        if self.fabric is not None:
            await self.fabric.close()
        for link in self.links:
            link.goodbye(Code.GOING_AWAY, "this router is going away")
        if len(self.table):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_DRAIN_SECONDS):
                    await self._empty.wait()
        links = list(self.links)
        for link in links:
            link.goodbye(Code.PATH_LOST, "this router has stopped")
        await asyncio.sleep(0)  # the last frames leave
        for link in links:
            link.close()
        self._pipes.close()

    def _cut_void(self) -> None:
        state = self._agent.state.authority
        now = self._agent.plant_now()
        self._next_withdrawal = state.next_withdrawal(now)
        for circuit in self.table:
            if circuit.grant is not None:
                objection = state.blocks(
                    circuit.grant, now, circuit=circuit.id, host=circuit.host_name
                )
                if objection is not None:
                    self._cut(circuit, *objection)

    def _need_fabric(self) -> Fabric:
        if self.fabric is None:
            self.fabric = Fabric(
                self._world, self._agent, self._version, lambda: self.links.express
            )
            self._admission = Admission(
                self._agent.name,
                self._agent.signers,
                self._agent.state.authority,
                self.fabric.attachments,
                self.fabric.topology,
            )
        return self.fabric

    @staticmethod
    def _is_own(link: LinkDriver) -> bool:
        """This router's own circuits may run over it; with an edge it has none, and bulk begins nothing."""
        return (
            link.peer is not None
            and link.peer.identity.role is not Role.EDGE
            and link.lane == EXPRESS
        )

    def _record_link(self, event: EventName, link: LinkDriver, reason: str) -> None:
        who, address = link.name, link.remote[0]
        self._agent.record(event, Outcome.DONE, who=who, address=address, reason=reason)

    def _record_security(
        self, link: LinkDriver, code: Code, reason: str, grant: Grant | None = None
    ) -> None:
        self.counts["tampered" if code is Code.TAMPER else "misbehaved"] += 1
        _log.warning("link.fault", link=repr(link), code=code.name, reason=reason)
        self._agent.record(
            *security_event(code),
            who=link.name if grant is None else grant.who,
            via=link.name,
            address=link.remote[0],
            reason=reason[: limits.MAX_REASON],
        )


def _lane_text(link: LinkDriver) -> str:
    return link.mode if link.lane == EXPRESS else f"{link.mode}, lane {link.lane}"
