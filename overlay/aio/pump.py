"""Joins an application's connection with a circuit: back-pressure, half-close; the hot path of an edge.

Bytes of the application land in memory that all pumps of an event loop share, are sealed from there into the frame
that is sent and kept, and are gone from it before the next read. Bytes of the circuit go from the opened frame into
the socket.
"""

import asyncio
from collections import deque
from weakref import WeakKeyDictionary

from overlay import limits
from overlay.aio.circuit_roles import CircuitEnd
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.late_ends import late_ends
from overlay.aio.world import Buffer, Connection
from overlay.errors import Code

_memories: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


class Pump:
    """One connection and one circuit. Made by `join`."""

    __slots__ = (
        "_answered",
        "_closing",
        "_connection",
        "_ending",
        "_finishing",
        "_lost",
        "_memory",
        "_paused",
        "_reading",
        "_stream",
        "_unwritten",
        "_window",
    )

    def __init__(self, connection: Connection, stream: CircuitStream) -> None:
        self._connection = connection
        self._stream = stream
        self._memory = _memory()
        self._unwritten: deque[Buffer] = deque()
        self._paused = False
        self._finishing = False
        self._closing = False
        self._reading = True
        self._lost = False
        self._answered = False
        """The other end has spoken last."""
        self._ending = False
        """The end of the application waited to be said, in the event loop that this one has left."""
        self._window = 0

    # --- from the application (Receiver) ----------------------------------------------------------

    def buffer(self) -> memoryview:
        """Receiver: no more than the circuit takes now."""
        return self._memory[: self._window or 1]

    def received(self, count: int) -> None:
        """Receiver."""
        if self._stream.outcome is not None:
            return
        self._answered = False
        self._stream.send(self._memory[:count])
        self._fit()

    def ended(self) -> None:
        """Receiver: the application sends nothing more. One that has its answer has most likely left: nobody waits for
        that word, and it may be said a little later.
        """
        self._reading = False
        if self._answered and not self._finishing:
            late_ends().add(self._end)
        else:
            self._stream.end()

    def _end(self) -> None:
        if self._stream.outcome is None:
            self._stream.end()

    def writable(self) -> None:
        """Receiver: the application takes more."""
        while self._unwritten:
            part = self._unwritten[0]
            taken = self._write(part)
            if taken < len(part):
                self._unwritten[0] = memoryview(part)[taken:]
                return
            self._unwritten.popleft()
        if self._closing:
            self._connection.close()
        elif self._finishing:
            self._connection.end()

    def lost(self, error: OSError | None) -> None:
        """Receiver: the application's connection is gone."""
        self._lost = True
        self._unwritten.clear()
        if self._stream.outcome is None:
            text = "closed" if error is None else error.strerror or str(error)
            self._stream.break_off(Code.APPLICATION_RESET, f"the application's connection: {text}")

    # --- from the circuit (StreamUser) ------------------------------------------------------------

    def data(self, data: Buffer) -> None:
        """StreamUser."""
        if self._lost:
            return
        self._answered = True
        taken = 0 if self._unwritten else self._write(data)
        if taken < len(data):
            rest = memoryview(data)[taken:]
            self._unwritten.append(rest if isinstance(data, bytes) else bytes(rest))

    def lend(self) -> memoryview:
        """For the circuit: a frame is opened in the memory where reads land, and written before the next read."""
        return self._memory

    def _write(self, part: Buffer) -> int:
        taken = self._connection.write((part,))
        if taken:
            self._stream.consumed(taken)
        return taken

    def half_closed(self) -> None:
        """StreamUser: the circuit's other end sends nothing more; passed on behind what is unwritten."""
        self._finishing = True
        if not self._unwritten and not self._lost:
            self._connection.end()

    def room(self) -> None:
        """StreamUser: the circuit takes more."""
        self._fit()

    def closed(self, end: CircuitEnd) -> None:
        """StreamUser: the circuit is over. What it delivered is written out after a normal end, and cut short
        otherwise.
        """
        if self._lost:
            return
        if end.code is not Code.NORMAL:
            self._unwritten.clear()
            self._connection.abort()
        elif not self._unwritten:
            self._connection.close()
        else:
            self._closing = True

    # --- to another event loop (Companion) --------------------------------------------------------

    def release(self) -> None:
        """Companion."""
        self._ending = late_ends().discard(self._end)
        self._connection.release()

    def settle(self) -> None:
        """Companion."""
        self._memory = _memory()
        self._connection.settle()
        if self._ending:
            self._end()

    def _fit(self) -> None:
        """Read as much as the circuit takes, or not at all."""
        self._window = self._stream.room()
        if self._window and self._paused:
            self._paused = False
            self._connection.resume()
        elif not self._window and not self._paused and self._reading:
            self._paused = True
            self._connection.pause()


def _memory() -> memoryview:
    """Where reads of this event loop land. One for all: it is empty again when `received` returns, and nothing of the
    loop runs in between.
    """
    loop = asyncio.get_running_loop()
    memory = _memories.get(loop)
    if memory is None:
        memory = _memories[loop] = memoryview(bytearray(limits.MAX_DATA))
    return memory


def join(connection: Connection, stream: CircuitStream) -> None:
    """Carry bytes both ways until both sides ended or one breaks; `stream.closed` tells the end.

    Takes over `connection` and `stream`. May be called while the stream is still opening.
    """
    pump = Pump(connection, stream)
    stream.companion = pump
    pump.room()
    connection.start(pump)
    stream.start(pump, pump.lend)
