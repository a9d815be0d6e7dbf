"""Reads how a connection begins, so that it can be handed on to who serves its lane (docs/protocol/link.md, L-02)."""

from collections.abc import Callable

from overlay.aio.world import Connection
from overlay.errors import FerruleError
from overlay.link.opening import PREAMBLE, lane_of

Done = Callable[["Preamble"], None]


class Preamble:
    """Reads no more than it needs until the lane is known or cannot be; then `done` is called, once.

    With a `lane` the connection is paused, and `begin` was read from it. Without, it is closed, and `error` says why.
    """

    def __init__(self, connection: Connection, done: Done) -> None:
        self.connection = connection
        self.lane: int | None = None
        self.error: Exception | None = None
        self._done: Done | None = done
        self._memory = memoryview(bytearray(PREAMBLE))
        self._count = 0

    @property
    def begin(self) -> bytes:
        """What was read."""
        return bytes(self._memory[: self._count])

    def start(self) -> None:
        """Begin to read."""
        self.connection.start(self)
        self.connection.resume()

    def cancel(self, error: Exception) -> None:
        """Give up."""
        self._finish(error)

    def buffer(self) -> memoryview:
        """Receiver."""
        return self._memory[self._count :]

    def received(self, count: int) -> None:
        """Receiver."""
        self._count += count
        try:
            self.lane = lane_of(self._memory[: self._count])
        except FerruleError as error:
            self._finish(error)
            return
        if self.lane is not None:
            self._finish(None)

    def ended(self) -> None:
        """Receiver."""
        self._finish(ConnectionResetError("the other side closed the connection"))

    def writable(self) -> None:
        """Receiver."""

    def lost(self, error: OSError | None) -> None:
        """Receiver."""
        self._finish(error or ConnectionResetError("the connection was closed"))

    def _finish(self, error: Exception | None) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        self.error = error
        if error is None:
            self.connection.pause()
        else:
            self.connection.close()
        done(self)
