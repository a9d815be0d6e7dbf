"""Who is around a circuit: the program that uses it, the endpoint that owns it, and how it ended."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from overlay.aio.world import Buffer
from overlay.circuit.life import Receipt
from overlay.circuit.memory import Memory
from overlay.errors import Code, DecodeError, FerruleError, known_code
from overlay.identity.certificate import Leaf
from overlay.policy.grant import Grant
from overlay.wire.bodies import Refusal
from overlay.wire.codec import decode
from overlay.wire.header import Header

if TYPE_CHECKING:
    from overlay.aio.circuit_driver import CircuitDriver
    from overlay.aio.link_driver import LinkDriver


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
    receipt: Receipt
    bytes_in: int
    bytes_out: int


class Companion(Protocol):
    """What goes along when a circuit is handed to another event loop: the pump with the application's connection."""

    def release(self) -> None:
        """Let go of this loop; `settle` on another is the next call."""
        ...

    def settle(self) -> None:
        """Go on, on the running loop."""
        ...


class StreamUser(Protocol):
    """Who takes a circuit's bytes without a queue in between (the pump). Called from the event loop; must not
    block.
    """

    def data(self, data: Buffer) -> None:
        """Bytes in order, or one datagram. Say `stream.consumed(len(data))` once they have left (streams only). A
        memoryview holds during the call only."""
        ...

    def half_closed(self) -> None:
        """The other side sends nothing more; writing goes on."""
        ...

    def room(self) -> None:
        """`stream.room()`, which was 0 when it was asked last, is above 0 again."""
        ...

    def closed(self, end: CircuitEnd) -> None:
        """The circuit is over; nothing follows."""
        ...


class StreamOwner(Protocol):
    """The endpoint's side of a circuit, on the loop that drives it; `memory` is what its circuits hold together."""

    memory: Memory

    @property
    def home(self) -> "StreamOwner":
        """Where the node keeps what belongs to all its circuits; this one or another."""
        ...

    def post(self, call: Callable[..., object], *arguments: object) -> None:
        """Call it on this owner's event loop, from whichever."""
        ...

    def bind(self, link: "LinkDriver", number: int, stream: "CircuitDriver") -> None:
        """Frames of this hop go to the stream from now on."""
        ...

    def unbind(self, link: "LinkDriver", number: int) -> None:
        """The hop is no longer this circuit's."""
        ...

    def confirmed(self, stream: "CircuitDriver", boot: int | None) -> None:
        """Caller: the first sealed answer of the host; `boot` with READY, None with REFUSE."""
        ...

    def pathless(
        self, stream: "CircuitDriver", link: "LinkDriver", code: Code, reason: str
    ) -> None:
        """The hop on `link` is lost: code and reason of a refusal or reset in clear, for what they are worth."""
        ...

    def refreshed(self, stream: "CircuitDriver", grant: bytes) -> None:
        """Host: the caller sent another grant."""
        ...

    def refresh(self, stream: "CircuitDriver", grant: bytes) -> None:
        """Caller: the application wants to go on under this grant; raises Refused."""
        ...

    def fault(self, stream: "CircuitDriver", code: Code, reason: str) -> None:
        """A frame that must not have come: a security event."""
        ...

    def ended(self, stream: "CircuitDriver", end: CircuitEnd) -> None:
        """Over for the application, which is to be told."""
        ...

    def finished(self, stream: "CircuitDriver") -> None:
        """Over altogether; the hop is free."""
        ...


class GrantCheck(Protocol):
    """May this grant carry a circuit now (G-01, G-02)? None, or why not. The signature is checked already."""

    def __call__(
        self,
        grant: Grant,
        *,
        key_id: bytes,
        via: str,
        service: str,
        transport: int,
        integrity: int,
        circuit: bytes,
        host: str | None,
    ) -> tuple[Code, str] | None:
        """`key_id` and `via` are the caller's own; `circuit` is empty and `host` None where they are not known yet."""
        ...


class CircuitFacts(NamedTuple):
    """What a node knows of one of its open circuits. `bytes_in` is towards the service, `started` plant time
    in µs.
    """

    circuit_id: bytes
    hosting: bool
    service: str
    grant: Grant | None
    peer: Leaf | None
    path: tuple[str, ...]
    key_exchange: str
    integrity: int
    transport: int
    started: int
    bytes_in: int
    bytes_out: int


class Target(Protocol):
    """Who gets the frames of a hop."""

    def frame(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """One frame."""
        ...

    def lose(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """The link is gone."""
        ...


def spoken(payload: Buffer) -> tuple[Code, str]:
    """Code and reason of a REFUSE or RESET in clear, as far as they can be read; nothing is decided by them alone."""
    try:
        body = decode(Refusal, payload)
    except DecodeError:
        return Code.PATH_LOST, ""
    return known_code(body.code), body.reason


def wake(future: "asyncio.Future[None] | None") -> None:
    """Let go on who waits, if anybody does."""
    if future is not None and not future.done():
        future.set_result(None)
