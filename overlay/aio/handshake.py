"""Drives the opening of a link over a connection, on either side, in little memory (docs/protocol/link.md, L-04)."""

import asyncio
from collections.abc import Callable

from overlay.aio.world import Buffer, Connection
from overlay.errors import FerruleError
from overlay.link.opening import Opened, Opening

_BUFFER = 4096

Done = Callable[["Handshake"], None]


class Handshake:
    """Reads and writes until `opening` has a result or fails; then `done` is called, once.

    On success nobody reads the connection any more (it is paused): give it to a `LinkDriver`, which sends `flight`
    first. On failure it is closed.
    """

    def __init__(self, connection: Connection, opening: Opening, done: Done) -> None:
        self.connection = connection
        self.error: Exception | None = None
        self.flight = b""
        self._opening = opening
        self._done: Done | None = done
        self._memory = memoryview(bytearray(_BUFFER))
        self._unsent = b""

    @property
    def opened(self) -> Opened | None:
        """The result; None after a failure."""
        return self._opening.result

    def start(self, received: bytes = b"") -> None:
        """Send what the dialer begins with, and read; `received` was read already."""
        self.connection.start(self)
        self.connection.resume()
        self._write(self._opening.pending())
        if received:
            self._take(received)

    def cancel(self, error: Exception) -> None:
        """Give up."""
        self._finish(error)

    def buffer(self) -> memoryview:
        """Receiver."""
        return self._memory

    def received(self, count: int) -> None:
        """Receiver."""
        self._take(self._memory[:count])

    def _take(self, data: Buffer) -> None:
        if self._done is None:
            return
        try:
            self._opening.receive(data)
        except FerruleError as error:
            self._finish(error)
            return
        if self._opening.result is None:
            self._write(self._opening.pending())
        else:
            self.flight = self._unsent + self._opening.pending()
            self.connection.pause()
            self._finish(None)

    def ended(self) -> None:
        """Receiver."""
        self._finish(ConnectionResetError("the other side closed the connection"))

    def writable(self) -> None:
        """Receiver."""
        if self._done is not None:
            self._write(b"")

    def lost(self, error: OSError | None) -> None:
        """Receiver."""
        self._finish(error or ConnectionResetError("the connection was closed"))

    def _write(self, flight: Buffer) -> None:
        self._unsent += flight
        if self._unsent:
            self._unsent = self._unsent[self.connection.write([self._unsent]) :]

    def _finish(self, error: Exception | None) -> None:
        done, self._done = self._done, None
        if done is None:
            return
        self.error = error
        if error is not None:
            self.connection.close()
        done(self)


async def shake(connection: Connection, opening: Opening) -> Handshake:
    """Run a handshake to its end; the caller bounds the time.

    Raises:
        FerruleError: the other side is not who or what it should be.
        OSError: the connection broke.
    """
    finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def done(_: Handshake) -> None:
        if not finished.done():
            finished.set_result(None)

    handshake = Handshake(connection, opening, done)
    handshake.start()
    try:
        await finished
    except BaseException:
        connection.abort()
        raise
    if handshake.error is not None:
        raise handshake.error
    return handshake
