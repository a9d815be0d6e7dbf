"""A circuit as an asyncio transport, so that any asyncio protocol runs over it as over TCP."""

import asyncio
from collections import deque
from typing import Any, cast

from overlay.aio.circuit_roles import CircuitEnd
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.world import Buffer
from overlay.errors import Code

HIGH_WATER = 64 * 1024
"""Bytes that wait for the circuit; above it the protocol is told to pause."""
CLOSE_SECONDS = 10.0
"""For the other side to end after `close`; then the circuit is cut."""


class CircuitTransport(asyncio.Transport):
    """Implements `StreamUser` below and `asyncio.Transport` above. `start` begins to deliver.

    Extra info: `service`, `who`, `circuit` (bytes); `peername` is (service, 0).
    """

    def __init__(self, stream: CircuitStream, protocol: asyncio.BaseProtocol, who: str) -> None:
        super().__init__(
            {
                "service": stream.service,
                "who": who,
                "circuit": stream.circuit_id,
                "peername": (stream.service, 0),
            }
        )
        self._stream = stream
        self._protocol = cast(asyncio.Protocol, protocol)
        self._loop = asyncio.get_running_loop()
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._arrived: deque[bytes] = deque()
        self._reading = True
        self._writing_paused = False
        self._eof_came = False
        self._eof_wanted = False
        self._closing = False
        self._over = False
        self._high, self._low = HIGH_WATER, HIGH_WATER // 4
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Tell the protocol that it is connected, and deliver from now on."""
        self._protocol.connection_made(self)
        self._stream.start(self)

    # --- asyncio.Transport ------------------------------------------------------------------------

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Who uses it."""
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Somebody else uses it from now on."""
        self._protocol = cast(asyncio.Protocol, protocol)

    def is_closing(self) -> bool:
        """Closed, or about to be."""
        return self._closing or self._over

    def is_reading(self) -> bool:
        """What arrives is delivered."""
        return self._reading and not self.is_closing()

    def pause_reading(self) -> None:
        """Deliver nothing until `resume_reading`; the other side stops when its window is full."""
        self._reading = False

    def resume_reading(self) -> None:
        """Deliver again."""
        if not self._reading:
            self._reading = True
            self._loop.call_soon(self._deliver)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """When the protocol is told to pause and to go on. Raises: ValueError: low is above high."""
        if high is None:
            high = HIGH_WATER if low is None else 4 * low
        if low is None:
            low = high // 4
        if not 0 <= low <= high:
            raise ValueError(f"low ({low}) must be from 0 to high ({high})")
        self._high, self._low = high, low

    def get_write_buffer_size(self) -> int:
        """Bytes that wait for the circuit."""
        return self._unsent_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """(low, high)."""
        return self._low, self._high

    def can_write_eof(self) -> bool:
        """It can half-close."""
        return True

    def write(self, data: Any) -> None:
        """Send; what the circuit does not take now waits."""
        if self._eof_wanted:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self.is_closing() or not data:
            return
        if not self._unsent:
            data = data[self._send(memoryview(data).cast("B")) :]
        if data:
            copy = memoryview(bytes(data))
            self._unsent.append(copy)
            self._unsent_bytes += len(copy)
            if self._unsent_bytes > self._high and not self._writing_paused:
                self._writing_paused = True
                self._protocol.pause_writing()

    def write_eof(self) -> None:
        """Half-close, behind all that was written."""
        if not self._eof_wanted and not self.is_closing():
            self._eof_wanted = True
            if not self._unsent:
                self._stream.end()

    def close(self) -> None:
        """End, behind all that was written; nothing is delivered any more."""
        if self.is_closing():
            return
        self._closing = True
        self._timer = self._loop.call_later(CLOSE_SECONDS, self._too_late)
        if not self._unsent:
            self._stream.end()
        self._drop()

    def abort(self) -> None:
        """Cut it; the other side sees a reset."""
        if not self._over:
            self._unsent.clear()
            self._closing = True
            self._stream.abort(Code.APPLICATION_RESET, "the application cut the connection")

    # --- StreamUser -------------------------------------------------------------------------------

    def data(self, data: Buffer) -> None:
        """StreamUser."""
        self._arrived.append(bytes(data))
        self._deliver()

    def half_closed(self) -> None:
        """StreamUser."""
        self._eof_came = True
        self._deliver()

    def room(self) -> None:
        """StreamUser: the circuit takes more."""
        while self._unsent:
            part = self._unsent[0]
            sent = self._send(part)
            self._unsent_bytes -= sent
            if sent < len(part):
                self._unsent[0] = part[sent:]
                return self._ease()
            self._unsent.popleft()
        self._ease()
        if self._eof_wanted or self._closing:
            self._stream.end()
        return None

    def closed(self, end: CircuitEnd) -> None:
        """StreamUser: over."""
        if self._over:
            return
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        error = None
        if end.code is not Code.NORMAL and not self._closing:
            error = ConnectionResetError(end.reason or end.code.name)
        self._reading = True
        self._deliver()
        self._loop.call_soon(self._protocol.connection_lost, error)

    def _send(self, data: Buffer) -> int:
        view, sent = memoryview(data), 0
        while sent < len(view) and not self._stream.closed.done():
            room = self._stream.room()
            if not room:
                break
            part = view[sent : sent + room]
            self._stream.send(part)
            sent += len(part)
        return len(view) if self._stream.closed.done() else sent

    def _ease(self) -> None:
        if self._writing_paused and self._unsent_bytes <= self._low:
            self._writing_paused = False
            self._protocol.resume_writing()

    def _deliver(self) -> None:
        if self._closing:
            self._drop()
            return
        while self._arrived and self._reading:
            data = self._arrived.popleft()
            self._stream.consumed(len(data))
            self._protocol.data_received(data)
        if self._eof_came and not self._arrived and self._reading:
            self._eof_came = False
            if not self._protocol.eof_received() and not self._over:
                self.close()

    def _drop(self) -> None:
        while self._arrived:
            self._stream.consumed(len(self._arrived.popleft()))

    def _too_late(self) -> None:
        if not self._over:
            self._stream.abort(Code.NORMAL, "")
