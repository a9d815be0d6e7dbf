"""One circuit as the programs see it: an asynchronous byte stream, or datagrams, that is sealed end to end."""

import asyncio
from collections.abc import Callable

from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.circuit_roles import StreamUser
from overlay.aio.world import Buffer
from overlay.circuit.datagrams import MAX_DATAGRAM
from overlay.errors import Code
from overlay.identity.certificate import Leaf
from overlay.policy.grant import Grant

Predicate = Callable[[Grant | None, bytes, Leaf | None], bool]


class CircuitStream(CircuitDriver):
    """A circuit that is open or opening. Made by `Endpoint.dial`, `Endpoint.open` and `Incoming.accept`."""

    # --- as its host sees it ------------------------------------------------------------------------

    def accept_now(self) -> None:
        """ACCEPT waits for the asset no longer (C-14); nothing where it was said."""
        if self.core is not None:
            self.core.accept_now()
            self._flush()

    # --- as an asynchronous stream ------------------------------------------------------------------

    async def ready(self) -> None:
        """Return when the host has reached the service.

        Raises:
            Refused: it did not.
        """
        await asyncio.shield(self._opened)

    async def read(self, most: int = 65_536) -> bytes:
        """At least one byte, or `b""` at the end of the other side's stream.

        Raises:
            ConnectionResetError: the circuit was cut.
        """
        while not self._inbox:
            if self._eof:
                return b""
            if self.outcome is not None:
                self._raise_unless_normal()
                return b""
            self._readable = self._loop.create_future()
            await self._readable
        data = self._inbox.popleft()
        if len(data) > most:
            self._inbox.appendleft(data[most:])
            data = data[:most]
        self.consumed(len(data))
        return data

    async def write(self, data: Buffer) -> None:
        """Returns when all of it was taken (back-pressure).

        Raises:
            ConnectionResetError: the circuit is over.
        """
        view = memoryview(data)
        while len(view) > 0:
            room = self.room()
            if room:
                self.send(view[:room])
                view = view[room:]
                continue
            if self.outcome is not None:
                self._raise_unless_normal()
                raise ConnectionResetError("the circuit is over")
            self._roomy = self._loop.create_future()
            await self._roomy

    async def receive_datagram(self) -> bytes:
        """The next datagram.

        Raises:
            ConnectionResetError: the circuit is over.
        """
        while not self._arrived:
            if self.outcome is not None:
                raise ConnectionResetError(self.outcome.reason or "the circuit is over")
            self._readable = self._loop.create_future()
            await self._readable
        return self._arrived.pop()

    # --- as the pump sees it ------------------------------------------------------------------------

    def start(self, user: StreamUser, lend: Callable[[], memoryview] | None = None) -> None:
        """Deliver to `user` from now on instead of `read`, first what has arrived already.

        `lend` gives memory of `MAX_DATA` bytes, in which large frames are then opened: `user` gets views of it.
        """
        if self.outcome is None:
            self._user, self._lend = user, lend
        while self._inbox:
            user.data(self._inbox.popleft())
        while self._arrived:
            user.data(self._arrived.pop())
        if self._eof:
            user.half_closed()
        if self.outcome is not None:
            user.closed(self.outcome)
        elif self.room():
            user.room()

    def send(self, data: Buffer) -> None:
        """Send 1 to `room()` bytes at once, as one frame; `data` is free again on return."""
        if self.core is None:
            raise ValueError("there are no keys yet")
        self.core.send(data, self._loop.time())
        self._flush()

    def consumed(self, count: int) -> None:
        """`count` delivered bytes have left; the other side may send as many more."""
        core = self.core
        if core is not None and self.outcome is None:
            core.consumed(count, self._loop.time())
            if core.pending:
                self._flush()

    def send_datagram(self, data: Buffer, *, more: bool = False) -> None:
        """Best effort, of at most `MAX_DATAGRAM` bytes. Before the circuit is open the newest `DATAGRAM_QUEUE` wait;
        afterwards as many wait at the link. What is dropped is counted. `more`: another one follows at once, with which
        it may leave.
        """
        core = self.core
        if len(data) > MAX_DATAGRAM or self.outcome is not None:
            self.dropped += 1
        elif core is None or not core.opened:
            if self._unsent is not None:
                self.dropped += self._unsent.push(data)
        else:
            self._say_datagram(core, data, more=more)

    def end(self) -> None:
        """Half-close: nothing more is written; reading goes on."""
        if self._end_wanted:
            return
        self._end_wanted = True
        if self.core is not None:
            self._handle(self.core.end(self._loop.time()))

    def _raise_unless_normal(self) -> None:
        end = self.outcome
        if end is not None and end.code is not Code.NORMAL:
            raise ConnectionResetError(end.reason or end.code.name)
