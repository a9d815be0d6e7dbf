"""The caller's side of one circuit over the links of its node: opening it, and getting it back (C-13 to C-17, C-62)."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from overlay import limits
from overlay.aio.caller_paths import CallerPaths
from overlay.aio.caller_table import CallerTable
from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.circuit_roles import Refused, spoken
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.node_circuits import NodeCircuits
from overlay.circuit.association import CallerAssociation
from overlay.circuit.caller import RANDOM_SIZE, CallerOpening, Wish, believed
from overlay.errors import NO_DECISION, Code, FerruleError, ProtocolError, TamperError
from overlay.wire.bodies import ASSOCIATE_SERVICE, CONTROL_SERVICE, EXPRESS, STRICT
from overlay.wire.header import Header, Kind

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver

OPEN_SECONDS = limits.HANDSHAKE_PER_GRANT_SECONDS + limits.DIAL_ASSET_SECONDS + 2.0
"""From the wish to READY, at most."""
ASSET_SECONDS = limits.DIAL_ASSET_SECONDS + 1.0
"""From ACCEPT to READY, likewise."""
BUSY_TRIES = 4
"""After the first, where whoever is asked has too much to do (C-17)."""
FRESH_TRIES = 3
"""Associations of which a refusal in clear says that the host does not know them, until that is believed of all."""


class Outgoing(CallerPaths):
    """Gets one circuit opened, and gets it back when its path is lost.

    Args:
        node: whose circuit it is.
        callers: what it shares with the node's other outgoing circuits.
        associate: opens a circuit to the same host that makes an association and nothing else (C-62); raises Refused.
        stream: the circuit.
        wish: what is wanted.
        early: first bytes of the stream.
        links: try these first.
    """

    def __init__(
        self,
        node: NodeCircuits,
        callers: CallerTable,
        associate: "Associate",
        stream: CircuitStream,
        wish: Wish,
        early: bytes,
        links: tuple["LinkDriver", ...],
    ) -> None:
        super().__init__(node, callers, stream, wish, links)
        self.boot: int | None = None
        self._associate = associate
        self._early = early
        self._association: CallerAssociation | None = None
        self._refusal: tuple[Code, str] | None = None
        self._fresh = 0
        self._busy = 0
        self._deadline: asyncio.TimerHandle | None = self._loop.call_later(
            OPEN_SECONDS, self._too_late
        )
        self._probe: Outgoing | None = None

    # --- opening ----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Open from a living association, or make one; wait while another opening makes it."""
        if self.stream.closed.done():
            return
        credentials = self._node.credentials()
        association = None
        if not self.wish.enrol:
            association = self._callers.find(self.wish.hosts)
        if association is None and not self._callers.may_shake_hands(self):
            return
        # Early data binds the circuit to one host (F-12), so it goes with OPEN only where there is no other.
        fitting = self.wish.integrity != STRICT and len(self.wish.hosts) < 2
        early = b""
        if association is not None and fitting and association.takes_early(self._loop.time()):
            early = self._early
        self._opening = opening = CallerOpening(
            self.wish,
            credentials,
            self.stream.circuit_id + self._node.random(RANDOM_SIZE - 16),
            plant_now=self._node.certificate_now(),
            admit=self._node.admit_peer,
            association=association,
            early=early,
        )
        self.stream.key_exchange = opening.key_exchange
        self._next()

    def frame(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """A frame of the hop on which OPEN was said."""
        kind = header.kind
        if kind is Kind.ACCEPT:
            self._accepted(link, header.circuit, bytes(payload))
        elif kind is Kind.REFUSE:
            self._drop_hop()
            self._refused(link, *spoken(payload))
        elif kind is Kind.RESET:
            self._drop_hop()
            self._lost(link)
        else:
            reason = f"{kind.name} came before ACCEPT"
            self._node.security(Code.PROTOCOL, reason, self.stream)
            self._fail(Code.PROTOCOL, reason)

    def _accepted(self, link: "LinkDriver", number: int, payload: bytes) -> None:
        opening, stream = self._opening, self.stream
        if opening is None:
            return
        if opening.accepted and not opening.same(payload):
            # What was said after the first ACCEPT may have been executed: it is not said to anybody else.
            self._fail(*(self._refusal or (Code.RESTARTED, "the host has begun anew")))
            return
        self._hop = None
        self._tries = 0
        if stream.core is not None:
            self._wait(link, ASSET_SECONDS)
            stream.core.reopened(self._loop.time())
            stream.place(link, number)
            stream.go([])
            return
        try:
            if opening.association is not None:
                # Its host may have been revoked since OPEN was said (C-03).
                self._node.admit(opening.association.peer)
            core, association, events = opening.accept(payload, self._loop.time())
        except FerruleError as error:
            self._hop = (link, number)
            code = error.code if isinstance(error, ProtocolError) else Code.NOT_TRUSTED
            if isinstance(error, TamperError):
                code = Code.TAMPER
            self._node.security(code, str(error), stream)
            self._fail(code, str(error))
            return
        if not core.opened:
            self._wait(link, ASSET_SECONDS)
        self._association = association
        stream.key_exchange = association.key_exchange
        tls = opening.tls
        if tls is not None:
            stream.export = lambda label: tls.export(label, b"", 32)
        stream.attach(core, association.peer)
        stream.place(link, number)
        late = self._early if not opening.early else b""
        self._early = b""
        if late:
            core.send(late, self._loop.time())
        stream.go(events)

    def _refused(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """A refusal in clear: before ACCEPT a failure to open, after it a lost path (C-14)."""
        opening, stream = self._opening, self.stream
        code = believed(code)
        self._refusal = (code, reason)
        stream.turned_away = reason if code in NO_DECISION else ""
        if code is not Code.BUSY:
            self._callers.refused(link, self.wish.service)
        if opening is None or opening.accepted:
            self._lost(link)
            return
        if code is Code.UNKNOWN_ASSOCIATION and opening.association is not None:
            self._callers.drop(opening.association)
            self._fresh += 1
            if opening.early:
                self._fail(Code.RESTARTED, "the host restarted, and data may have been delivered")
            elif self._fresh < FRESH_TRIES:
                self._release()
                self.begin()
            else:
                self._fail(code, reason)
        elif code is Code.BUSY and self._busy < BUSY_TRIES:
            self._busy += 1
            self._tries += 1  # at once would meet the same crowd
            self._led_nowhere(link)
        elif code in (Code.NO_ROUTE, Code.GOING_AWAY):
            self._refused_by.add(link)
            if self._choose() is not None:
                self._next()
            elif not self._elsewhere(opening):
                self._fail(code, reason or "no permitted host is reachable")
        else:
            self._fail(code, reason)
        if stream.closed.done():
            self._cancel()

    def _elsewhere(self, opening: CallerOpening) -> bool:
        """Begin anew with another permitted host (F-12); False without one, and when data may have arrived (C-16)."""
        if opening.association is None or opening.early or len(self.wish.hosts) < 2:
            return False
        self._callers.drop(opening.association)
        self._refused_by.clear()
        self._tried.clear()
        self._release()
        self.begin()
        return True

    def _fail(self, code: Code, reason: str) -> None:
        self._drop_hop()
        if self.stream.core is None or code not in (Code.TAMPER, Code.PROTOCOL):
            self.stream.give_up(code, reason)
        else:
            self.stream.abort(code, reason)

    def _too_late(self) -> None:
        self._deadline = None
        if not self.stream.is_open:
            self._fail(Code.UNREACHABLE, f"nobody answered within {OPEN_SECONDS:.0f} s")

    # --- afterwards ---------------------------------------------------------------------------------

    def confirmed(self, boot: int | None) -> None:
        """The host has answered sealed: the association is good for others (C-04)."""
        association, opening = self._association, self._opening
        if association is None or opening is None:
            return
        association.answered(opening.number)
        opening.answered()
        if boot is not None:
            association.heard = self._loop.time()
        self.boot = boot
        stream = self.stream
        if stream.core is not None and stream.grant_bytes != self.wish.grant:
            stream.core.refresh(stream.grant_bytes)  # it changed while OPEN was on its way
        self._tries = 0
        self._tried.clear()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if opening.tls is not None:
            if not self.wish.enrol:
                self._callers.add(association)
            self._callers.handshake_over(self)

    def pathless(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """The circuit, which has keys, lost its hop."""
        stream = self.stream
        core = stream.core
        if link.lane != EXPRESS and self._node.lanes is not None:
            self._node.lanes.came_back(self, link, code)
        if core is not None and not core.opened and reason:
            self._refusal = (believed(code), reason)
        if core is not None and core.opened and code is Code.UNKNOWN_CIRCUIT:
            if self.wish.service in (CONTROL_SERVICE, ASSOCIATE_SERVICE):
                stream.give_up(Code.RESTARTED, "the other end does not know the circuit any more")
                return
            self._ask_for_boot()
        self._led_nowhere(link)

    def _ask_for_boot(self) -> None:
        """Has the host restarted? A refusal in clear does not prove it, a sealed READY does (C-62)."""
        if self._probe is not None and not self._probe.stream.closed.done():
            return
        core = self.stream.core
        if core is None:
            return
        try:
            probe = self._associate(core.names.host, self.wish, self.stream)
        except Refused:
            return
        self._probe = probe
        probe.stream.on_opened = lambda: self._compare(probe)

    def _compare(self, probe: "Outgoing") -> None:
        if probe.boot is not None and probe.boot != self.boot:
            self.stream.at_owner(self.stream.give_up, Code.RESTARTED, "the hosting node restarted")
        probe.stream.abort(Code.NORMAL, "")

    def over(self) -> None:
        """The circuit has ended for the application."""
        self._give_up_paths()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._release()

    def _release(self) -> None:
        """This attempt keeps nobody waiting any more."""
        opening = self._opening
        if opening is None:
            return
        if opening.association is not None:
            opening.association.answered(opening.number)
        if opening.tls is not None:
            self._callers.handshake_over(self)


Associate = Callable[[str, Wish, CircuitDriver], Outgoing]
