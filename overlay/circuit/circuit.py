"""A circuit that has keys, seen from one end: what the application wants, and what comes in
(docs/protocol/circuit.md).

Frames go in by `receive` and out by `take`; what happened comes back as events. Times `now` are seconds of one
monotonic clock.
Which link carries the frames is the driver's affair (`overlay.circuit.life` says what it has to tell).
"""

from overlay.circuit.controls import decoded
from overlay.circuit.events import (
    Arrived,
    Delivered,
    Event,
    HalfClosed,
    Opened,
    Refreshed,
    Room,
)
from overlay.circuit.frames import Frame
from overlay.circuit.life import ACKNOWLEDGE_WITHIN, LINGER, CircuitLife, digest_of
from overlay.crypto.checkpoint import CALLER, HOST
from overlay.errors import Code, ProtocolError, TamperError, known_code
from overlay.wire.bodies import DATAGRAMS, STREAM, Ready, Refusal, Resume
from overlay.wire.header import Flag, Header, Kind

_FLIGHT = int(Flag.FLIGHT)
_STREAM = frozenset({Kind.CHECKPOINT, Kind.CLOSE})
_DATA = Kind.DATA  # 3.11 looks members of an enumeration up slowly


class Circuit(CircuitLife):
    """One end of a circuit."""

    # --- what the application wants -----------------------------------------------------------------

    def early_sent(self, sealed: bytes, now: float) -> None:
        """Caller: OPEN carried this early data (C-12)."""
        self._sending.early(sealed, now)

    def early_received(self, plain: bytes, sealed: bytes) -> None:
        """Host: OPEN carried early data, and it held."""
        self._receiving.early(plain, sealed)

    def accepted(self, ready: bytes, data: bytes, now: float) -> list[Event]:
        """Caller: ACCEPT came with READY, and perhaps the first DATA (C-14).

        Raises:
            As `receive`.
        """
        events = self.receive(Header(Kind.READY, 0, len(ready), 0, 0), memoryview(ready), now)
        if data:
            header = Header(_DATA, 0, len(data), 0, 0)
            events += self.receive(header, memoryview(data), now)
        return events

    def room(self) -> int:
        """Bytes that `send` takes now; 0 while suspended, ended or out of credit."""
        if self.suspended or self.over is not None:
            return 0
        return self._sending.room()

    def send(self, data: bytes | bytearray | memoryview, now: float) -> None:
        """One DATA frame of 1 to `room()` bytes. Raises: ValueError: more than that, or none."""
        frames = self._sending.data(data, now)
        if not self.suspended:
            self._out += frames  # else they are kept, and leave after RESUME was answered

    def send_datagram(self, data: bytes | bytearray | memoryview) -> Frame | None:
        """One DATAGRAM, which does not wait for `take`. None when it was dropped because there is no path yet or any
        more. Raises: ValueError: it is too long.
        """
        if self.suspended or self.over is not None or not self.opened:
            self.datagrams.dropped += 1
            return None
        return self.datagrams.seal(data)

    def consumed(self, count: int, now: float) -> None:
        """`count` delivered bytes have left this node; gives credit when enough came together."""
        self._receiving.consumed(count, now)
        if self._receiving.credit_due():
            self._credit_if_due()

    def end(self, now: float) -> list[Event]:
        """Half-close: this end sends nothing more (C-32)."""
        if self.over is not None or self._sending.closed:
            return []
        ended = self._ended_by_other()
        last = ended and self.names.transport == STREAM
        self._credit_at = None
        ack = self._receiving.acknowledge_all()
        self._stream(self._sending.close(Code.NORMAL, "", ack, last=last))
        if ended:
            self._linger = now + LINGER
        return self._settle(now)

    def abort(self, code: Code, reason: str, now: float) -> list[Event]:
        """End both directions; the other end learns why when a path still carries it."""
        if self.over is not None:
            return []
        # What will never be delivered must not look as if it was (C-32): nothing more is acknowledged.
        self._credit_at = None
        mute = self._sending.said_last and not self.suspended  # the hop takes nothing any more
        self._stream(self._sending.close(code, reason, self._receiving.told))
        self._linger = now + LINGER
        # Where RESUME is being answered the end is said after the answer.
        self.finished = mute or (self.suspended and not self._answer_awaited)
        return [self._end(code, reason, now)]

    def ready(self, boot: int) -> None:
        """Host: the service was reached. `boot` counts this node's starts."""
        if self.over is not None:
            return
        self.opened = True
        self._answer = self._controls.seal(Kind.READY, 0, Ready(boot))
        self._control(self._answer)
        self._credit_if_due()

    def refuse(self, code: Code, reason: str, now: float) -> list[Event]:
        """Host: the service was not reached, or may not be (C-14)."""
        if self.over is not None:
            return []
        refusal = Refusal(int(code), reason[:200])
        self._answer = self._controls.seal(Kind.REFUSE, int(Flag.SEALED), refusal)
        self._control(self._answer)
        return self._broken(code, reason, now)

    def refresh(self, grant: bytes) -> None:
        """Caller: a refreshed grant for host and routers (G-03); while suspended, RESUME will carry it."""
        if self.over is None:
            ack, limit = self._receiving.credit()
            self._control(self._controls.credit(int(Flag.GRANT), ack, limit, grant))

    # --- what comes in ------------------------------------------------------------------------------

    def receive(self, header: Header, payload: memoryview, now: float) -> list[Event]:
        """A frame from the circuit's present hop.

        Raises:
            TamperError: it fails, repeats or skips. ProtocolError: it is not allowed now.
            After either the circuit is to be ended with `fail`.
        """
        if self.finished:
            return []
        kind = header.kind
        if self._answer_awaited and kind is not Kind.RESUME:
            raise ProtocolError(f"{kind.name} before RESUME was answered")
        if kind is _DATA:
            got = self.receive_data(header, payload, now, None)
            if isinstance(got, list):
                return got
            return [Delivered(bytes(got))] if got else []
        if kind is Kind.CREDIT:
            return self._on_credit(header, payload, now)
        if kind is Kind.DATAGRAM:
            plain = self.receive_datagram(header, payload)
            return [] if plain is None else [Arrived(plain)]
        if self.over is not None and kind in _STREAM:
            return []
        if kind is Kind.CHECKPOINT:
            self._receiving.checkpoint(header, payload)
            self._credit_if_due()
            return []
        if kind is Kind.CLOSE:
            return self._on_close(header, payload, now)
        if self.role == CALLER and kind is Kind.RESUME:
            return self._on_resume_answer(header, payload, now)
        if self.role == CALLER and kind in (Kind.READY, Kind.REFUSE):
            return self._on_answer(header, payload, now)
        raise ProtocolError(f"{kind.name} is not expected here")

    def receive_data(
        self, header: Header, payload: memoryview, now: float, room: memoryview | None
    ) -> bytes | memoryview | list[Event]:
        """`receive` for DATA, which is nearly all that comes: the bytes to deliver, or what happened instead.

        `room` (`MAX_DATA` bytes) is where they may be put; what lies there holds until the next call.

        Raises:
            As `receive`.
        """
        if self.over is not None:  # what this end will never deliver it does not acknowledge
            return b""
        if self._answer_awaited:
            raise ProtocolError("DATA before RESUME was answered")
        if self.names.transport == DATAGRAMS:
            raise ProtocolError("DATA in a circuit for datagrams")
        plain = self._receiving.data(header, payload, now, room)
        if self._receiving.crowds:
            return self.abort(
                Code.BUSY, "this node holds too much that its programs do not read", now
            )
        if self._receiving.credit_due():
            self._credit_if_due()
        return plain

    def receive_datagram(self, header: Header, payload: memoryview) -> bytes | None:
        """`receive` for DATAGRAM: what arrived, possibly empty; None: nothing is to be delivered.

        Raises:
            As `receive`.
        """
        if self.over is not None:
            return None
        if self._answer_awaited:
            raise ProtocolError("DATAGRAM before RESUME was answered")
        return self.datagrams.open(header, payload)

    def fail(self, error: TamperError | ProtocolError, now: float) -> list[Event]:
        """End the circuit because of what came in; the other end learns it."""
        code = error.code if isinstance(error, ProtocolError) else Code.TAMPER
        return self.abort(code, str(error), now)

    def _on_credit(self, header: Header, payload: memoryview, now: float) -> list[Event]:
        if header.flags & _FLIGHT:
            raise ProtocolError("a TLS flight in a circuit that has keys")
        return self.open_credit(header, payload, now)

    def open_credit(self, header: Header, payload: memoryview, now: float) -> list[Event]:
        """A CREDIT; a host calls it itself for the one that carries the flight (C-13)."""
        ack, limit, grant = self._controls.open_credit(header, payload)
        if grant and self.role == CALLER:
            raise ProtocolError("a grant from the host")
        if self.role == HOST and not self._first_credit_hash:
            self._first_credit_hash = digest_of(header, payload)
            self.forget()
        if (
            self._sending.acknowledge(ack, limit, now)
            and self._linger is not None
            and self.over is None
        ):
            self._linger = now + LINGER
        events: list[Event] = [Room(), *self._settle(now)]
        return [*events, Refreshed(grant)] if grant else events

    def _on_close(self, header: Header, payload: memoryview, now: float) -> list[Event]:
        closing = self._receiving.close(header, payload)
        if closing is None:
            return []
        self.forget()
        self._sending.acknowledge_frames(closing.ack, now)
        if closing.code is not Code.NORMAL:
            self._acknowledge_close()
            self.finished = True
            return [self._end(closing.code, closing.reason, now)]
        if self._sending.closed:
            self._acknowledge_close()
            self._linger = now + LINGER
        else:
            self._credit_at = now + ACKNOWLEDGE_WITHIN
        return [HalfClosed(), *self._settle(now)]

    def _on_answer(self, header: Header, payload: memoryview, now: float) -> list[Event]:
        if header.kind is Kind.READY:
            boot = self._controls.open(header, payload, Ready).boot
            if self.opened:
                raise ProtocolError("a second READY")
            self.opened = True
            self._first_credit = None
            return [Opened(boot)]
        if not header.flags & Flag.SEALED:
            # The driver takes a refusal in clear as a lost path (C-14); it says nothing about the circuit.
            raise ProtocolError("a refusal in clear in a circuit that has keys")
        refusal = self._controls.open(header, payload, Refusal)
        if self.opened:
            raise ProtocolError("REFUSE after READY")
        self.finished = True
        return [self._end(known_code(refusal.code), refusal.reason, now)]

    def _on_resume_answer(self, header: Header, payload: memoryview, now: float) -> list[Event]:
        state = self._controls.open_resume(header, decoded(Resume, payload))
        if not self._answer_awaited or state.ask or state.generation != self.generation:
            raise ProtocolError("the answer to another RESUME")
        self._sending.acknowledge(state.expected, state.limit)
        return self._on_path_again(now)
