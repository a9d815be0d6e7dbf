"""Drives one circuit's core: its hop on a link, its timer, and what its events mean to endpoint and application."""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from overlay import limits
from overlay.aio.circuit_roles import (
    CircuitEnd,
    Refused,
    StreamOwner,
    StreamUser,
    spoken,
    wake,
)
from overlay.aio.ownership import OwnedCircuit
from overlay.aio.stream_facts import StreamFacts
from overlay.aio.world import Buffer
from overlay.circuit.circuit import Circuit
from overlay.circuit.datagrams import Newest
from overlay.circuit.events import (
    Arrived,
    Delivered,
    Event,
    HalfClosed,
    Opened,
    Over,
    Refreshed,
    Room,
)
from overlay.circuit.life import Receipt
from overlay.errors import Code, ProtocolError, TamperError
from overlay.identity.certificate import Leaf
from overlay.policy.grant import Grant
from overlay.wire.bodies import DATAGRAMS
from overlay.wire.header import Flag, Header, Kind

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver

NO_RECEIPT = Receipt(None, None)
_NEVER = float("inf")
_DATA, _DATAGRAM = Kind.DATA, Kind.DATAGRAM  # 3.11 looks members of an enumeration up slowly
_LAST = frozenset({Kind.RESET, Kind.REFUSE})


class CircuitDriver(OwnedCircuit, StreamFacts):
    """What endpoint and application share of a circuit; `CircuitStream` adds what the application calls.

    `peer` is the other end's verified leaf (None for a newcomer, and before it is known), `path` the node names from
    the caller on, as far as this end knows them; `started` plant time in µs when it was opened.
    """

    def __init__(
        self,
        owner: StreamOwner,
        *,
        circuit_id: bytes,
        hosting: bool,
        service: str,
        integrity: int,
        transport: int,
        grant: Grant | None,
        grant_bytes: bytes,
    ) -> None:
        super().__init__(owner)
        self.circuit_id = circuit_id
        self.hosting = hosting
        self.service = service
        self.integrity = integrity
        self.transport = transport
        self.grant = grant
        self.grant_bytes = grant_bytes
        self.peer: Leaf | None = None
        self.path: tuple[str, ...] = ()
        self.key_exchange = ""
        self.started = 0
        self.link: LinkDriver | None = None
        self.number = 0
        self.core: Circuit | None = None
        self.export: Callable[[str], bytes] | None = None
        self.on_opened: Callable[[], None] | None = None
        self.on_moved: Callable[[], None] | None = None
        """Host: it goes on under another conduit, or on another path."""
        self.on_granted: Callable[[], None] | None = None
        """Host: it goes on under another grant, which may end sooner."""
        self.opened_at = 0.0
        """When it was opened, seconds of the event loop's clock."""
        self.resumed_under = b""
        """Caller: the grant that its last RESUME carried."""
        self.turned_away = ""
        """Caller: why the router that was asked last had no way or no room."""
        self.dropped = 0
        """Datagrams that found no room here; `datagrams_dropped` counts all."""
        self._loop = asyncio.get_running_loop()
        self._user: StreamUser | None = None
        self._lend: Callable[[], memoryview] | None = None
        self._inbox: deque[bytes] = deque()
        # Only circuits for datagrams have these two.
        self._arrived = Newest() if transport == DATAGRAMS else None
        self._unsent = Newest() if transport == DATAGRAMS else None
        self._eof = False
        self._end_wanted = False
        self._starved = False
        self._confirmed = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._timer_at = _NEVER
        self._readable: asyncio.Future[None] | None = None
        self._roomy: asyncio.Future[None] | None = None
        self._opened: asyncio.Future[None] = self._loop.create_future()
        self.closed: asyncio.Future[CircuitEnd] = self._loop.create_future()
        self.outcome: CircuitEnd | None = None
        """How it ended, for who drives it; the future `closed` is for the program."""

    # --- as the endpoint sees it --------------------------------------------------------------------

    def attach(self, core: Circuit, peer: Leaf | None) -> None:
        """Keys exist."""
        self.core = core
        self.peer = peer
        core.share(self._owner.memory)

    def place(self, link: "LinkDriver", number: int) -> None:
        """The circuit is on this hop now; what it was on before is freed."""
        self.leave()
        self.link, self.number = link, number
        self._owner.bind(link, number, self)

    def leave(self, *, moving: bool = False) -> None:
        """Free the hop (C-33). `moving`: what waits on it is said again on another, and need not leave."""
        link, self.link = self.link, None
        if link is not None:
            self._owner.unbind(link, self.number)
            if link.is_open(self.number):  # else both ends have said their last frame on it (L-38)
                link.reset(self.number, Code.NORMAL, discard=moving)

    def step_off(self) -> None:
        """Leave the hop for one of another lane: nothing leaves until RESUME was answered there."""
        self.leave(moving=True)
        if self.core is not None:
            self._handle(self.core.path_lost(self.now()))

    def now(self) -> float:
        """Seconds of the clock of the loop that owns it."""
        return self._loop.time()

    def lose(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """This hop is gone."""
        if self.link is not link:
            return
        self.link = None
        self._owner.unbind(link, self.number)
        if self.core is not None:
            self._handle(self.core.path_lost(self._loop.time()))
        if self.outcome is None:
            self._owner.pathless(self, link, code, reason)

    def abort(self, code: Code, reason: str) -> None:
        """For programs: end both directions now; the other side learns code and reason."""
        self.at_owner(self.break_off, code, reason)

    def break_off(self, code: Code, reason: str) -> None:
        """`abort` on the loop that owns the circuit."""
        if self.outcome is not None:
            return
        if self.core is None:
            self.give_up(code, reason)
        elif self.hosting and not self.core.opened:
            self._handle(self.core.refuse(code, reason, self._loop.time()))
        else:
            self._handle(self.core.abort(code, reason, self._loop.time()))

    def refresh(self, grant: bytes) -> None:
        """Caller: go on under another grant (G-03): host and routers on the path learn it.

        Raises:
            Refused: it does not hold, or is not equal.
        """
        self._owner.refresh(self, grant)

    def take_grant(self, grant: Grant, grant_bytes: bytes) -> None:
        """Caller: go on under another grant, which was checked against the present one (G-03)."""
        self.grant, self.grant_bytes = grant, grant_bytes
        self.at_owner(self._say_grant)

    def _say_grant(self) -> None:
        if self.core is not None:
            self.core.refresh(self.grant_bytes)
            self._flush()

    def go(self, events: list[Event]) -> None:
        """Handle what the core said when the endpoint itself called it, and send what it has to send."""
        self._handle(events)
        self.link_has_room()

    def frame(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """A frame of the present hop."""
        kind = header.kind
        core = self.core
        if core is None:
            return
        if kind in _LAST and (kind is Kind.RESET or not header.flags & Flag.SEALED):
            self.lose(link, *spoken(payload))
            return
        now = self._loop.time()
        try:
            if kind is _DATA:  # the hot path: no events, and no time that could be due
                got = core.receive_data(header, payload, now, self._lend and self._lend())
                if not isinstance(got, list):
                    if got:
                        self.deliver(got)
                    if core.pending:
                        self._flush()
                    return
                events = got
            elif kind is _DATAGRAM:
                plain = core.receive_datagram(header, payload)
                if plain is not None:
                    self.deliver(plain)
                return
            else:
                events = core.receive(header, payload, now)
        except (TamperError, ProtocolError) as error:
            if core.over is not None:
                return  # it has ended already, and what still comes has no place any more
            events = core.fail(error, now)
            code = error.code if isinstance(error, ProtocolError) else Code.TAMPER
            self._owner.fault(self, code, str(error))
        else:
            if kind in _LAST and not self._confirmed:
                self._confirmed = True
                self._owner.confirmed(self, None)
            if kind is Kind.RESUME and self.resumed_under != self.grant_bytes:
                core.refresh(self.grant_bytes)  # it changed while RESUME was on its way
        self._handle(events)

    def give_up(self, code: Code, reason: str) -> None:
        """End without a word: there are no keys, or no way to the other end."""
        core = self.core
        over: list[Event] = [Over(code, reason)]
        self._handle(over if core is None else core.unreachable(code, reason, self.now()))

    def room(self) -> int:
        """Bytes that `send` takes now; 0: `room` of the user will be called."""
        core, link = self.core, self.link
        room = 0
        if (
            core is not None
            and link is not None
            and not self._end_wanted
            and link.backlog(self.number) < limits.CIRCUIT_QUEUE_BYTES
        ):
            room = core.room()
        if not room:
            self._starved = True
        return room

    def deliver(self, data: Buffer) -> None:
        """To the program; a host's early data, which came with OPEN, first. Nothing once the circuit was cut."""
        if self.outcome is not None:
            return
        if self._user is not None:
            self._user.data(data)
            return
        whole = bytes(data)  # nothing is copied: only a user lends memory
        if self._arrived is not None:
            self.dropped += self._arrived.push(whole)
        else:
            self._inbox.append(whole)
        wake(self._readable)

    def link_has_room(self) -> None:
        """The link takes more again: so may this circuit."""
        if self._starved and self.room():
            self._starved = False
            if self._user is not None:
                self._user.room()
            wake(self._roomy)

    # --- inside -------------------------------------------------------------------------------------

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Delivered | Arrived):
                self.deliver(event.data)
            elif isinstance(event, Room):
                self._flush()
                self.link_has_room()
            elif isinstance(event, HalfClosed):
                self._eof = True
                if self._user is not None:
                    self._user.half_closed()
                wake(self._readable)
            elif isinstance(event, Opened):
                self._confirmed = True
                self._owner.confirmed(self, event.boot)
                self.opened_now()
            elif isinstance(event, Refreshed):
                self._owner.refreshed(self, event.grant)
            else:
                self._end(event)
        self._flush()

    def go_on_under(self, grant: Grant | None, grant_bytes: bytes, path: tuple[str, ...]) -> None:
        """Host: the caller sent another grant (G-03), or came on another path (C-61)."""
        before = (self.path, self.grant.conduit if self.grant is not None else "")
        self.grant, self.grant_bytes, self.path = grant, grant_bytes, path
        if self.on_granted is not None:
            self.on_granted()
        now = (path, grant.conduit if grant is not None else "")
        if now != before and self.on_moved is not None:
            self.on_moved()

    def opened_now(self) -> None:
        """READY was said or heard."""
        if not self._opened.done():
            self.opened_at = self.now()
            self._opened.set_result(None)
            if self.on_opened is not None:
                self.on_opened()
        self._flush()
        while self._unsent and self.core is not None:
            self._say_datagram(self.core, self._unsent.pop(), more=bool(self._unsent))

    def _flush(self) -> None:
        core, link = self.core, self.link
        if core is None:
            if self.outcome is not None:
                self.leave()
                self._owner.finished(self)
            return
        frames = core.take()
        if link is not None:
            number = self.number
            for kind, flags, sequence, payload in frames:
                link.send(kind, number, payload, flags=flags, sequence=sequence, kept=True)
        if core.finished:
            self._cancel_timer()
            self.leave()
            self._owner.finished(self)
            return
        self._set_timer(core.deadline())

    def _say_datagram(self, core: Circuit, data: Buffer, *, more: bool) -> None:
        link = self.link
        frame = None if link is None else core.send_datagram(data)
        if link is None:
            self.dropped += 1
        elif frame is not None:
            _, flags, sequence, payload = frame
            self.dropped += link.send_datagram(
                self.number, payload, flags=flags, sequence=sequence, kept=True, more=more
            )

    def _end(self, over: Over) -> None:
        if self.outcome is not None:
            return
        receipt = NO_RECEIPT if self.core is None else self.core.receipt
        end = CircuitEnd(over.code, over.reason, receipt, self.bytes_in, self.bytes_out)
        self.outcome = end
        if self._unsent:
            self.dropped += len(self._unsent)
            self._unsent = None
        self._owner.ended(self, end)
        if self._user is not None:
            self._user.closed(end)
        self._user = self._lend = None  # cycles wait for the garbage collector, which stops all
        wake(self._readable)
        wake(self._roomy)

    def tell(self, end: CircuitEnd) -> None:
        """From the owner of the futures: the program learns the end."""
        self.closed.set_result(end)
        self.on_opened = self.on_granted = self.on_moved = None
        if not self._opened.done():
            self._opened.set_exception(Refused(end.code, end.reason))
            self._opened.exception()  # nobody has to ask

    def forget(self) -> None:
        """Its node has no use for it any more: nobody asks for what it said."""
        self.companion = self.export = None
        if self.core is not None:
            self.core.forget()

    def _release(self) -> None:
        self._cancel_timer()
        if self.core is not None:
            self.core.share(None)

    def _settle(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self.core is not None:
            self.core.share(self._owner.memory)
            if not self.core.finished:
                self._set_timer(self.core.deadline())

    def _set_timer(self, deadline: float | None) -> None:
        if deadline is None or deadline >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline
        # uvloop gives a handle without `when()` for a time that is already past, so it is kept here.
        self._due = deadline
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer, self._timer_at = None, _NEVER
        if self.core is not None:
            self._handle(self.core.tick(self._loop.time()))

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, _NEVER
