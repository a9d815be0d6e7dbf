"""Drives one link over a connection: reads, judges, hands out (docs/protocol/link.md).

The hot path: frames are parsed where they were received, many per wake-up, and handed to the owner as views.
"""

import asyncio
from collections.abc import Callable
from typing import cast

from overlay import limits
from overlay.aio.link_clock import LinkClock
from overlay.aio.link_facts import LinkFacts
from overlay.aio.link_owner import LinkOwner
from overlay.aio.link_sender import LinkSender, Payload
from overlay.aio.logs import get_logger
from overlay.aio.pipes import SUPPORTED, Pipes
from overlay.aio.read_turns import DEAR, FRAMES_PER_TURN, ReadTurns
from overlay.aio.splicing import SpliceConnection, Splicer
from overlay.aio.world import Connection
from overlay.crypto.records import Records
from overlay.errors import Code, ProtocolError, TamperError
from overlay.identity.certificate import Role
from overlay.link.link import DELIVER, Control, Ended, Health, Link, LinkRefused, Outcome, Up
from overlay.link.opening import Opened
from overlay.link.reader import Reader
from overlay.link.turns import Frame
from overlay.wire.bodies import Hello, LinkControl, Load, Refusal
from overlay.wire.codec import encode
from overlay.wire.header import Header, Kind

_LINGER = 1.0
_SCRATCH = 64 * 1024

_log = get_logger("link")
_NOTHING = memoryview(b"")
_discard = memoryview(bytearray(_SCRATCH))


Pass = Callable[["LinkDriver", Header, Payload], None]


class LinkDriver(LinkFacts, ReadTurns):
    """One link. Made by `dial_link` and `LinkListener`, not by hand."""

    def __init__(
        self,
        connection: Connection,
        opened: Opened,
        owner: LinkOwner,
        *,
        dialer: bool,
        boot: int = 0,
        version: str = "",
        bulk_lanes: int = 0,
    ) -> None:
        self.peer = opened.peer
        self.peer_public = opened.peer_public
        self.mode = opened.mode
        self.group = opened.group
        self.newcomer = opened.newcomer
        """One side is not enrolled: one circuit to `_control`, nothing else (L-34)."""
        self.dialer = dialer
        self.owner = owner
        self.remote: tuple[str, int] = connection.peer
        self.over = False
        self.found = False
        """This side found the fault that ended the link (a security event), not the other."""
        self.end: tuple[Code, str] = (Code.NORMAL, "")
        self.on_closed: Callable[[LinkDriver], None] | None = None
        """Called when the connection is gone."""
        self.bytes_in = 0
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._records: Records = opened.records
        self._link = Link(
            dialer=dialer, newcomer=opened.newcomer, link_id=opened.link_id, lane=opened.lane,
            now=self._loop.time(),
            eager=opened.peer is not None and opened.peer.identity.role is Role.ROUTER,
        )  # fmt: skip
        self._liveness = self._link.liveness
        self._reader = Reader(opened.records)
        self._reader.feed(opened.rest)
        self._own_hello = Hello(opened.link_id, opened.lane, boot, version, bulk_lanes)
        self._scratch = memoryview(bytearray(_SCRATCH)) if opened.mode == "tls" else None
        self.splices = SUPPORTED and opened.mode == "header" and connection.fileno() >= 0
        self._splicer: Splicer | None = None
        self._sender = LinkSender(connection, opened.records, self._room)
        self._clock = LinkClock(self._link, self._sender, self._tick)
        self._up = self._loop.create_future()
        self._closed = self._loop.create_future()

    def __repr__(self) -> str:
        who = self.peer.identity.name if self.peer is not None else "newcomer"
        return f"<link with {who} at {self.remote[0]}:{self.remote[1]}>"

    # --- what an owner does -----------------------------------------------------------------------

    def send(
        self,
        kind: Kind,
        circuit: int,
        payload: Payload = b"",
        *,
        flags: int = 0,
        sequence: int = 0,
        kept: bool = False,
    ) -> bool:
        """Queue a frame of a circuit (L-23). False: the circuit or the link is over, the frame is dropped.

        `kept`: a payload that is not `bytes` stays as it is until the circuit is over; without it, it is copied when it
        cannot leave at once.
        """
        if self.over or not self._link.may_send(kind, circuit, flags):
            return False
        if self._clock.resting:
            self._clock.spoken()
        self._sender.send(kind, flags, circuit, sequence, payload, kept=kept)
        if self._sender.turns.control > limits.LINK_CONTROL_BYTES:
            self._check_queue()
        return True

    def reset(self, circuit: int, code: Code, reason: str = "", *, discard: bool = False) -> bool:
        """Free a hop (L-21): `send` of RESET with this code. `discard`: what waits for the circuit does not leave."""
        if discard and not self.over:
            self._sender.turns.drop(circuit)
        return self.send(Kind.RESET, circuit, encode(Refusal(code, reason[:200])))

    def abandon(self, circuit: int) -> None:
        """Drop what still waits for a circuit that was reset; the RESET itself leaves."""
        self._sender.turns.abandon(circuit)

    def send_control(self, body: LinkControl) -> None:
        """Queue a CONTROL frame. A link that does not take `LINK_CONTROL_BYTES` of control frames is ended."""
        if not self.over:
            payload = encode(body)
            self._sender.push(Frame(Kind.CONTROL, 0, len(payload), 0, 0, payload))
            self._check_queue()

    def goodbye(self, code: Code, reason: str) -> None:
        """Say GOAWAY (L-32). With GOING_AWAY the link stays until its circuits are gone; any other code ends it now."""
        if self.over:
            return
        self._link.goodbye(code, reason)
        self._speak()
        if code is not Code.GOING_AWAY:
            self._finish(code, reason)

    def probe(self) -> int:
        """Say PING now; the number by which `ponged` tells its answer."""
        said = self._link.probe(self._loop.time())
        self._speak()
        return said

    def doubt(self, lost: bool) -> None:  # noqa: FBT001 - posted from other loops
        """Something changed at this host: ask at once (L-39). `lost`: without an answer the link is over."""
        if not self.over and self._liveness.doubt(self._loop.time(), lost=lost):
            self.probe()
        self._clock.sooner(self._loop.time())

    def close(self) -> None:
        """End the link at once without a word."""
        if not self.over:
            self._down(Code.NORMAL, "closed")
        self._connection.close()

    def splice(
        self,
        pipes: Pipes,
        takes: Callable[["LinkDriver", Header], bool],
        piped: "Pass",
    ) -> None:
        """Hand large frames of DATA that `takes` wants to `piped`, unseen. Nothing where `splices` is False."""
        if self.splices:
            self._splicer = Splicer(
                cast("SpliceConnection", self._connection),
                self._reader,
                pipes,
                takes=lambda header: takes(self, header),
                complete=lambda header, payload: self._piped(header, payload, piped),
                heard=self._heard,
            )

    async def wait_up(self) -> None:
        """Until the other side's Hello. Raises: LinkRefused: it said or did something else."""
        await asyncio.shield(self._up)

    async def wait_closed(self) -> None:
        """Until the connection is gone."""
        await asyncio.shield(self._closed)

    # --- start, used by dial_link and LinkListener ------------------------------------------------

    def start(self, flight: bytes = b"", refusal: tuple[Code, str] | None = None) -> None:
        """Send the handshake's last `flight` together with Hello, or with the refusal, and begin to read."""
        self._sender.lead(flight)
        self._connection.start(self)
        self._connection.resume()
        if refusal is not None:
            self._link.refuse(*refusal)
            self._speak()
            self._finish(*refusal)
            return
        self._link.start(self._own_hello)
        self._speak()
        self._sender.flush()
        self._clock.again(self._loop.time())
        if self._scratch is not None:
            self._reader.feed(self._records.inflow(b""))
        if self._reader.waiting:
            self._loop.call_soon(self._parse)

    # --- receiving: Receiver ----------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Receiver."""
        if self.over:
            return _discard
        if self._scratch is not None:
            return self._scratch
        view = self._reader.buffer()
        return view if self._splicer is None else self._splicer.fit(view)

    def received(self, count: int) -> None:
        """Receiver."""
        if self.over:
            return
        self.bytes_in += count
        if self._scratch is None:
            self._reader.received(count)
        else:
            try:
                self._reader.feed(self._records.inflow(self._scratch[:count]))
            except TamperError as error:
                self._fault(Code.TAMPER, str(error))
                return
        self._parse()

    def ended(self) -> None:
        """Receiver."""
        if not self.over:
            self._down(Code.PATH_LOST, "the other side closed the connection")
        self._connection.close()

    def writable(self) -> None:
        """Receiver."""
        self._sender.writable()
        if self.over and not self._sender.blocked:
            self._connection.end()

    def lost(self, error: OSError | None) -> None:
        """Receiver."""
        if not self.over:
            self._down(Code.PATH_LOST, "closed" if error is None else error.strerror or str(error))
        self._clock.stop()
        self._sender.discard()
        if not self._closed.done():
            self._closed.set_result(None)
            if self.on_closed is not None:
                self.on_closed(self)

    def _parse(self) -> None:
        """Hand out frames that are complete, as many as one turn may take."""
        now = self._loop.time()
        link, reader, owner = self._link, self._reader, self.owner
        left = FRAMES_PER_TURN
        self._liveness.heard = now
        try:
            if self._liveness.suspect:
                self._recovered()
            while not self.over:
                if left <= 0:
                    self._wait()
                    break
                frame = reader.next()
                if frame is None:
                    if self._splicer is not None:
                        self._splicer.begin(now)
                    break
                left -= DEAR.get(frame[0].kind, 1)
                outcome = link.receive(frame[0], frame[1], now)
                if outcome is DELIVER:
                    owner.frame(self, frame[0], frame[1])
                elif outcome is not None:
                    self._handle(outcome)
                elif frame[0].kind is Kind.PONG:
                    self._clock.answered(now)
                if link.outbox:
                    self._speak()
        except Exception as error:  # noqa: BLE001 - a defect costs this link, not the program
            self._failed(error)

    def _heard(self, count: int) -> None:
        """From the splicer: so many bytes came, none at the end."""
        if not count:
            self.ended()
        self.bytes_in += count
        self._liveness.heard = self._loop.time()
        if self._liveness.suspect:
            self._recovered()

    def _recovered(self) -> None:
        if self._liveness.recover():
            self.owner.health(self)

    def _piped(self, header: Header, payload: Payload, piped: "Pass") -> None:
        """From the splicer: a frame of DATA is complete."""
        try:
            if self._link.receive(header, _NOTHING, self._loop.time()) is DELIVER:
                piped(self, header, payload)
            if self._link.outbox:
                self._speak()
        except Exception as error:  # noqa: BLE001 - a defect costs this link, not the program
            self._failed(error)

    def _failed(self, error: Exception) -> None:
        if isinstance(error, TamperError):
            self._fault(Code.TAMPER, str(error))
        elif isinstance(error, ProtocolError):
            self._fault(error.code, str(error))
        else:
            _log.error("link.defect", link=repr(self), error=repr(error), exc_info=error)
            self._fault(Code.PROTOCOL, "internal error")

    def _handle(self, outcome: Outcome) -> None:
        if isinstance(outcome, Control):
            if isinstance(outcome.body, Load):
                self._told(outcome.body)
            else:
                self.owner.control(self, outcome.body)
        elif isinstance(outcome, Up):
            self._up.set_result(None)
            self.owner.link_up(self)
        elif isinstance(outcome, Health):
            self.owner.health(self)
        elif isinstance(outcome, Ended):
            self._down(outcome.code, outcome.reason)
            self._connection.close()

    # --- sending ------------------------------------------------------------------------------------

    def _speak(self) -> None:
        """Queue what the link itself has to say."""
        for frame in self._link.outbox:
            if frame.kind is Kind.RESET:  # nobody wants any more what waits for this circuit
                self._sender.turns.drop(frame.circuit)
            self._sender.push(frame)
        self._link.outbox.clear()
        self._check_queue()

    def _check_queue(self) -> None:
        if self._sender.turns.control > limits.LINK_CONTROL_BYTES and not self.over:
            self.found = True
            self._down(Code.BUSY, "the other side does not read what the link has to say")
            self._connection.abort()

    def _room(self, circuit: int) -> None:
        if not self.over:
            self.owner.room(self, circuit)

    # --- time and end -------------------------------------------------------------------------------

    def _tick(self) -> None:
        now = self._loop.time()
        sender = self._sender
        found = self._clock.tick(now, self.bytes_in + sender.bytes)
        taken = max(sender.taken, self._liveness.moved)  # a deep buffer on a slow way takes rarely
        if sender.blocked and now - taken >= limits.DEAD_AFTER:
            found = Ended(Code.PATH_LOST, "the other side takes nothing any more")
        if isinstance(found, Ended):
            self._fault(found.code, found.reason)
            return
        if found is not None:
            self.owner.health(self)
        if self._link.outbox:
            self._speak()
        if now - self._liveness.heard >= limits.PING_INTERVAL:
            self._reader.rest()
        if self._splicer is not None:
            self._splicer.tick(now)
        self._clock.again(now)

    def _fault(self, code: Code, reason: str) -> None:
        """This side found something wrong: say so and end."""
        if self.over:
            return
        self.found = True
        if code is not Code.PATH_LOST:
            self._link.goodbye(code, reason)
            self._speak()
        self._finish(code, reason)

    def _finish(self, code: Code, reason: str) -> None:
        """End after what is queued of control has left; a peer that does not read gets `_LINGER` seconds."""
        self._sender.turns.drop_streams()
        self._sender.flush()
        if self.over:
            return
        self._down(code, reason)
        if code is Code.PATH_LOST:
            self._connection.abort()
            return
        if not self._sender.blocked:
            self._connection.end()
        self._clock.later(_LINGER, self._connection.close)

    def _down(self, code: Code, reason: str) -> None:
        self.over = True
        self.end = (code, reason)
        if self._splicer is not None:
            self._splicer.stop()
            self._splicer = None
        self._clock.stop()
        if not self._up.done():
            self._up.set_exception(LinkRefused(code, reason))
            self._up.exception()  # nobody has to ask
        if self._link.hello is not None:
            self._loop.call_soon(self.owner.link_down, self, code, reason)
