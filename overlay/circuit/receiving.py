"""The receiving half of a circuit: opens frames in order, checks checkpoints, gives credit (C-20 to C-44)."""

from overlay import limits
from overlay.circuit.frames import Closing, decode_close
from overlay.circuit.memory import Memory
from overlay.circuit.signatures import Verifying
from overlay.circuit.window import Window
from overlay.crypto.checkpoint import Checkpoint, RunningHash, decode_checkpoint
from overlay.crypto.circuit_keys import StreamOpener, early_fields
from overlay.errors import Code, DecodeError, ProtocolError, TamperError
from overlay.wire.header import Flag, Header

ACKNOWLEDGE_FRAMES = 64
"""After so many frames an acknowledgement is due, so that the sender need not keep many small ones."""
IN_PLACE = 16 * 1024
"""From so many bytes on a frame is opened into memory that is there: new memory is filled with zeros first, which costs
a quarter of what opening costs."""

_SIGNED = int(Flag.SIGNED)  # an enumeration costs more than the rest of the check


class ReceivingHalf:
    """One direction of a circuit at its receiver. `last` is the last checkpoint that held, `closing` what
    CLOSE said.
    """

    __slots__ = (
        "_consumed", "_due", "_memory", "_now", "_opener", "_repeats", "_running", "_since", "_strict",
        "_told_ack", "_told_limit", "_verifying", "_window", "closing", "last",
    )  # fmt: skip

    def __init__(self, opener: StreamOpener, verifying: Verifying, *, strict: bool) -> None:
        self._opener = opener
        self._verifying = verifying
        self._strict = strict
        self._running = RunningHash()
        self._since = 0
        self._consumed = 0
        self._told_ack = 0
        self._told_limit = limits.INITIAL_WINDOW
        self._due = False
        self._now = 0.0
        self._repeats = False
        self._window = Window()
        self._memory: Memory | None = None
        self.closing: Closing | None = None
        self.last: Checkpoint | None = None

    @property
    def size(self) -> int:
        """Plaintext bytes of DATA so far, early data included."""
        return self._running.size

    @property
    def window(self) -> int:
        """Bytes that the sender may have on the way."""
        return self._window.size

    @property
    def buffered(self) -> int:
        """Bytes that were delivered and not yet `consumed`."""
        return self._running.size - self._consumed

    @property
    def crowds(self) -> bool:
        """The node holds more than it may, and this circuit holds more than its first window (C-35)."""
        memory = self._memory
        return memory is not None and memory.unread and self.buffered > limits.INITIAL_WINDOW

    def share(self, memory: Memory | None) -> None:
        """Take from this memory from now on; None: give all back, the circuit is over."""
        if self._memory is not None:
            self._memory.buffered -= self.buffered
        self._memory = memory
        if memory is not None:
            memory.buffered += self.buffered
        self._window.share(memory)

    def early(self, plain: bytes, sealed: bytes) -> None:
        """Early data was in OPEN and held (C-12): it is frame 0."""
        self._opener.skip_first()
        self._count(early_fields(sealed), memoryview(sealed)[-limits.TAG_SIZE :], len(plain))

    def other_path(self) -> None:
        """What comes from now on comes by another path."""
        self._window.other_path()

    def expect_repeats(self) -> None:
        """The other end begins again at its first frame (C-17): what was received is dropped until the next
        new one.
        """
        self._repeats = True

    def data(
        self, header: Header, payload: memoryview, now: float, room: memoryview | None
    ) -> bytes | memoryview:
        """The plaintext of a DATA frame; empty for a repeated one. Where there is `room` (`MAX_DATA` bytes) a large one
        is opened into it.

        Raises:
            TamperError: it fails, repeats, skips, is not signed where it must be, or a checkpoint is missing.
            ProtocolError: it is empty, exceeds the credit or follows CLOSE.
        """
        if (self._repeats or self.closing is not None) and self._repeated(header):
            return b""
        if bool(header.flags & _SIGNED) is not self._strict:
            raise TamperError("a frame without its signature, or with one that nobody asked for")
        sealed = payload
        if self._strict:
            sealed = payload[: -limits.SIGNATURE_SIZE]
            self._verifying.frame(header.sequence, sealed, payload[-limits.SIGNATURE_SIZE :])
        size = len(sealed) - limits.TAG_SIZE
        if size <= 0 or self._running.size + size > self._told_limit:
            raise ProtocolError("a frame without data, or more data than the credit allows")
        if self._since >= limits.CHECKPOINT_BYTES + limits.MAX_DATA:
            raise TamperError("no checkpoint came within 4 MiB")
        fields = header.end_to_end()
        plain: bytes | memoryview
        if room is None or size < IN_PLACE:
            plain = self._opener.open(header, sealed, fields)
        else:
            plain = room[: self._opener.open_into(header, sealed, room)]
        self._count(fields, sealed[-limits.TAG_SIZE :], size)
        self._now = now
        self._window.received(self._running.size, now)
        return plain

    def checkpoint(self, header: Header, payload: memoryview) -> None:
        """Check a CHECKPOINT frame.

        Raises:
            TamperError: frame or checkpoint is wrong. ProtocolError: after CLOSE, or about nothing new.
        """
        if self._repeated(header):
            return
        plain = self._opener.open(header, payload)
        if not self._since:
            raise ProtocolError("a checkpoint about nothing new")
        try:
            self._hold(decode_checkpoint(plain))
        except DecodeError as error:
            raise ProtocolError(str(error)) from None

    def close(self, header: Header, payload: memoryview) -> Closing | None:
        """Check a CLOSE frame; None for a repeated one. An end that half-closed may still break off (C-32).

        Raises:
            TamperError: frame or checkpoint is wrong. ProtocolError: a second CLOSE, or one that does not decode.
        """
        if self._repeated(header, last_word=True):
            return None
        try:
            closing = decode_close(self._opener.open(header, payload))
        except DecodeError as error:
            raise ProtocolError(str(error)) from None
        if self.closing is not None and closing.code is Code.NORMAL:
            raise ProtocolError("CLOSE after CLOSE")
        self._hold(closing.checkpoint)
        self._due = False  # the circuit says when (C-30)
        self.closing = closing
        return closing

    def consumed(self, count: int, now: float) -> None:
        """`count` delivered bytes have left this node.

        Raises:
            ValueError: more than was delivered.
        """
        if count > self.buffered:
            raise ValueError("more bytes consumed than were delivered")
        self._consumed += count
        if self._memory is not None:
            self._memory.buffered -= count
        self._now = now
        self._window.consumed(count, now)

    def credit_due(self) -> bool:
        """A CREDIT should go out: half of the window is free again, or a checkpoint or many frames came."""
        if self.closing is not None:
            return self._due  # who has ended needs no window
        return (
            self._due
            or self._opener.expected - self._told_ack >= ACKNOWLEDGE_FRAMES
            or 2 * (self._consumed + self._window.size - self._told_limit) >= self._window.size
        )

    @property
    def told(self) -> int:
        """What was acknowledged last."""
        return self._told_ack

    def acknowledge_all(self) -> int:
        """All that came is acknowledged by a frame that leaves now; `ack` as in CREDIT."""
        self._due = False
        self._told_ack = self._opener.expected
        return self._told_ack

    def want_credit(self) -> None:
        """A CREDIT is due, whatever came."""
        self._due = True

    def credit(self) -> tuple[int, int]:
        """(ack, limit) of the CREDIT or RESUME that goes out now."""
        self.acknowledge_all()
        limit = self._consumed + self._window.size
        if limit > self._told_limit:
            self._window.credited(self._told_limit, self._now)
            self._told_limit = limit
        return self._told_ack, self._told_limit

    def _repeated(self, header: Header, *, last_word: bool = False) -> bool:
        if self._repeats and header.sequence < self._opener.expected:
            return True
        closing = self.closing
        if closing is not None and not (last_word and closing.code is Code.NORMAL):
            raise ProtocolError(f"{header.kind.name} after CLOSE")
        self._repeats = False
        return False

    def _count(self, fields: bytes, tag: memoryview, size: int) -> None:
        self._running.add(fields, tag, size)
        self._since += size
        if self._memory is not None:
            self._memory.buffered += size

    def _hold(self, checkpoint: Checkpoint) -> None:
        self._verifying.checkpoint(checkpoint, self._running)
        self._since = 0
        self._due = True
        self.last = checkpoint
