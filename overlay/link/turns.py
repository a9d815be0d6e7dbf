"""Whose frame leaves next on a link (docs/protocol/link.md, L-23, L-25).

Circuits share by bytes, not by frames: start-time fair queueing (Goyal, Vin, Cheng 1996). A frame's *start* is where
its circuit's last one ended on a clock that counts bytes, or the clock itself for a circuit that had nothing waiting;
the smallest start leaves first. So of two circuits that always have something to say neither is ever ahead by more
than two frames, whatever their sizes. A circuit that had nothing waiting is next (a poll next to bulk waits for the
frame that is leaving and for no other), but such circuits together leave room for the others: `HEAD_START`.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from overlay import limits
from overlay.wire.header import HEADER_SIZE, Kind

Buffer = bytes | bytearray | memoryview

STREAM_KINDS = frozenset({Kind.DATA, Kind.DATAGRAM, Kind.CHECKPOINT, Kind.CLOSE, Kind.RESET})
"""Kinds that wait for their circuit's turn; all others leave first."""

HEAD_START = 64 * 1024
"""Bytes of circuits that had nothing waiting, after which one frame of a circuit that had something leaves."""
ENDS = 4096
"""Circuits with nothing waiting of which is known how far they are ahead."""
_DATAGRAM = Kind.DATAGRAM


class Frame(NamedTuple):
    """A frame on its way out, before it is sealed. The payload (`length` bytes, possibly in parts) must not change
    until it has left."""

    kind: Kind
    flags: int
    length: int
    circuit: int
    sequence: int
    payload: Buffer | Sequence[Buffer]


class _Queue:
    """What waits for one circuit; `bytes` with headers, `datagram_bytes` of the datagrams among it."""

    __slots__ = ("bytes", "circuit", "datagram_bytes", "datagrams", "frames", "start")

    def __init__(self, circuit: int, start: int) -> None:
        self.circuit = circuit
        self.start = start
        self.frames: deque[Frame] = deque()
        self.bytes = 0
        self.datagrams = 0
        self.datagram_bytes = 0


class Turns:
    """Frames that wait: control first and in order, then circuits by bytes, each circuit's frames in order.

    `total` counts all waiting bytes, headers included; `control` those that are not stream frames.
    """

    __slots__ = (
        "_alone", "_clock", "_control", "_ends", "_fresh", "_lead", "_look_at", "_pushed", "_ready", "_streams",
        "control", "total",
    )  # fmt: skip

    def __init__(self) -> None:
        self.total = 0
        self.control = 0
        # A frame that came when nothing waited, which is the usual case: it needs no place among others.
        self._alone: Frame | None = None
        self._control: deque[Frame] = deque()
        self._streams: dict[int, _Queue] = {}
        self._fresh: deque[_Queue] = deque()
        self._lead = 0
        self._ready: list[tuple[int, int, _Queue]] = []
        """The others by start, equals in the order in which they came here."""
        self._clock = 0
        self._ends: dict[int, int] = {}
        """Where the last frame of a circuit ended that has nothing waiting now and is ahead of the clock."""
        self._look_at = 64
        self._pushed = 0

    def __bool__(self) -> bool:
        return self.total > 0

    def push(self, frame: Frame) -> int:
        """Queue a frame at its place; how many older datagrams of the circuit it drove out (L-25)."""
        size = HEADER_SIZE + frame.length
        if frame.kind not in STREAM_KINDS:
            self.control += size
        if not self.total:
            self.total = size
            self._alone = frame
            return 0
        self.total += size
        if self._alone is not None:
            self._line_up()
        return self._queue(frame)

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
        while self._ready or self._fresh:
            if self._fresh and (self._lead < HEAD_START or not self._ready):
                queue = self._fresh.popleft()
                fresh = True
            else:
                queue = heappop(self._ready)[2]
                fresh = False
            if queue.frames:  # else it was dropped while it waited for its turn
                return self._next(queue, fresh=fresh)
        return None

    def backlog(self, circuit: int) -> int:
        """Bytes of stream frames that wait for one circuit."""
        alone = self._alone
        if alone is None:
            queue = self._streams.get(circuit)
            return 0 if queue is None else queue.bytes
        if alone.circuit != circuit or alone.kind not in STREAM_KINDS:
            return 0
        return HEADER_SIZE + alone.length

    def crowded(self, circuit: int, length: int) -> bool:
        """Whether a datagram of this length would drive out others of its circuit."""
        queue = self._streams.get(circuit)
        return queue is not None and _too_much(
            queue.datagrams + 1, queue.datagram_bytes + HEADER_SIZE + length
        )

    def largest(self) -> tuple[int, int]:
        """(circuit, bytes) of the circuit with the most bytes waiting; (0, 0) when none waits."""
        self._line_up()
        sizes = ((queue.circuit, queue.bytes) for queue in self._streams.values())
        return max(sizes, key=lambda item: item[1], default=(0, 0))

    def drop(self, circuit: int) -> None:
        """Forget the stream frames of a circuit that is over."""
        self._line_up()
        queue = self._streams.pop(circuit, None)
        if queue is not None:
            self.total -= queue.bytes
            queue.frames.clear()
            self._forget_gone()
        self._ends.pop(circuit, None)

    def drop_datagrams(self, circuit: int) -> int:
        """Forget the datagrams that wait for a circuit; how many."""
        self._line_up()
        queue = self._streams.get(circuit)
        if queue is None:
            return 0
        gone = 0
        while queue.datagrams:
            self._drop_oldest(queue)
            gone += 1
        if not queue.frames:
            del self._streams[circuit]
            self._forget_gone()
        return gone

    def abandon(self, circuit: int) -> None:
        """Forget what waits for a circuit that was reset, but for the RESET."""
        self._line_up()
        queue = self._streams.get(circuit)
        last = [] if queue is None else [one for one in queue.frames if one.kind is Kind.RESET]
        self.drop(circuit)
        for frame in last:
            self.push(frame)

    def drop_streams(self) -> None:
        """Forget all but control: the link is about to end."""
        self._line_up()
        self.total = self.control
        self._streams.clear()
        self._rest()

    def _line_up(self) -> None:
        """The frame that was alone takes its place."""
        frame = self._alone
        if frame is not None:
            self._alone = None
            self._queue(frame)

    def _queue(self, frame: Frame) -> int:
        kind, circuit = frame.kind, frame.circuit
        if kind not in STREAM_KINDS:
            self._control.append(frame)
            return 0
        size = HEADER_SIZE + frame.length
        queue = self._streams.get(circuit)
        if queue is None:
            end = self._ends.pop(circuit, 0)
            queue = self._streams[circuit] = _Queue(circuit, max(end, self._clock))
            if end > self._clock:
                self._place(queue)
            else:
                self._fresh.append(queue)
        queue.frames.append(frame)
        queue.bytes += size
        if kind is not _DATAGRAM:
            return 0
        queue.datagrams += 1
        queue.datagram_bytes += size
        gone = 0
        while queue.datagrams > 1 and _too_much(queue.datagrams, queue.datagram_bytes):
            self._drop_oldest(queue)
            gone += 1
        return gone

    def _place(self, queue: _Queue) -> None:
        self._pushed += 1
        heappush(self._ready, (queue.start, self._pushed, queue))

    def _next(self, queue: _Queue, *, fresh: bool) -> Frame:
        """The first frame of a queue whose turn has come."""
        frame = queue.frames.popleft()
        size = HEADER_SIZE + frame.length
        self.total -= size
        self._clock = max(self._clock, queue.start)
        self._lead = self._lead + size if fresh else 0
        queue.start += size
        if queue.frames:
            queue.bytes -= size
            if frame.kind is _DATAGRAM:
                queue.datagrams -= 1
                queue.datagram_bytes -= size
            self._place(queue)
            return frame
        del self._streams[queue.circuit]
        if self._streams:
            self._ends[queue.circuit] = queue.start
            self._forget_ends()
        else:
            self._rest()
        return frame

    def _rest(self) -> None:
        """Nothing waits: nobody is ahead of anybody."""
        self._fresh.clear()
        self._ready.clear()
        self._ends.clear()
        self._lead = 0

    def _forget_gone(self) -> None:
        """Places of what was dropped must not pile up on a link that takes nothing."""
        if len(self._ready) + len(self._fresh) > 2 * len(self._streams) + 64:
            self._ready = [one for one in self._ready if one[2].frames]
            heapify(self._ready)
            self._fresh = deque(one for one in self._fresh if one.frames)

    def _forget_ends(self) -> None:
        """Ends that the clock has passed must not pile up on a link that never rests."""
        if len(self._ends) > self._look_at:
            clock = self._clock
            self._ends = {one: end for one, end in self._ends.items() if end > clock}
            if len(self._ends) > ENDS // 2:
                self._ends.clear()  # so many that each had one frame: nobody is far ahead
            self._look_at = 2 * len(self._ends) + 64

    def _drop_oldest(self, queue: _Queue) -> None:
        place = next(n for n, one in enumerate(queue.frames) if one.kind is _DATAGRAM)
        size = HEADER_SIZE + queue.frames[place].length
        del queue.frames[place]
        queue.datagrams -= 1
        queue.datagram_bytes -= size
        queue.bytes -= size
        self.total -= size


def _too_much(datagrams: int, size: int) -> bool:
    return datagrams > limits.DATAGRAM_QUEUE or size > limits.DATAGRAM_QUEUE_BYTES
