"""Clients that were answered before their circuit is opened: what they say first goes along with OPEN (C-12).

Most clients speak first, a moment after they are connected; a frame less is a wake-up less in each program on the way.
Where the server speaks first nobody would, so such a service is known by that for a while and not waited for.
"""

import asyncio
from collections import Counter
from collections.abc import Callable

from edge.intercept.base import Opener
from overlay import limits
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.pump import join
from overlay.aio.world import Connection
from overlay.ordered import OrderedSet

SILENT = 3
"""Clients of a service in a row that said nothing in time, after which the next ones are not waited for."""
PATIENCE = 0.001
"""Seconds, which is the grain of the event loop's clock: two at most."""
TURNS = 3
"""Turns of the event loop after that: where this program was late itself, what the client said may be in the device."""

Opened = Callable[[CircuitStream | None], None]


class FirstWords:
    """All connections that are waited for. A bound of their number is who hands them over."""

    def __init__(self) -> None:
        self.memory = memoryview(bytearray(limits.MAX_EARLY_DATA))
        """Where what they say lands; it is copied at once."""
        self.silent = Counter[str]()
        """By service, how many clients in a row said nothing in time."""
        self.waiting = OrderedSet[_Client]()

    def hear(self, connection: Connection, service: str, opener: Opener, opened: Opened) -> None:
        """Take over an accepted connection: its circuit is opened with its first bytes, or without when none come.

        `opened` is told once: the circuit, which is joined with the connection, or None when there is none and the
        connection is gone.
        """
        early = connection.arrived(limits.MAX_EARLY_DATA)
        if early:
            self.silent.pop(service, None)
        if early or self.silent[service] >= SILENT:
            opened(_joined(connection, opener(early)))
        else:
            _Client(self, connection, service, opener, opened).wait()

    def forget(self) -> None:
        """Call it every few seconds: who was silent may be another program by now."""
        self.silent.clear()

    def close(self) -> None:
        """Nobody is waited for any more."""
        for client in list(self.waiting):
            client.give_up()


class _Client:
    """One connection, a `Receiver` until its circuit is opened."""

    def __init__(
        self,
        words: FirstWords,
        connection: Connection,
        service: str,
        opener: Opener,
        opened: Opened,
    ) -> None:
        self._words = words
        self._connection = connection
        self._service = service
        self._opener = opener
        self._opened: Opened | None = opened
        self._timer: asyncio.Handle | None = None

    def wait(self) -> None:
        self._words.waiting.add(self)
        self._timer = asyncio.get_running_loop().call_later(PATIENCE, self._late, TURNS)
        self._connection.start(self)

    def open(self, early: bytes) -> CircuitStream | None:
        opened = self._over()
        if opened is None:
            return None
        stream = _joined(self._connection, self._opener(early))
        opened(stream)
        return stream

    def give_up(self) -> None:
        opened = self._over()
        if opened is not None:
            self._connection.abort()
            opened(None)

    def _late(self, turns: int) -> None:
        if turns:
            self._timer = asyncio.get_running_loop().call_soon(self._late, turns - 1)
            return
        self._words.silent[self._service] += 1
        self.open(b"")

    def _over(self) -> Opened | None:
        """It is waited for no more; None: it was not."""
        opened, self._opened = self._opened, None
        self._words.waiting.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        return opened

    # --- Receiver -----------------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        """Receiver."""
        return self._words.memory

    def received(self, count: int) -> None:
        """Receiver."""
        self._words.silent.pop(self._service, None)
        self.open(bytes(self._words.memory[:count]))

    def ended(self) -> None:
        """Receiver: it says nothing, but may want to hear."""
        stream = self.open(b"")
        if stream is not None:
            stream.end()

    def writable(self) -> None:
        """Receiver: nothing was written."""

    def lost(self, error: OSError | None) -> None:
        """Receiver."""
        self.give_up()


def _joined(connection: Connection, stream: CircuitStream | None) -> CircuitStream | None:
    """The same; without a circuit the connection ends."""
    if stream is None:
        connection.abort()
    else:
        join(connection, stream)
    return stream
