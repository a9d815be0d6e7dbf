"""Whose frame leaves next on a link (docs/protocol/link.md, L-23)."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from overlay.wire.header import HEADER_SIZE, Kind

Buffer = bytes | bytearray | memoryview

STREAM_KINDS = frozenset({Kind.DATA, Kind.DATAGRAM, Kind.CHECKPOINT, Kind.CLOSE, Kind.RESET})
"""Kinds that wait for their circuit's turn; all others leave first."""


class Frame(NamedTuple):
    """A frame on its way out, before it is sealed. The payload (`length` bytes, possibly in parts) must not change
    until it has left."""

    kind: Kind
    flags: int
    length: int
    circuit: int
    sequence: int
    payload: Buffer | Sequence[Buffer]


class Turns:
    """Frames that wait: control first and in order, then one frame of each circuit in turn, each circuit's in order.

    `total` counts all waiting bytes, headers included; `control` those that are not stream frames.
    """

    __slots__ = ("_alone", "_backlog", "_control", "_ready", "_streams", "control", "total")

    def __init__(self) -> None:
        self.total = 0
        self.control = 0
        # A frame that came when nothing waited, which is the usual case: it needs no place among others.
        self._alone: Frame | None = None
        self._control: deque[Frame] = deque()
        self._streams: dict[int, deque[Frame]] = {}
        self._backlog: dict[int, int] = {}
        self._ready: deque[int] = deque()

    def __bool__(self) -> bool:
        return self.total > 0

    def push(self, frame: Frame) -> None:
        """Queue a frame at its place."""
        size = HEADER_SIZE + frame.length
        if frame.kind not in STREAM_KINDS:
            self.control += size
        if not self.total:
            self.total = size
            self._alone = frame
            return
        self.total += size
        self._line_up()
        self._queue(frame)

    def pop(self) -> Frame | None:
        """Take the next frame; None when nothing waits."""
        frame = self._alone
        if frame is not None:
            self._alone = None
            self.total = self.control = 0
            return frame
        if self._control:
            frame = self._control.popleft()
            size = HEADER_SIZE + frame.length
            self.control -= size
            self.total -= size
            return frame
        while self._ready:
            circuit = self._ready.popleft()
            queue = self._streams.get(circuit)
            if queue is None:
                continue  # dropped while it waited for its turn
            frame = queue.popleft()
            size = HEADER_SIZE + frame.length
            self.total -= size
            if queue:
                self._backlog[circuit] -= size
                self._ready.append(circuit)
            else:
                del self._streams[circuit], self._backlog[circuit]
            return frame
        return None

    def backlog(self, circuit: int) -> int:
        """Bytes of stream frames that wait for one circuit."""
        alone = self._alone
        if alone is None:
            return self._backlog.get(circuit, 0)
        if alone.circuit != circuit or alone.kind not in STREAM_KINDS:
            return 0
        return HEADER_SIZE + alone.length

    def largest(self) -> tuple[int, int]:
        """(circuit, bytes) of the circuit with the most bytes waiting; (0, 0) when none waits."""
        self._line_up()
        return max(self._backlog.items(), key=lambda item: item[1], default=(0, 0))

    def drop(self, circuit: int) -> None:
        """Forget the stream frames of a circuit that is over."""
        self._line_up()
        if self._streams.pop(circuit, None) is not None:
            self.total -= self._backlog.pop(circuit)
            self._ready.remove(circuit)

    def abandon(self, circuit: int) -> None:
        """Forget what waits for a circuit that was reset, but for the RESET."""
        self._line_up()
        last = [frame for frame in self._streams.get(circuit, ()) if frame.kind is Kind.RESET]
        self.drop(circuit)
        for frame in last:
            self.push(frame)

    def drop_streams(self) -> None:
        """Forget all but control: the link is about to end."""
        self._line_up()
        self.total = self.control
        self._streams.clear()
        self._backlog.clear()
        self._ready.clear()

    def _line_up(self) -> None:
        """The frame that was alone takes its place."""
        frame = self._alone
        if frame is not None:
            self._alone = None
            self._queue(frame)

    def _queue(self, frame: Frame) -> None:
        if frame.kind not in STREAM_KINDS:
            self._control.append(frame)
            return
        circuit, size = frame.circuit, HEADER_SIZE + frame.length
        queue = self._streams.get(circuit)
        if queue is None:
            self._streams[circuit] = deque((frame,))
            self._backlog[circuit] = size
            self._ready.append(circuit)
        else:
            queue.append(frame)
            self._backlog[circuit] += size
