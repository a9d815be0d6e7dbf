"""One circuit as the programs see it: an asynchronous byte stream, or datagrams, that is sealed end to end."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from overlay.aio.world import Buffer
from overlay.errors import Code, FerruleError
from overlay.identity.certificate import Leaf
from overlay.policy.grant import Grant


class Refused(FerruleError):
    """A circuit that did not come to be; `code` and `reason` as the refusing node said them."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason or code.name)
        self.code = code
        self.reason = reason


class CircuitEnd(NamedTuple):
    """How a circuit ended. `bytes_in` counts towards the service, `bytes_out` back; `receipt` as in C-43."""

    code: Code
    reason: str
    receipt: object
    bytes_in: int
    bytes_out: int


class StreamUser(Protocol):
    """Who takes a circuit's bytes without a copy in between (the pump). Called from the event loop; must not block."""

    def data(self, view: memoryview) -> None:
        """Bytes in order; valid during the call only. Say `stream.consumed(count)` once they have left."""
        ...

    def ended(self) -> None:
        """The other side sends nothing more; writing goes on."""
        ...

    def room(self) -> None:
        """`stream.room()` is above zero again."""
        ...

    def closed(self, end: CircuitEnd) -> None:
        """The circuit is over; nothing follows."""
        ...


class CircuitStream:
    """A circuit that is open or opening. Made by `Endpoint.dial`, `Endpoint.open` and `Incoming.accept`."""

    circuit_id: bytes
    grant: Grant | None
    peer: Leaf | None
    path: tuple[str, ...]
    key_exchange: str
    started: int
    closed: "asyncio.Future[CircuitEnd]"

    async def ready(self) -> None:
        """Return when the host has reached the service.

        Raises:
            Refused: it did not.
        """
        raise NotImplementedError

    async def read(self, most: int = 65_536) -> bytes:
        """At least one byte, or `b""` at the end of the other side's stream.

        Raises:
            ConnectionResetError: the circuit was cut.
        """
        raise NotImplementedError

    async def write(self, data: Buffer) -> None:
        """Returns when all of it was taken (back-pressure).

        Raises:
            ConnectionResetError: the circuit was cut.
        """
        raise NotImplementedError

    def end(self) -> None:
        """Half-close: nothing more is written; reading goes on."""
        raise NotImplementedError

    def abort(self, code: Code, reason: str) -> None:
        """End both directions now; the other side learns code and reason."""
        raise NotImplementedError

    def send_datagram(self, data: Buffer) -> None:
        """Best effort; dropped and counted without room."""
        raise NotImplementedError

    async def receive_datagram(self) -> bytes:
        """The next datagram. Raises: ConnectionResetError: the circuit is over."""
        raise NotImplementedError

    def exporter(self, label: str) -> bytes:
        """32 bytes that only the two ends of this circuit's handshake know (E-04)."""
        raise NotImplementedError

    def refresh(self, grant: bytes) -> None:
        """Send a refreshed grant along the circuit (G-03)."""
        raise NotImplementedError

    def start(self, user: StreamUser) -> None:
        """Deliver to `user` from now on instead of `read`."""
        raise NotImplementedError

    def room(self) -> int:
        """Bytes that `send` takes now."""
        raise NotImplementedError

    def send(self, data: Buffer) -> None:
        """Send at most `room()` bytes at once, as one frame."""
        raise NotImplementedError

    def consumed(self, count: int) -> None:
        """`count` delivered bytes have left; the other side may send as many more."""
        raise NotImplementedError


Predicate = Callable[[Grant | None, bytes, Leaf | None], bool]
