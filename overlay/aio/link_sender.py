"""The sending half of a link: queue, seal, write (docs/protocol/link.md, L-23).

DATA and datagrams that come when nothing waits leave at once; of what comes in a burst the first does, and the rest
waits for its turn and leaves in one call. Frames are sealed only when the connection takes them, so that control never
waits behind more than `GATHER` bytes of data; a large payload that the connection takes at once is never copied.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import cast

from overlay import limits
from overlay.aio.pipes import Piped
from overlay.aio.splicing import SpliceConnection
from overlay.aio.world import Buffer, Connection
from overlay.crypto.records import Records
from overlay.errors import Code, DecodeError, LimitError, TamperError
from overlay.link.turns import Frame, Turns
from overlay.wire.bodies import Refusal
from overlay.wire.codec import decode
from overlay.wire.header import Header, Kind

GATHER = 256 * 1024
"""Bytes that are sealed ahead of what the connection has taken, plus at most one frame."""
_PARTS = 256
DIRECT = 16 * 1024
"""From this size on a payload is written at once whenever the connection takes it: alone, and from where it lies."""
JOIN = 4096
"""Below this size header and payload are copied into one buffer."""
BURST = 50e-6
"""Seconds: a small frame of DATA, or a datagram, that comes sooner behind another leaves together with what follows."""
LONG_TURN = 2e-3
"""Seconds: in a turn of the event loop that has taken so long much is to be done, and small frames leave together. The
loop's clock, which says when a turn began, has a grain of a millisecond."""
_HALF_CIRCUIT = limits.CIRCUIT_QUEUE_BYTES // 2
_DISCARDING = frozenset(
    {Code.PROTOCOL, Code.TAMPER, Code.KILLED, Code.LOCAL_KILL, Code.REVOKED},
)
"""Codes of a RESET that does not wait behind its circuit's queue (L-21)."""

Payload = Buffer | Sequence[Buffer | Piped]

# 3.11 looks members of an enumeration up slowly.
_DATA, _DATAGRAM, _RESET = Kind.DATA, Kind.DATAGRAM, Kind.RESET
_new = tuple.__new__  # twice as fast as calling a NamedTuple


class LinkSender:
    """Queues frames and writes them to `connection` as it takes them.

    Args:
        room: told a circuit whose queue fell below half of `CIRCUIT_QUEUE_BYTES`.
    """

    def __init__(
        self, connection: Connection, records: Records, room: Callable[[int], None]
    ) -> None:
        self.turns = Turns()
        self.blocked = False
        """The connection did not take all; `writable` goes on."""
        self.bytes = 0
        self._connection = connection
        self._seal = records.seal
        self._seal_head = records.seal_head
        self._room = room
        self._loop = asyncio.get_running_loop()
        self.taken: float = self._loop.time()
        """When the connection last took anything."""
        self._unsent: list[Buffer | Piped] = []
        self._scheduled = False
        self._clock = connection.clock
        self._moment = -BURST
        """When the last small frame asked to leave at once."""
        self._gathering = False
        """What waits leaves with the last of some datagrams; should it not come, with the next turn."""
        self._mixed = False
        """Payloads may lie in pipes."""

    @property
    def said(self) -> int:
        """Bytes since the beginning that go ahead of whatever is sent next."""
        return self.bytes + sum(map(len, self._unsent))

    @property
    def acknowledged(self) -> int:
        """Bytes since the beginning that the other side's kernel has."""
        return self.bytes - self._connection.unacknowledged()

    def lead(self, flight: bytes) -> None:
        """Bytes that leave before all frames, as they are: the handshake's last flight."""
        if flight:
            self._unsent.append(flight)

    def send(
        self, kind: Kind, flags: int, circuit: int, sequence: int, payload: Payload, *, kept: bool
    ) -> None:
        """Write a frame now, or queue it; see `LinkDriver.send`."""
        if isinstance(payload, bytes | memoryview | bytearray):
            length = len(payload)
            if kind is _DATA and self._may_leave(length):
                self._write_now(kind, flags, circuit, sequence, payload, length, kept=kept)
                return
            if not (kept or isinstance(payload, bytes)):
                payload = bytes(payload)
        else:
            length = sum(len(part) for part in payload)
            if not kept:
                payload = _copy(payload)
            elif not self._mixed:
                self._mixed = any(isinstance(part, Piped) for part in payload)
        if kind is _RESET:
            self._make_way(circuit, payload)
        self.push(_new(Frame, (kind, flags, length, circuit, sequence, payload)))

    def _may_leave(self, length: int) -> bool:
        """Whether a frame of this length leaves at once: nothing waits, and no other small one left just now.

        Of a burst the first leaves at once and the others together, in the next turn of the loop: one at a time costs a
        system call each, and all in the next turn a turn for each message. Kinds that say something about a circuit
        come in bursts and always leave together: sent one by one, an opening costs a third more.
        """
        if self.blocked:
            return False
        if length >= DIRECT:
            if self.turns.total or self._unsent:
                self.flush()
            return not self.blocked
        if self._scheduled or self.turns.total or self._unsent:
            return False
        before, now = self._moment, self._clock()
        self._moment = now
        return now - before >= BURST and now - self._loop.time() < LONG_TURN

    def send_datagram(
        self, flags: int, circuit: int, sequence: int, payload: Buffer, *, kept: bool, more: bool
    ) -> int:
        """Write a datagram now, or queue it; how many older ones of its circuit gave way (L-25). None does while the
        connection takes what waits.

        `more`: another follows at once. It waits for that, and the last takes all with it.
        """
        length = len(payload)
        if more:
            self._gathering = True
        elif not self._gathering and self._may_leave(length):
            self._write_now(_DATAGRAM, flags, circuit, sequence, payload, length, kept=kept)
            return 0
        if not self.blocked and self.turns.crowded(circuit, length):
            self.flush()
        whole = payload if kept else bytes(payload)
        gone = self.push(_new(Frame, (_DATAGRAM, flags, length, circuit, sequence, whole)))
        if self._gathering and not more:
            self.flush()
        return gone

    def push(self, frame: Frame) -> int:
        """Queue a frame; it leaves with the next turn of the event loop. How many datagrams gave way (L-25)."""
        gone = self.turns.push(frame)
        if not self._scheduled and not self.blocked:
            self._scheduled = True
            self._loop.call_soon(self.flush)
        return gone

    def writable(self) -> None:
        """The connection takes more."""
        self.blocked = False
        self.flush()

    def flush(self) -> None:
        """Seal and write until nothing waits or the connection takes no more."""
        self._scheduled = self._gathering = False
        try:
            self._flush()
        except (LimitError, TamperError):
            self._give_up()

    def _flush(self) -> None:
        turns, seal = self.turns, self._seal
        relieved: list[int] = []
        while not self.blocked:
            # What was sealed before counts: a connection that takes little at a time gets no more sealed ahead for it.
            parts = self._unsent
            size = sum(map(len, parts))
            frame = turns.pop() if size < GATHER and len(parts) < _PARTS else None
            while frame is not None:
                length = frame.length
                size += length
                parts += seal(frame, frame.payload)
                if turns.total + length >= _HALF_CIRCUIT and frame.circuit:
                    left = turns.backlog(frame.circuit)
                    if left < _HALF_CIRCUIT <= left + length:
                        relieved.append(frame.circuit)
                if size >= GATHER or len(parts) >= _PARTS:
                    break
                frame = turns.pop()
            if not parts:
                break
            self._unsent = []
            self._write(parts)
        for circuit in relieved:
            self._room(circuit)

    def _give_up(self) -> None:
        """This direction's nonces are used up (L-16), or OpenSSL has given up after a bad record."""
        self.discard()
        self._connection.abort()

    def discard(self) -> None:
        """Forget all that waits."""
        self.turns = Turns()
        self._unsent.clear()

    def _write(self, parts: "list[Buffer | Piped]") -> None:
        if self._mixed:
            self._write_mixed(parts)
            return
        plain = cast("list[Buffer]", parts)
        total = sum(map(len, plain))
        taken = self._connection.write(plain)
        if taken:
            self.bytes += taken
            self.taken = self._loop.time()
        if taken < total:
            self.blocked = True
            self._unsent = list(_after(plain, taken))

    def _write_mixed(self, parts: "list[Buffer | Piped]") -> None:
        """`_write` of parts that may lie in pipes: what stands before one goes into the same segment."""
        connection = cast("SpliceConnection", self._connection)
        while parts and not self.blocked:
            part = parts[0]
            if isinstance(part, Piped):
                before = part.left
                try:
                    part.splice(connection.fileno())
                except BlockingIOError:
                    self.blocked = True
                    connection.notify()
                except OSError as error:
                    connection.fail(error)
                    part.give_up()
                taken = before - part.left
                if not self.blocked:
                    parts = parts[1:]
            else:
                some = cast("list[Buffer]", list(takewhile(_is_plain, parts)))
                parts = parts[len(some) :]
                taken = connection.write(some, more=bool(parts))
                rest = _after(some, taken)
                if rest:
                    self.blocked = True
                    parts = [*rest, *parts]
            if taken:
                self.bytes += taken
                self.taken = self._loop.time()
        self._unsent = parts

    def _write_now(
        self,
        kind: Kind,
        flags: int,
        circuit: int,
        sequence: int,
        payload: Buffer,
        length: int,
        *,
        kept: bool,
    ) -> None:
        """Seal and write one frame from where it lies; only what the connection does not take is copied."""
        try:
            head = self._seal_head(kind, flags, length, circuit, sequence)
            if head is None:
                parts = self._seal(_new(Header, (kind, flags, length, circuit, sequence)), payload)
            elif length < JOIN:
                parts = [
                    b"".join((head, payload))
                ]  # one buffer costs less than the system call for two
            else:
                parts = [head, payload]
        except (LimitError, TamperError):
            self._give_up()
            return
        wanted = sum(map(len, parts))
        taken = self._connection.write(parts)
        if taken:
            self.bytes += taken
            self.taken = self._loop.time()
        if taken < wanted:
            self.blocked = True
            rest = _after(parts, taken)
            self._unsent = [*rest] if kept else [bytes(part) for part in rest]

    def _make_way(self, circuit: int, payload: Payload) -> None:
        """RESET leaves behind what waits for its circuit, unless nothing of it may leave any more (L-21)."""
        try:
            code = decode(Refusal, _copy(payload)).code
        except DecodeError:
            code = Code.PROTOCOL
        if code in _DISCARDING:
            self.turns.drop(circuit)


def _copy(payload: Payload) -> bytes:
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload)
    return b"".join(cast("Sequence[Buffer]", payload))


def _is_plain(part: Buffer | Piped) -> bool:
    return not isinstance(part, Piped)


def _after(parts: list[Buffer], taken: int) -> list[Buffer]:
    """What is left of `parts` after the first `taken` bytes."""
    for place, part in enumerate(parts):
        size = len(part)
        if taken < size:
            return [memoryview(part)[taken:], *parts[place + 1 :]]
        taken -= size
    return []
