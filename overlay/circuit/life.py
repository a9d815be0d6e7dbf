"""State, time and paths of one end of a circuit (docs/protocol/circuit.md, C-17, C-33, C-34, C-60 to C-63).

::

              READY said or heard               both CLOSEd and acknowledged
    OPENING ─────────────────────▶ RUNNING ───────────────────────────────────▶ OVER
       │                              │   ▲  path lost / RESUME answered
       │ REFUSE                       ▼   │
       └───────────▶ OVER        SUSPENDED (30 s) ──▶ OVER          abort from either side ──▶ OVER

Before READY a lost path is mended by the identical OPEN (`reopened`, `adopt`), after it by RESUME (`resume`,
`resumed`).
"""

import hashlib
from typing import NamedTuple

from overlay import limits
from overlay.circuit.acceptance import Acceptance
from overlay.circuit.controls import Controls, Names
from overlay.circuit.datagrams import DatagramPair
from overlay.circuit.events import Event, Over, Room
from overlay.circuit.frames import Frame
from overlay.circuit.memory import Memory
from overlay.circuit.receiving import ReceivingHalf
from overlay.circuit.sending import SendingHalf
from overlay.circuit.signatures import Signing, Verifying
from overlay.crypto.checkpoint import CALLER, HOST, Checkpoint
from overlay.crypto.circuit_keys import CircuitKeys
from overlay.errors import Code, ProtocolError
from overlay.wire.bodies import STREAM, STRICT, Resume, ResumeState
from overlay.wire.header import Flag, Header

LINGER = 10.0
"""How long an end waits for the other's last acknowledgement (C-34), seconds since anything was acknowledged."""


ACKNOWLEDGE_WITHIN = 0.05
"""So long a half-close may wait for this side's own CLOSE, which acknowledges it as well (C-30), seconds."""
_LAST = int(Flag.LAST)


class Receipt(NamedTuple):
    """The last checkpoints of both directions (C-43); None where a direction never had one."""

    caller: Checkpoint | None
    host: Checkpoint | None


class CircuitLife:
    """What `Circuit` is made of. `role` is CALLER or HOST.

    `opened` after READY; `over` says how it ended for the application; `finished` when the hop may be freed as well.
    """

    def __init__(
        self, names: Names, role: int, keys: CircuitKeys, signing: Signing, verifying: Verifying
    ) -> None:
        strict = names.integrity == STRICT
        self.names = names
        self.role = role
        self.opened = False
        self.over: Over | None = None
        self.finished = False
        self.suspended = False
        self.generation = 0
        self.resumes = 0
        self.resent = 0
        """Bytes of frames that were sent again on a new path."""
        self._stalled = 0.0
        """Seconds without a path that are over."""
        self.datagrams = DatagramPair(
            keys.send_datagram, keys.receive_datagram, signing, verifying, strict=strict
        )
        self._controls = Controls(keys.send_control, keys.receive_control)
        self._sending = SendingHalf(keys.send_stream, signing, strict=strict)
        self._receiving = ReceivingHalf(keys.receive_stream, verifying, strict=strict)
        self._out: list[Frame] = []
        self._acceptance: Acceptance | None = None
        """Host: ACCEPT, until it was said."""
        self._accepted: Acceptance | None = None
        """Host: ACCEPT, until the caller shows that it has it."""
        self._answer: Frame | None = None
        self._first_credit: Frame | None = None
        self._first_credit_hash = b""
        self._linger: float | None = None
        self._credit_at: float | None = None
        """When CLOSE is to be acknowledged by CREDIT (C-30)."""
        self._resume_until: float | None = None
        self._answer_awaited = False

    def share(self, memory: Memory | None) -> None:
        """Take what it holds out of this memory, its node's, from now on; None: give all back, it is over."""
        self._sending.share(memory)
        self._receiving.share(memory)

    # --- facts ------------------------------------------------------------------------------------

    @property
    def bytes_sent(self) -> int:
        """Payload bytes of this end, stream and datagrams."""
        return self._sending.size + self.datagrams.sent

    @property
    def bytes_received(self) -> int:
        """Payload bytes of the other end."""
        return self._receiving.size + self.datagrams.received

    @property
    def kept_bytes(self) -> int:
        """Bytes of frames that are kept for a new path, ACCEPT included."""
        accepted = self._accepted
        return self._sending.kept_bytes + (0 if accepted is None else len(accepted.payload))

    def forget(self) -> None:
        """Nobody may ask any more what was said here; host: or the caller shows that it has ACCEPT."""
        if self._accepted is not None:
            self._accepted.arrived()
            self._accepted = None

    @property
    def receipt(self) -> Receipt:
        """As of now."""
        mine, theirs = self._sending.last, self._receiving.last
        return Receipt(mine, theirs) if self.role == CALLER else Receipt(theirs, mine)

    def deadline(self) -> float | None:
        """When `tick` wants to be called next."""
        sending = None if self.suspended else self._sending.deadline
        if self._linger is None and self._resume_until is None and self._credit_at is None:
            return sending
        times = (self._linger, self._resume_until, self._credit_at, sending)
        return min((time for time in times if time is not None), default=None)

    @property
    def pending(self) -> bool:
        """`take` may have something."""
        return bool(self._out)

    def take(self) -> list[Frame]:
        """The frames to be sent now, in order."""
        out = self._out
        acceptance = self._acceptance
        if acceptance is not None:
            if acceptance.waits(out):
                return []
            self._acceptance = None
            out, answered = acceptance.with_frames(out)
            if answered:
                self._answer = None  # whoever gets this ACCEPT has READY
            self._out = []
        elif out:
            self._out = []
        return out

    def accept(self, acceptance: Acceptance) -> None:
        """Host: `take` gives ACCEPT before anything else, with what may go along (C-14)."""
        self._acceptance = self._accepted = acceptance

    def accept_now(self) -> None:
        """Host: ACCEPT waits for nothing any more."""
        if self._acceptance is not None:
            self._acceptance.due = True

    # --- time ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Event]:
        """What time brings: checkpoints, the end of waiting."""
        due = self._sending.deadline
        if due is not None and due <= now and not self.suspended:
            self._stream(self._sending.checkpoint())
        if self._credit_at is not None and self._credit_at <= now:
            self._acknowledge_close()
        if self._resume_until is not None and self._resume_until <= now:
            reason = "no path to the other end for 30 s"
            if self._only_the_last_word_is_missing():
                return self._broken(Code.NORMAL, "", now)
            if self.over is None:  # kept, so that who resumes too late learns it (C-62)
                self._sending.close(Code.PATH_LOST, reason, self._receiving.told)
            return self._broken(Code.PATH_LOST, reason, now)
        if self._linger is not None and self._linger <= now:
            return self._broken(Code.PATH_LOST, "the other end did not acknowledge the end", now)
        return []

    # --- paths --------------------------------------------------------------------------------------

    def path_lost(self, now: float) -> list[Event]:
        """The hop is gone: nothing leaves until RESUME was answered (C-60), for 30 s at most (C-63)."""
        self._out.clear()
        self._answer_awaited = False
        self._linger = None
        self._credit_at = None  # RESUME says what has come
        self._receiving.other_path()
        if self.over is not None:
            self.finished = True
        elif not self.suspended:
            self.suspended = True
            self._resume_until = now + limits.RESUME_TIME
        return []

    def announce(self, flight: bytes = b"") -> None:
        """Caller: the CREDIT by which a path becomes the circuit's, with the last TLS flight (C-13, C-15)."""
        if self._first_credit is None:
            ack, limit = self._receiving.credit()
            flags = int(Flag.FLIGHT) if flight else 0
            self._first_credit = self._controls.credit(flags, ack, limit, flight)
        self._control(self._first_credit)

    def reopened(self, now: float) -> None:
        """Caller, before READY: the identical OPEN got the identical ACCEPT on a new hop; all is said again
        there (C-17).
        """
        self.suspended = False
        self._wait_no_longer(now)
        self.announce()
        self._out += self._sending.unacknowledged()

    def adopt(self, header: Header, payload: memoryview, now: float) -> list[Event]:
        """Host: a CREDIT came on a hop where the identical OPEN came again. On return that hop is the path
        (C-15, C-17).

        Raises:
            LateError: the caller has gone on elsewhere since it said that. TamperError, ProtocolError: it did not say
            that. The circuit stays where it is.
        """
        if header.sequence < self._controls.expected:
            if self.generation or self._first_credit_hash != digest_of(header, payload):
                self._controls.open_credit(header, payload)  # its number is used up: this says no
        elif self.generation:
            raise ProtocolError("an OPEN was repeated for a circuit that was resumed")
        else:
            ack, limit, _ = self._controls.open_credit(header, payload)
            self._sending.acknowledge(ack, limit)
            self._first_credit_hash = self._first_credit_hash or digest_of(header, payload)
        self.forget()
        self.suspended = False
        self._wait_no_longer(now)
        self._acceptance = None  # the caller has it from this hop
        self._receiving.expect_repeats()
        self._out = [] if self._answer is None else [self._answer]
        self._out += self._sending.unacknowledged()
        return [Room()]

    def resume(self, intent: bytes, route: tuple[str, ...], path: tuple[str, ...]) -> Frame:
        """Caller: RESUME for a new hop, after `path_lost`; `intent` is an encoded `ResumeIntent` (C-60)."""
        self.generation += 1
        self._answer_awaited = True
        return self._controls.resume(intent, self._state(), route, path)

    def resumed(self, header: Header, body: Resume, now: float) -> list[Event]:
        """Host: a RESUME for this circuit came in on a new hop. On return the circuit is on that hop, and
        `take` has the
        answer and all that the other end lacks. A circuit that has ended answers, too, so that the caller
        learns how (C-62).

        Raises:
            LateError: the caller has said a newer one since. TamperError, ProtocolError: it does not hold. The circuit
            stays where it is (C-61).
        """
        state = self._controls.open_resume(header, body)
        if state.ask or state.generation <= self.generation:
            raise ProtocolError("a RESUME of an older generation")
        self._sending.acknowledge(state.expected, state.limit)
        self.generation = state.generation
        self._out = [self._controls.resume(body.intent, self._state())]
        return self._on_path_again(now)

    def ask(self, intent: bytes, path: tuple[str, ...]) -> Frame:
        """Host: RESUME that asks the caller for another path (C-64); it changes nothing here."""
        state = ResumeState(self.generation, *self._receiving.credit(), ask=True)
        return self._controls.resume(intent, state, (), path)

    def asked(self, header: Header, body: Resume) -> bool:
        """Caller: the host wants another path (C-64). False: an old question, or RESUME is under way already.

        Raises:
            TamperError, ProtocolError: the host did not say that.
        """
        if header.sequence < self._controls.expected or self._answer_awaited:
            return False
        if not self._controls.peek_resume(header, body).ask:
            raise ProtocolError("a RESUME from the host of the circuit")
        if not self.opened or self.over is not None:
            return False  # it stays where it is, and there what the host said before may still come: READY, CREDIT
        self._controls.open_resume(header, body)
        return True

    def unreachable(self, code: Code, reason: str, now: float) -> list[Event]:
        """Caller: there is no way back to the host (C-63)."""
        if self._only_the_last_word_is_missing():
            return self._broken(Code.NORMAL, "", now)
        return self._broken(code, reason, now)

    def stalled_by(self, now: float) -> float:
        """Seconds without any path, the present ones included."""
        if self._resume_until is None:
            return self._stalled
        return self._stalled + now - (self._resume_until - limits.RESUME_TIME)

    def _wait_no_longer(self, now: float) -> None:
        """There is a path again, or the circuit is over: the one place that ends the time without."""
        self._stalled = self.stalled_by(now)
        self._resume_until = None

    def _only_the_last_word_is_missing(self) -> bool:
        """Both directions had ended, and every byte had arrived (C-63)."""
        half = self._sending
        return half.closed and half.data_acknowledged and self._receiving.closing is not None

    def _state(self) -> ResumeState:
        return ResumeState(self.generation, *self._receiving.credit())

    def _on_path_again(self, now: float) -> list[Event]:
        self.suspended = False
        self._answer_awaited = False
        self._wait_no_longer(now)
        self.resumes += 1
        self.resent += self._sending.kept_bytes
        self._out += self._sending.unacknowledged()
        if self.over is not None:
            self.finished = self._sending.all_acknowledged
            self._linger = now + LINGER
            return []
        if self._sending.closed and self._receiving.closing is not None:
            self._linger = now + LINGER
        return [Room(), *self._settle(now)]

    # --- helpers ------------------------------------------------------------------------------------

    def _stream(self, frame: Frame) -> None:
        if not self.suspended:
            self._out.append(frame)  # else it is kept, and leaves after RESUME

    def _control(self, frame: Frame) -> None:
        if not self.suspended:
            self._out.append(frame)  # else RESUME says all that matters

    def _credit_if_due(self) -> None:
        # A host is silent before READY, which is its first sealed frame (C-14).
        quiet = self.suspended or (self.role == HOST and not self.opened)
        if not quiet and self._receiving.credit_due():
            ack, limit = self._receiving.credit()
            credit = self._controls.credit(_LAST if self._said_all() else 0, ack, limit)
            if self.role == CALLER and not self.opened and self._first_credit is None:
                self._first_credit = credit
            self._out.append(credit)

    def _acknowledge_close(self) -> None:
        """By CREDIT, now or as soon as something may be said."""
        self._credit_at = None
        self._receiving.want_credit()
        self._credit_if_due()

    def _ended_by_other(self) -> bool:
        """All that the other end says has come, and nothing of it needs credit any more."""
        closing = self._receiving.closing
        return closing is not None and closing.code is Code.NORMAL

    def _said_all(self) -> bool:
        """The CREDIT that leaves now is the last frame that this end says on the hop (L-38). While anything of the
        stream might still be queued, which CREDIT overtakes, none is."""
        half = self._sending
        return (
            half.closed
            and half.all_acknowledged
            and self._ended_by_other()
            and self.names.transport == STREAM
        )

    def _settle(self, now: float) -> list[Event]:
        """Is it over (C-33)?"""
        if not self._sending.closed or not self._sending.all_acknowledged:
            return []
        if self.over is None and self._receiving.closing is None:
            return []
        return self._broken(Code.NORMAL, "", now)

    def _broken(self, code: Code, reason: str, now: float) -> list[Event]:
        self.finished = True
        return [] if self.over is not None else [self._end(code, reason, now)]

    def _end(self, code: Code, reason: str, now: float) -> Over:
        self.over = Over(code, reason)
        self._wait_no_longer(now)
        return self.over


def digest_of(header: Header, payload: memoryview) -> bytes:
    """By which a repeated frame is known again."""
    return hashlib.sha256(header.end_to_end() + payload).digest()
