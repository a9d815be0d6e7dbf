"""The part of a router that runs in one event loop: its links, and the circuits that pass from one to another.

It admits, forwards and cuts (docs/protocol/link.md, L-20 to L-34), opens and reseals headers and never sees payload.
The first process of a router has one for express, each worker has one for its lane; what a router is besides is in
`router.router` and `router.worker`.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from overlay import limits
from overlay.aio.appointment import Appointment
from overlay.aio.link_driver import LinkDriver
from overlay.aio.logs import get_logger
from overlay.aio.pipes import Pipes
from overlay.audit.event import EventName, Outcome, security_event
from overlay.errors import NO_DECISION, SECURITY_CODES, Code, DecodeError, ProtocolError, TrustError
from overlay.fabric.state import AuthorityState
from overlay.identity.certificate import Role
from overlay.link.opening import Opened
from overlay.policy.grant import Grant
from overlay.wire.bodies import CONTROL_SERVICE, EXPRESS, LinkControl, Publish, Refusal
from overlay.wire.codec import encode
from overlay.wire.header import Flag, Header, Kind
from router.admission import Admission, Denied, Request, Source, read_request
from router.forwarding import Circuit, Hop
from router.links import Links
from router.passing import DATA, Passing
from router.shedding import Queues

NEWCOMERS = 32
"""Links of newcomers at the same time."""
TICK = 1.0
"""Seconds between two looks at what changes without anybody saying so; what ends at a known time does not wait."""
LEAVE_SECONDS = 1.5
"""For circuits to move before the links close."""
_LOOK = 0.02
_SPREAD = 1_000_000
"""In so many µs a map is everywhere, and nobody goes by way of a router that drains if there is another."""
_CREDIT_SIZE = 32

_LAST = frozenset({Kind.RESET, Kind.REFUSE})
_GRANT, _LAST_FLAG = int(Flag.GRANT), int(Flag.LAST)  # arithmetic with enumerations is slow

_log = get_logger("router")


class Node(Protocol):
    """What a switch asks of the node that it is part of."""

    @property
    def name(self) -> str:
        """Empty before it is enrolled."""
        ...

    def plant_now(self) -> int:
        """Plant time, microseconds (A-20)."""
        ...

    def certificate_now(self) -> int:
        """The time for certificates of others (A-20)."""
        ...

    def room(self) -> bool:
        """The spool takes events of new circuits (U-09)."""
        ...

    def record(self, event: EventName, outcome: Outcome, **fields: str | int) -> None:
        """Put an event in the spool."""
        ...


class Switch(Passing):
    """Owner of the links of some lanes. `authority` gives what is in force, once the plant is known."""

    def __init__(
        self,
        node: Node,
        authority: Callable[[], AuthorityState],
        queues: Queues | None = None,
        pipes: Pipes | None = None,
    ) -> None:
        super().__init__(
            Queues() if queues is None else queues, Pipes() if pipes is None else pipes
        )
        self.links: Links[LinkDriver] = Links()
        self.admission: Admission | None = None
        """None until this router knows its name."""
        self.leaving = False
        """This router stops."""
        self.drained = False
        """The map says that it drains (L-37)."""
        self._node = node
        self._authority = authority
        self._next_withdrawal: int | None = None
        self._away_at: int | None = None
        self._soon = Appointment(self.tick)

    # --- LinkOwner ----------------------------------------------------------------------------------

    def link_up(self, link: LinkDriver) -> None:
        """A link is up."""
        self.links.add(link)
        self._hops[link] = self.table.hops(link)
        self.may_splice(link)
        if not self._told_by_endpoint(link) and link.peer is not None and self._node.name:
            self._record_link(EventName.LINK_UP, link, link.mode_and_lane)

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
        if not self._told_by_endpoint(link) and link.peer is not None:
            self._record_link(EventName.LINK_DOWN, link, reason)
        if link.found and code in SECURITY_CODES:
            self._record_security(link, code, reason)

    def health(self, link: LinkDriver) -> None:
        """Another router does not answer: what passes there has lost its path, and resumes elsewhere (L-35). One that
        goes away sends its circuits away itself."""
        if link.sound or link.going_away:
            return
        self.counts["suspected"] += 1
        for hop in self.table.of_link(link):
            self._move(hop.circuit, Code.PATH_LOST, f"{link.name} does not answer")

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
        flags = header.flags
        if kind in _LAST:
            self.table.remove(hop.circuit)
        elif kind is Kind.CREDIT and flags & _GRANT and not self._pass_grant(hop, payload):
            return
        other.link.send(kind, other.number, payload, flags=flags, sequence=header.sequence)
        self.frames += 1
        if flags & _LAST_FLAG:
            self.table.last_came(hop)

    def control(self, link: LinkDriver, body: LinkControl) -> None:
        """Nothing is published to a part of a router: the links of bulk lanes refuse it before (L-08)."""

    def room(self, link: LinkDriver, circuit: int) -> None:
        """Frames that pass wait for nobody."""

    def _told_by_endpoint(self, link: LinkDriver) -> bool:
        """Somebody else records that the link came and went."""
        return False

    # --- circuits -----------------------------------------------------------------------------------

    def _frame_of_no_circuit(self, link: LinkDriver, header: Header, payload: memoryview) -> None:
        if header.kind is Kind.OPEN or header.kind is Kind.RESUME:
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
        if unready is not None or self.admission is None:
            self._refuse(link, header, request, unready or _NOT_ENROLLED)
            return
        source = Source(link.name, link.peer, self.table.calls(link))
        now, trust_now = self._node.plant_now(), self._node.certificate_now()
        local = self.links.roles(link.lane)
        verdict = self.admission.judge(request, source, local, now, trust_now)
        if isinstance(verdict, Denied):
            self._refuse(link, header, request, verdict)
            return
        out = self.links.lane(link.lane).get(verdict.route[0])  # L-09: no other lane will do
        if out is None or out is link:
            where = "here" if link.lane == EXPRESS else f"here on lane {link.lane}"
            reason = f"{verdict.route[0]} is not attached {where}"
            self._refuse(link, header, request, Denied(Code.NO_ROUTE, reason, verdict.grant))
            return
        number = out.next_circuit()
        payload_out = request.passed_on(verdict.route, verdict.path)
        self.table.add(
            request.intent.circuit, verdict.grant, verdict.route[-1],
            (link, header.circuit), (out, number),
        )  # fmt: skip
        self._plan(now)
        out.send(header.kind, number, payload_out, sequence=header.sequence)
        self.counts[request.counted_as(verdict.route)] += 1

    def _unready(self, request: Request) -> Denied | None:
        """Why nothing is admitted now, whoever asks."""
        if self.leaving:
            return Denied(Code.GOING_AWAY, _LEAVING)
        if not self._node.name:
            return _NOT_ENROLLED
        if self.drained and request.kind is Kind.OPEN and request.intent.service != CONTROL_SERVICE:
            return Denied(Code.GOING_AWAY, "this router drains")
        if request.intent.service != CONTROL_SERVICE and not self._node.room():
            return Denied(Code.BUSY, "this router's audit spool is full")  # U-09
        return None

    def _refuse(self, link: LinkDriver, header: Header, request: Request, denied: Denied) -> None:
        refusal = Refusal(denied.code, denied.reason[: limits.MAX_REASON])
        link.send(Kind.REFUSE, header.circuit, encode(refusal))
        self.counts[f"refused_{denied.code.name.lower()}"] += 1
        intent, grant = request.intent, denied.grant
        if (denied.code in NO_DECISION and not denied.security) or not self._node.name:
            return  # nobody said no: the caller's edge records it, once for all routers that it asked (U-06)
        event = EventName.SECURITY_REFUSED if denied.security else EventName.CIRCUIT_OPEN
        path = request.body.path
        self._node.record(
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
        if circuit.grant is None or hop is not circuit.caller or self.admission is None:
            self._fault(hop, Code.PROTOCOL, "a grant where none belongs")
            return False
        now, trust_now = self._node.plant_now(), self._node.certificate_now()
        data = bytes(payload[_CREDIT_SIZE:])
        grant = self.admission.refresh(circuit.grant, data, circuit.host_name, now, trust_now)
        if isinstance(grant, Denied):
            if grant.code in SECURITY_CODES:
                self._fault(hop, grant.code, grant.reason)
            else:
                self._cut(circuit, grant.code, grant.reason)
            return False
        self.table.refresh(circuit, grant)
        self._plan(now)
        return True

    def _cut(self, circuit: Circuit[LinkDriver], code: Code, reason: str) -> None:
        self.table.remove(circuit)
        for hop in (circuit.caller, circuit.host):
            hop.link.reset(hop.number, code, reason, discard=True)
        self.counts["cut"] += 1

    def _move(self, circuit: Circuit[LinkDriver], code: Code, reason: str) -> None:
        """Send a circuit away: what waits at its hops still leaves, and its caller resumes on another path."""
        self.table.remove(circuit)
        for hop in (circuit.caller, circuit.host):
            hop.link.reset(hop.number, code, reason)
        self.counts["sent_away"] += 1

    def _fault(self, hop: Hop[LinkDriver], code: Code, reason: str) -> None:
        """Cut a circuit for what came in on this hop."""
        self._cut(hop.circuit, code, reason)
        self._record_security(hop.link, code, reason, hop.circuit.grant)

    # --- what is void -------------------------------------------------------------------------------

    def enforce(self) -> None:
        """A newer authority is in force: end the links of revoked nodes, cut what is void (A-04)."""
        state = self._authority()
        for link in self.links:
            if link.peer is not None and state.revoked(link.peer):
                if state.held is not None and link.lane == EXPRESS:
                    # A node believes only what a controller signed.
                    link.send_control(Publish(state.held.signed))
                link.goodbye(Code.REVOKED, f"{link.name} is revoked")
        self._cut_void()

    def tick(self) -> None:
        """Cut what has come to its end. It comes by itself in time; call it every `TICK`, too, since plant time may be
        corrected."""
        now = self._node.plant_now()
        for circuit in self.table.ended(now):
            self._cut(circuit, Code.EXPIRED, "the grant has ended")
        if self._away_at is not None and now >= self._away_at:
            self._away_at = None
            if self.drained:
                self.send_away()
        if self._next_withdrawal is not None and now >= self._next_withdrawal:
            self._cut_void()
        self._plan(now)

    def _plan(self, now: int) -> None:
        """Tick when the next thing ends, if that is before the next look."""
        moments = (self.table.next_end(), self._away_at, self._next_withdrawal)
        due = min((one for one in moments if one is not None), default=None)
        if due is not None and due - now < TICK * 1_000_000:
            self._soon.within((due - now) / 1e6)

    def _cut_void(self) -> None:
        state = self._authority()
        now = self._node.plant_now()
        self._next_withdrawal = state.next_withdrawal(now)
        for circuit in self.table:
            if circuit.grant is not None:
                objection = state.blocks(
                    circuit.grant, now, circuit=circuit.id, host=circuit.host_name
                )
                if objection is not None:
                    self._cut(circuit, *objection)

    # --- the listener asks ----------------------------------------------------------------------------

    def refuse_link(self, opened: Opened) -> tuple[Code, str] | None:
        """What speaks against an authenticated peer."""
        if self.leaving:
            return Code.GOING_AWAY, _LEAVING
        peer = opened.peer
        if peer is not None and self._node.name and self._authority().revoked(peer):
            error = f"{peer.identity.role.value} {peer.identity.name} is revoked"
            reason = f"a link was refused: {error}"[: limits.MAX_REASON]
            self._node.record(
                EventName.SECURITY_REFUSED, Outcome.DENIED, who=peer.identity.name, reason=reason
            )
            return Code.REVOKED, error
        if opened.newcomer and self.links.newcomers() >= NEWCOMERS:
            return Code.BUSY, "too many newcomers at once"
        return None

    def handshake_failed(self, source: tuple[str, int], error: Exception) -> None:
        """Somebody could not show who it is."""
        self.counts["handshakes_failed"] += 1
        if isinstance(error, TrustError):
            reason = f"a handshake failed: {error}"[: limits.MAX_REASON]
            self._node.record(
                EventName.SECURITY_REFUSED, Outcome.DENIED, address=source[0], reason=reason
            )

    # --- the end --------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Say goodbye to all, give circuits a moment to move, then close the links (L-36)."""
        self.leaving = True
        _log.info("router.leaving", circuits=self.table.of_programs())
        for link in self.links:
            link.goodbye(Code.GOING_AWAY, _LEAVING)
        self.send_away()
        for _ in range(round(LEAVE_SECONDS / _LOOK)):
            if all(link.idle for link in self.links):
                break
            await asyncio.sleep(_LOOK)
        _log.info("router.left", circuits=self.table.of_programs())
        links = list(self.links)
        for link in links:
            link.goodbye(Code.PATH_LOST, "this router has stopped")
        await asyncio.sleep(0)  # the last frames leave
        for link in links:
            link.close()
        self._soon.cancel()
        self._pipes.close()

    def send_away(self) -> None:
        """Circuits that came from other routers are sent to other paths; the callers at its own links move by
        themselves, when they have another link (L-36)."""
        for circuit in self.table:
            peer = circuit.caller.link.peer
            if peer is not None and peer.identity.role is Role.ROUTER:
                self._move(circuit, Code.GOING_AWAY, _LEAVING)

    def drain_by_map(self, drained: bool) -> None:  # noqa: FBT001 - as it is told
        """The map says whether this router drains: nothing new begins here then, and what passes looks for another way
        once; it comes back where there is none (L-37)."""
        if drained and not self.drained:
            self._away_at = self._node.plant_now() + _SPREAD
        self.drained = drained

    def queued_bytes(self) -> int:
        """What waits for links to take it."""
        return sum(link.total_backlog for link in self.links)

    def _record_link(self, event: EventName, link: LinkDriver, reason: str) -> None:
        who, address = link.name, link.remote[0]
        self._node.record(event, Outcome.DONE, who=who, address=address, reason=reason)

    def _record_security(
        self, link: LinkDriver, code: Code, reason: str, grant: Grant | None = None
    ) -> None:
        self.counts["tampered" if code is Code.TAMPER else "misbehaved"] += 1
        _log.warning("link.fault", link=repr(link), code=code.name, reason=reason)
        self._node.record(
            *security_event(code),
            who=link.name if grant is None else grant.who,
            via=link.name,
            address=link.remote[0],
            reason=reason[: limits.MAX_REASON],
        )


_LEAVING = "this router is going away"
_NOT_ENROLLED = Denied(Code.NO_ROUTE, "this router is not enrolled")
