"""The hosting side of a node's circuits: OPEN that comes in (C-01 to C-17, G-01)."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from overlay import limits
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.host_paths import HostPaths
from overlay.aio.incoming import Arriving, Candidate, Declined, Incoming, WaitingAccepts
from overlay.aio.node_circuits import NodeCircuits
from overlay.circuit.association import Answer, HostAssociation, HostAssociations
from overlay.circuit.circuit import Circuit
from overlay.circuit.host import (
    HOST_RANDOM,
    HostHandshake,
    check_caller,
    check_late,
    digest_of,
    open_from,
)
from overlay.errors import Code, DecodeError, FerruleError, ProtocolError, TamperError, TrustError
from overlay.identity.certificate import Role
from overlay.ordered import OrderedSet
from overlay.policy.grant import Grant
from overlay.wire.bodies import (
    ASSOCIATE_SERVICE,
    CONTROL_SERVICE,
    RIDERS,
    Open,
    OpenIntent,
)
from overlay.wire.codec import decode
from overlay.wire.header import Header, Kind

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver

HOSTED_CIRCUITS = limits.CIRCUITS_PER_LINK
"""Circuits that one node hosts at once."""
UNANSWERED = limits.OPENS_PENDING_PER_LINK
"""Circuits that wait for the program's answer at once."""
HANDSHAKES = limits.ASSOCIATIONS_PER_EDGE
"""Handshakes that go on at once, for whatever grants: more would drive out each other's associations."""
CONTROL_HANDSHAKES = 64
"""Handshakes for `_control`, which has no grant to count by, at once."""


class Hosting:
    """All of it for one node.

    Args:
        node: whose circuits they are.
        asked: gets each circuit that asks, once grant and certificate hold; False: the program hosts nothing.
        declined: gets those that were refused before that.
        elsewhere: whether another host should be asked first (C-18).
    """

    def __init__(
        self,
        node: NodeCircuits,
        asked: Callable[[Incoming], bool],
        declined: Callable[[Declined], None],
        elsewhere: Callable[[Grant], bool],
    ) -> None:
        self.associations = HostAssociations()
        self.paths = HostPaths(node)
        self._node = node
        self._asked = asked
        self._declined = declined
        self._elsewhere = elsewhere
        self._loop = asyncio.get_running_loop()
        self._handshakes: dict[bytes, Arriving] = {}
        self._by_key: dict[tuple[bytes, LinkDriver | None], OrderedSet[Arriving]] = {}
        self._unanswered: set[bytes] = set()
        self._waiting = WaitingAccepts()

    # --- OPEN ---------------------------------------------------------------------------------------

    def opened(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """An OPEN on a hop that is new."""
        number = header.circuit
        intent, body = None, None
        try:
            body = decode(Open, payload)
            intent = decode(OpenIntent, body.intent)
            self._open(link, number, body, intent)
        except (DecodeError, TamperError, TrustError, ProtocolError) as error:
            code = error.code if isinstance(error, ProtocolError) else Code.NOT_TRUSTED
            if isinstance(error, TamperError):
                code = Code.TAMPER
            elif isinstance(error, DecodeError):
                code = Code.PROTOCOL
            self._decline(link, number, body, intent, None, code, str(error))

    def _open(self, link: "LinkDriver", number: int, body: Open, intent: OpenIntent) -> None:
        node, now = self._node, self._loop.time()
        own = node.name
        if intent.host and intent.host != own:
            raise TrustError(f"the circuit is for {intent.host}, not for {own}")
        if intent.service == CONTROL_SERVICE:
            grant = None
            if node.role is not Role.CONTROLLER or intent.grant:
                raise ProtocolError(
                    "only a controller hosts the control service, and without a grant",
                    Code.NO_GRANT,
                )
        else:
            grant = node.verified(intent.grant)
        digest = digest_of(body)
        pending = self._handshakes.get(intent.association)
        if pending is not None:
            if pending.handshake.digest != digest:
                raise TamperError("another OPEN came for a handshake that is going on")
            self._reply(pending, link, number)
            return
        association = self.associations.find(intent.association, now)
        if association is None and not body.flight:
            self._node.turn_away(link, number, Code.UNKNOWN_ASSOCIATION, "no such association")
            return
        if association is not None and self._used(association, link, number, body, intent, digest):
            return
        objection = self.objection(grant, intent)
        if objection is None:
            objection = self._overload()
        if objection is None and self.paths.known(intent.circuit) is not None:
            objection = Code.PROTOCOL, "a circuit of this name is there already"
        if objection is not None:
            self._decline(link, number, body, intent, grant, *objection)
        elif association is not None and self._better_elsewhere(grant, intent):
            # No attempt is over by this: the caller asks anew, and its router chooses (F-12).
            node.turn_away(link, number, Code.NO_ROUTE, "the asset does not answer here")
        elif association is None:
            self._shake_hands(link, number, body, intent, grant)
        else:
            self._later(link, number, body, intent, grant, association)

    def _used(
        self,
        association: HostAssociation,
        link: "LinkDriver",
        number: int,
        body: Open,
        intent: OpenIntent,
        digest: bytes,
    ) -> bool:
        """An OPEN whose number was used before, or may have been (C-15): it executes nothing."""
        answer = association.judge(intent.number, digest)
        if answer is Answer.REPLAYED:
            raise ProtocolError("an OPEN with a used number was changed")
        if answer is Answer.REPEATED:
            accept = association.accept_of(intent.number)
            self._node.bind(link, number, Candidate(self, self.paths.known(intent.circuit)))
            link.send(Kind.ACCEPT, number, accept)
        elif answer is Answer.LATE:
            check_late(association, body, intent)
            self.free(link, number)
            self.came_late()
        return answer is not Answer.NEW

    def _better_elsewhere(self, grant: Grant | None, intent: OpenIntent) -> bool:
        """C-18: only where an association bound the caller to this host, and others may host it."""
        if grant is None or len(grant.hosts) < 2 or intent.service == ASSOCIATE_SERVICE:
            return False
        return self._elsewhere(grant)

    def _overload(self) -> tuple[Code, str] | None:
        """Why nothing new is taken now, whoever asks; what runs goes on."""
        if self._node.hosted >= HOSTED_CIRCUITS:
            return Code.BUSY, "this node hosts as many circuits as it may"
        if self._node.memory.full:
            return Code.BUSY, "this node holds too much that its programs do not read"
        if len(self._unanswered) >= UNANSWERED:
            return Code.BUSY, "too many circuits wait for their assets"
        return None

    def objection(
        self, grant: Grant | None, asks: OpenIntent | CircuitStream
    ) -> tuple[Code, str] | None:
        """G-01, C-09: what the grant itself says, before anything is spent, and again before anything is delivered."""
        if grant is None:
            return None
        service, transport = asks.service, asks.transport
        if service in RIDERS:
            service, transport = grant.service, grant.transport
        return self._node.check(
            grant,
            key_id=grant.caller_key,
            via=grant.via,
            service=service,
            transport=transport,
            integrity=asks.integrity,
            circuit=asks.circuit if isinstance(asks, OpenIntent) else asks.circuit_id,
            host=self._node.name,
        )

    def _shake_hands(
        self, link: "LinkDriver", number: int, body: Open, intent: OpenIntent, grant: Grant | None
    ) -> None:
        key = (CONTROL_SERVICE.encode(), None) if grant is None else (grant.id, link)
        at_once = CONTROL_HANDSHAKES if grant is None else 1
        if not self._has_place(key, at_once):
            self._node.turn_away(link, number, Code.BUSY, "a handshake for this grant is going on")
            return
        if len(self._handshakes) >= HANDSHAKES:
            self._node.turn_away(link, number, Code.BUSY, "too many handshakes are going on")
            return
        handshake = HostHandshake(
            self._node.credentials(),
            body,
            intent,
            grant,
            self._node.random(HOST_RANDOM),
            plant_now=self._node.certificate_now(),
            admit=self._node.admit_peer,
            newcomers=grant is None,
        )
        arriving = Arriving(self, handshake, key, body.path)
        self._handshakes[intent.association] = arriving
        self._by_key.setdefault(key, OrderedSet()).add(arriving)
        self._reply(arriving, link, number)

    def _has_place(self, key: "tuple[bytes, LinkDriver | None]", at_once: int) -> bool:
        """C-05. A handshake whose last hop was given up keeps its place only until another one wants it."""
        others = self._by_key.get(key, OrderedSet())
        if len(others) >= at_once:
            given_up = next((one for one in others if not one.hops), None)
            if given_up is None:
                return False
            self._over(given_up, None)
        return True

    def _reply(self, arriving: Arriving, link: "LinkDriver", number: int) -> None:
        arriving.hops.add((link, number))
        self._node.bind(link, number, arriving)
        link.send(Kind.ACCEPT, number, arriving.handshake.accept)

    def _later(
        self,
        link: "LinkDriver",
        number: int,
        body: Open,
        intent: OpenIntent,
        grant: Grant | None,
        association: HostAssociation,
    ) -> None:
        """A later circuit of a living association."""
        node = self._node
        leaf = association.caller
        if leaf is None:
            raise TrustError("the association of a newcomer carries one circuit")
        check_caller(grant, leaf, intent.service, newcomers=False)
        node.admit(leaf)
        core, early = open_from(association, body, intent, node.random(HOST_RANDOM))
        stream = self._stream(core, intent, grant, association, body.path)
        stream.place(link, number)
        if early:
            self._waiting.add(stream)
            stream.deliver(early)
        else:
            stream.accept_now()
        self._ask(stream, intent, association)

    # --- the handshake's end ------------------------------------------------------------------------

    def complete(
        self, arriving: Arriving, link: "LinkDriver", header: Header, payload: memoryview
    ) -> None:
        """The caller's last flight, or what pretends to be it."""
        handshake = arriving.handshake
        intent, grant = handshake.intent, handshake.grant
        try:
            core, association, events = handshake.complete(header, payload, self._loop.time())
        except FerruleError as error:
            code = error.code if isinstance(error, ProtocolError) else Code.NOT_TRUSTED
            self._over(arriving, (link, header.circuit))
            self.refuse(link, header.circuit, code, str(error), intent, grant, arriving.path)
            return
        arriving.hops.discard((link, header.circuit))
        self._over(arriving, None)
        self.associations.add(association)
        stream = self._stream(core, intent, grant, association, arriving.path)
        tls = handshake.tls
        stream.export = lambda label: tls.export(label, b"", 32)
        stream.place(link, header.circuit)
        stream.go(events)
        objection = self.objection(grant, intent)
        if objection is not None:
            # It came while hands were shaken, when there was no circuit yet that it could cut.
            stream.abort(*objection)
            self._report(intent, grant, arriving.path, *objection)
            return
        self._ask(stream, intent, association)

    def close(self) -> None:
        """No circuit comes of the handshakes that go on."""
        for arriving in [*self._handshakes.values()]:
            self._over(arriving, None)

    def too_slow(self, arriving: Arriving) -> None:
        """C-05: three seconds are over."""
        self._over(arriving, None)

    def _over(self, arriving: Arriving, but: "tuple[LinkDriver, int] | None") -> None:
        arriving.timer.cancel()
        self._handshakes.pop(arriving.handshake.intent.association, None)
        others = self._by_key.get(arriving.key, OrderedSet())
        others.discard(arriving)
        if not others:
            self._by_key.pop(arriving.key, None)
        for link, number in arriving.hops:
            if (link, number) != but:
                self._node.free(link, number)

    def _stream(
        self,
        core: Circuit,
        intent: OpenIntent,
        grant: Grant | None,
        association: HostAssociation,
        path: tuple[str, ...],
    ) -> CircuitStream:
        stream = CircuitStream(
            self._node,
            circuit_id=intent.circuit,
            hosting=True,
            service=intent.service,
            integrity=intent.integrity,
            transport=intent.transport,
            grant=grant,
            grant_bytes=intent.grant,
        )
        stream.path = (*path, self._node.name)
        stream.key_exchange = association.key_exchange
        stream.attach(core, association.caller)
        self._node.add(stream)
        return stream

    def _ask(self, stream: CircuitStream, intent: OpenIntent, association: HostAssociation) -> None:
        """The program decides."""
        core = stream.core
        if stream.closed.done() or core is None:
            return
        if self._node.too_many_of(stream):
            stream.abort(Code.BUSY, "this caller has as many circuits here as it may")
            return
        if stream.service == ASSOCIATE_SERVICE:
            core.ready(self._node.boot)
            stream.opened_now()
            return
        self._unanswered.add(stream.circuit_id)
        incoming = Incoming(
            self._node, self, stream, intent.port, intent.address, association.caller_public
        )
        if not self._asked(incoming):
            incoming.refuse(Code.NO_GRANT, "this node hosts nothing")

    def answered(self, circuit_id: bytes) -> None:
        """The program has decided, or the caller is gone."""
        self._unanswered.discard(circuit_id)

    # --- refusing -----------------------------------------------------------------------------------

    def unbind(self, link: "LinkDriver", number: int) -> None:
        """The hop is gone."""
        self._node.unbind(link, number)

    def free(self, link: "LinkDriver", number: int) -> None:
        """The hop is of no use."""
        self._node.free(link, number)

    def came_late(self) -> None:
        """That was a path which the caller has given up since."""
        self._node.came_late()

    def refuse(
        self,
        link: "LinkDriver",
        number: int,
        code: Code,
        reason: str,
        intent: OpenIntent | None = None,
        grant: Grant | None = None,
        path: tuple[str, ...] = (),
    ) -> None:
        """REFUSE in clear, and a security event."""
        self._node.turn_away(link, number, code, reason)
        self._node.security(code, reason, None)
        self._report(intent, grant, path, code, reason)

    def _decline(
        self,
        link: "LinkDriver",
        number: int,
        body: Open | None,
        intent: OpenIntent | None,
        grant: Grant | None,
        code: Code,
        reason: str,
    ) -> None:
        self._node.turn_away(link, number, code, reason)
        if code in (Code.TAMPER, Code.PROTOCOL, Code.NOT_TRUSTED, Code.BAD_GRANT):
            self._node.security(code, reason, None)
        self._report(intent, grant, () if body is None else body.path, code, reason)

    def _report(
        self,
        intent: OpenIntent | None,
        grant: Grant | None,
        path: tuple[str, ...],
        code: Code,
        reason: str,
    ) -> None:
        if intent is not None:
            via = grant.via if grant is not None else path[0] if path else ""
            self._declined(Declined(intent.circuit, intent.service, grant, via, path, code, reason))
