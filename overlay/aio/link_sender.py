"""The sending half of a link: queue, seal, write (docs/protocol/link.md, L-23).

Frames are sealed only when the connection takes them, many per call, so that control never waits behind more than
`GATHER` bytes of data; a large payload that the connection takes at once is never copied.
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
from overlay.link.turns import STREAM_KINDS, Frame, Turns
from overlay.wire.bodies import Refusal
from overlay.wire.codec import decode
from overlay.wire.header import Header, Kind

GATHER = 256 * 1024
"""Bytes that are sealed ahead of what the connection has taken, plus at most one frame."""
_PARTS = 256
_DIRECT = 16 * 1024
"""From this size on a payload that would have to be copied into the queue is written at once when it can be."""
_HALF_CIRCUIT = limits.CIRCUIT_QUEUE_BYTES // 2
_DISCARDING = frozenset(
    {Code.PROTOCOL, Code.TAMPER, Code.KILLED, Code.LOCAL_KILL, Code.REVOKED},
)
"""Codes of a RESET that does not wait behind its circuit's queue (L-21)."""

Payload = Buffer | Sequence[Buffer | Piped]

_RESET = Kind.RESET
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
        self._room = room
        self._loop = asyncio.get_running_loop()
        self.taken: float = self._loop.time()
        """When the connection last took anything."""
        self._unsent: list[Buffer | Piped] = []
        self._scheduled = False
        self._mixed = False
        """Payloads may lie in pipes."""

    def lead(self, flight: bytes) -> None:
        """Bytes that leave before all frames, as they are: the handshake's last flight."""
        if flight:
            self._unsent.append(flight)

    def send(
        self, kind: Kind, flags: int, circuit: int, sequence: int, payload: Payload, *, kept: bool
    ) -> None:
        """Queue a frame, or write it now when that saves a copy; see `LinkDriver.send`."""
        if isinstance(payload, bytes):
            length = len(payload)
        else:
            length = _length(payload)
            if not kept:
                if length >= _DIRECT and kind in STREAM_KINDS and not self.blocked:
                    self.flush()
                    if not self.blocked:
                        self._write_direct(Header(kind, flags, length, circuit, sequence), payload)
                        return
                payload = _copy(payload)
            elif not self._mixed and isinstance(payload, list):
                self._mixed = any(isinstance(part, Piped) for part in payload)
        if kind is _RESET:
            self._make_way(circuit, payload)
        self.push(_new(Frame, (kind, flags, length, circuit, sequence, payload)))

    def send_datagram(
        self, flags: int, circuit: int, sequence: int, payload: Buffer, *, kept: bool
    ) -> int:
        """Queue a datagram; how many older ones of its circuit gave way (L-25). None does while the connection takes
        what waits.
        """
        length = len(payload)
        if not self.blocked and self.turns.crowded(circuit, length):
            self.flush()
        whole = payload if kept else bytes(payload)
        return self.push(Frame(Kind.DATAGRAM, flags, length, circuit, sequence, whole))

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
        self._scheduled = False
        try:
            self._flush()
        except (LimitError, TamperError):
            # This direction's nonces are used up (L-16), or OpenSSL has given up after a bad record.
            self.discard()
            self._connection.abort()

    def _flush(self) -> None:
        turns, seal = self.turns, self._seal
        relieved: list[int] = []
        while not self.blocked:
            frame = turns.pop()
            parts, size = self._unsent, 0
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
                    part.left = 0
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

    def _write_direct(self, header: Header, payload: Payload) -> None:
        """Write a large payload from where it lies; only what the connection does not take is copied."""
        self._write([*self._seal(header, cast("Buffer", payload))])
        rest = cast("list[Buffer]", self._unsent)
        self._unsent = [part if isinstance(part, bytes) else bytes(part) for part in rest]

    def _make_way(self, circuit: int, payload: Payload) -> None:
        """RESET leaves behind what waits for its circuit, unless nothing of it may leave any more (L-21)."""
        try:
            code = decode(Refusal, _copy(payload)).code
        except DecodeError:
            code = Code.PROTOCOL
        if code in _DISCARDING:
            self.turns.drop(circuit)


def _length(payload: Payload) -> int:
    if isinstance(payload, bytes | bytearray | memoryview):
        return len(payload)
    return sum(len(part) for part in payload)


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
