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

    __slots__ = ("_backlog", "_control", "_ready", "_streams", "control", "total")

    def __init__(self) -> None:
        self.total = 0
        self.control = 0
        self._control: deque[Frame] = deque()
        self._streams: dict[int, deque[Frame]] = {}
        self._backlog: dict[int, int] = {}
        self._ready: deque[int] = deque()

    def __bool__(self) -> bool:
        return bool(self._control or self._ready)

    def push(self, frame: Frame) -> None:
        """Queue a frame at its place."""
        size = HEADER_SIZE + frame.length
        self.total += size
        if frame.kind not in STREAM_KINDS:
            self.control += size
            self._control.append(frame)
            return
        circuit = frame.circuit
        queue = self._streams.get(circuit)
        if queue is None:
            self._streams[circuit] = deque((frame,))
            self._backlog[circuit] = size
            self._ready.append(circuit)
        else:
            queue.append(frame)
            self._backlog[circuit] += size

    def pop(self) -> Frame | None:
        """Take the next frame; None when nothing waits."""
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
        return self._backlog.get(circuit, 0)

    def largest(self) -> tuple[int, int]:
        """(circuit, bytes) of the circuit with the most bytes waiting; (0, 0) when none waits."""
        return max(self._backlog.items(), key=lambda item: item[1], default=(0, 0))

    def drop(self, circuit: int) -> None:
        """Forget the stream frames of a circuit that is over."""
        if self._streams.pop(circuit, None) is not None:
            self.total -= self._backlog.pop(circuit)
            self._ready.remove(circuit)

    def abandon(self, circuit: int) -> None:
        """Forget what waits for a circuit that was reset, but for the RESET."""
        last = [frame for frame in self._streams.get(circuit, ()) if frame.kind is Kind.RESET]
        self.drop(circuit)
        for frame in last:
            self.push(frame)

    def drop_streams(self) -> None:
        """Forget all but control: the link is about to end."""
        self.total = self.control
        self._streams.clear()
        self._backlog.clear()
        self._ready.clear()
