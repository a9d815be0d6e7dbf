"""One UDP flow in a circuit: boundaries kept, nothing repeated, ends when it goes quiet."""

import asyncio
from collections.abc import Callable

from overlay import limits
from overlay.aio.circuit_roles import CircuitEnd
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.world import Buffer
from overlay.errors import Code


class Flow:
    """Joins a circuit for datagrams with whoever is on the local side.

    Args:
        stream: the circuit.
        deliver: gets each datagram of the circuit; False: it could not be passed on.
        ended: called once, when the circuit is over.
    """

    def __init__(
        self,
        stream: CircuitStream,
        deliver: Callable[[bytes], bool | None],
        ended: Callable[[], None],
    ) -> None:
        self._stream = stream
        self._deliver = deliver
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._last = self._loop.time()
        self._timer = self._loop.call_later(limits.UDP_IDLE, self._check)
        stream.start(self)

    def send(self, data: Buffer, *, more: bool = False) -> None:
        """A datagram from the local side. `more`: another one follows at once."""
        self._last = self._loop.time()
        self._stream.send_datagram(data, more=more)

    def cut(self, reason: str) -> None:
        """The local side is gone."""
        if not self._stream.closed.done():
            self._stream.abort(Code.APPLICATION_RESET, reason)

    def is_of(self, stream: object) -> bool:
        """Whether this flow is in that circuit."""
        return stream is self._stream

    # --- StreamUser -------------------------------------------------------------------------------

    def data(self, data: Buffer) -> None:
        """StreamUser."""
        self._last = self._loop.time()
        if self._deliver(bytes(data)) is False:
            self._stream.dropped += 1

    def half_closed(self) -> None:
        """StreamUser: the other side has ended the flow."""
        self._stream.end()

    def room(self) -> None:
        """StreamUser: datagrams do not wait."""

    def closed(self, end: CircuitEnd) -> None:
        """StreamUser."""
        self._timer.cancel()
        self._ended()

    def _check(self) -> None:
        quiet = self._loop.time() - self._last
        if quiet >= limits.UDP_IDLE:
            self._stream.abort(Code.IDLE, f"no datagram for {limits.UDP_IDLE:.0f} s")
        else:
            self._timer = self._loop.call_later(limits.UDP_IDLE - quiet, self._check)
