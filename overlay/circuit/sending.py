"""The sending half of a circuit: seals, counts against credit, checkpoints, keeps what is not acknowledged
(C-20 to C-44).
"""

from collections import deque

from overlay import limits
from overlay.circuit.frame_memory import LARGE
from overlay.circuit.frames import Buffer, Frame, encode_close
from overlay.circuit.memory import Memory
from overlay.circuit.pace import Pace
from overlay.circuit.signatures import Signing
from overlay.crypto.checkpoint import Checkpoint, RunningHash
from overlay.crypto.circuit_keys import Sealer, early_fields
from overlay.errors import Code, ProtocolError
from overlay.wire.header import Flag, Kind

KEPT_FRAMES = 1024
"""Unacknowledged frames that a sender keeps at most, however small they are."""
SMALL_CREDIT = 16 * 1024
"""With less credit than this and frames on their way, more credit is awaited instead of sending crumbs."""
_DATA = Kind.DATA  # 3.11 looks members of an enumeration up slowly
_LAST = int(Flag.LAST)
_TRAILER = limits.TAG_SIZE + limits.SIGNATURE_SIZE


class SendingHalf:
    """One direction of a circuit at its sender. `last` is the last checkpoint that was made."""

    __slots__ = (
        "_acknowledged", "_kept", "_memory", "_pace", "_running", "_sealer", "_signing", "_since",
        "_strict", "closed", "deadline", "kept_bytes", "last", "limit",
    )  # fmt: skip

    def __init__(self, sealer: Sealer, signing: Signing, *, strict: bool) -> None:
        self._sealer = sealer
        self._signing = signing
        self._strict = strict
        self._running = RunningHash()
        self._kept: deque[Frame] = deque()
        self._acknowledged = 0
        self._since = 0
        self.deadline: float | None = None
        """When `checkpoint` is due (C-41)."""
        self._memory: Memory | None = None
        self._pace = Pace()
        self.kept_bytes = 0
        self.limit = limits.INITIAL_WINDOW
        self.closed = False
        self.last: Checkpoint | None = None

    @property
    def size(self) -> int:
        """Plaintext bytes of DATA so far, early data included."""
        return self._running.size

    @property
    def all_acknowledged(self) -> bool:
        """The other side has everything that was made."""
        return self._acknowledged == self._sealer.sequence

    @property
    def data_acknowledged(self) -> bool:
        """The other side has all bytes; what is kept says something about them."""
        return not any(frame.kind is _DATA for frame in self._kept)

    @property
    def said_last(self) -> bool:
        """The last frame that is kept ends what this side says on its hop (L-38)."""
        return bool(self._kept) and bool(self._kept[-1].flags & _LAST)

    def room(self) -> int:
        """Plaintext bytes that one DATA frame may hold now; 0: wait for an acknowledgement."""
        if self.closed or len(self._kept) >= KEPT_FRAMES:
            return 0
        memory = self._memory
        if memory is not None and memory.full and self.kept_bytes >= limits.INITIAL_WINDOW:
            return 0  # an acknowledgement of its own is on the way, and then it is asked again
        credit = self.limit - self._running.size
        # Who gives credit without acknowledging does not make this side keep more than the largest window.
        if credit > limits.MAX_WINDOW - self.kept_bytes:
            credit = limits.MAX_WINDOW - self.kept_bytes
        if credit >= self._pace.frame:
            return self._pace.frame
        if credit < SMALL_CREDIT and self._kept:
            return 0
        return max(0, credit)

    def share(self, memory: Memory | None) -> None:
        """Keep frames in this memory from now on; None: the circuit is over."""
        if self._memory is not None:
            self._memory.kept -= self.kept_bytes
            if not self._memory.kept:
                self._memory.frames.rest()
        self._memory = memory
        if memory is not None:
            memory.kept += self.kept_bytes

    def early(self, sealed: bytes, now: float) -> None:
        """Early data was in OPEN: it is frame 0 of this direction, repeated with OPEN only (C-12)."""
        self._sealer.skip_first()
        self._count(early_fields(sealed), sealed[-limits.TAG_SIZE :], len(sealed) - limits.TAG_SIZE)
        self.deadline = now + limits.CHECKPOINT_INTERVAL

    def data(self, plain: Buffer, now: float) -> list[Frame]:
        """Seal one DATA frame, and a checkpoint behind it when 4 MiB came together; `plain` is free again on return.

        Raises:
            ValueError: nothing, more than the credit allows, or after `close`.
        """
        size = len(plain)
        if self.closed or not 0 < size <= self.limit - self._running.size:
            raise ValueError("not a size that may be sent now")
        payload: Buffer
        if self._strict:
            flags = int(Flag.SIGNED)
            room = self._new_memory(size)[: size + _TRAILER]
            sealed = self._sealer.seal_into(
                _DATA, flags, plain, room, trailer=limits.SIGNATURE_SIZE
            )
            room[-limits.SIGNATURE_SIZE :] = self._signing.frame(sealed.sequence, sealed.data)
            payload = room
        else:
            flags = 0
            if size < LARGE:
                sealed = self._sealer.seal_plain(_DATA, plain)
            else:
                sealed = self._sealer.seal_into(_DATA, 0, plain, self._new_memory(size))
            payload = sealed.data
        self._count(sealed.fields, sealed.data[-limits.TAG_SIZE :], size)
        frame = self._keep(Frame(_DATA, flags, sealed.sequence, payload))
        self._pace.sent(sealed.sequence, now)
        if self._since >= limits.CHECKPOINT_BYTES:
            return [frame, self.checkpoint()]
        if self.deadline is None:
            self.deadline = now + limits.CHECKPOINT_INTERVAL
        return [frame]

    def checkpoint(self) -> Frame:
        """A CHECKPOINT over everything so far; costs no credit."""
        return self._seal(Kind.CHECKPOINT, self._sign().encode())

    def close(self, code: Code, reason: str, ack: int, *, last: bool = False) -> Frame:
        """The last frame of this direction, with the last checkpoint in it, and how many frames of the other side have
        come (C-30). `last`: nothing else is said behind it (L-38)."""
        # No more the last: this one follows when that is said again on another hop.
        if self.closed and self.said_last:
            self._kept[-1] = self._kept[-1]._replace(flags=0)
        self.closed = True
        plain = encode_close(self._sign(), ack, code, reason)
        return self._seal(Kind.CLOSE, plain, _LAST if last else 0)

    def acknowledge(self, ack: int, limit: int, now: float | None = None) -> bool:
        """The other side has all frames below `ack` and takes `limit` bytes in all (C-30). True when frames
        were news. `now` where it came by the path on which they were sent.

        Raises:
            ProtocolError: what was never sent is acknowledged, a value goes back, or the limit is above the
            largest window.
        """
        if ack > self._sealer.sequence:
            raise ProtocolError(f"{ack} frames are acknowledged, {self._sealer.sequence} were sent")
        if ack < self._acknowledged or limit < self.limit:
            raise ProtocolError("an acknowledgement or a limit went back")
        if limit > self._running.size + limits.MAX_WINDOW:
            raise ProtocolError("a credit above the largest window")
        news = ack > self._acknowledged
        self._acknowledged = ack
        self.limit = limit
        kept = self._kept
        before = self.kept_bytes
        while kept and kept[0].sequence < ack:
            payload = kept.popleft().payload
            self.kept_bytes -= len(payload)
            if isinstance(payload, memoryview) and self._memory is not None:
                memory = payload.obj
                del payload
                self._memory.frames.give(memory)
        gone = before - self.kept_bytes
        if self._memory is not None:
            self._memory.kept -= gone
        if now is None:
            self._pace.other_path()
        elif gone:
            self._pace.acknowledged(ack, gone, now)
        return news

    def acknowledge_frames(self, ack: int, now: float) -> None:
        """As `acknowledge`, by a CLOSE, which may be older than what is known already.

        Raises:
            ProtocolError: what was never sent is acknowledged.
        """
        self.acknowledge(max(ack, self._acknowledged), self.limit, now)

    def unacknowledged(self) -> list[Frame]:
        """What was sent and may not have arrived, in order, bit for bit as it was sent."""
        return list(self._kept)

    def _new_memory(self, size: int) -> memoryview:
        """Where a frame of so much plaintext is sealed."""
        if size >= LARGE and self._memory is not None:
            return self._memory.frames.take()
        return memoryview(bytearray(size + _TRAILER))

    def _count(self, fields: bytes, tag: Buffer, size: int) -> None:
        self._running.add(fields, tag, size)
        self._since += size

    def _sign(self) -> Checkpoint:
        self._since = 0
        self.deadline = None
        self.last = self._signing.checkpoint(self._running)
        return self.last

    def _seal(self, kind: Kind, plain: bytes, flags: int = 0) -> Frame:
        sealed = self._sealer.seal(kind, flags, plain)
        return self._keep(Frame(kind, flags, sealed.sequence, sealed.data))

    def _keep(self, frame: Frame) -> Frame:
        self._kept.append(frame)
        self.kept_bytes += len(frame.payload)
        if self._memory is not None:
            self._memory.kept += len(frame.payload)
        return frame
