"""What the first process of a router and its workers tell each other over the pair between them. Pure.

Both ends are one program of one version under one user, so these messages are no protocol: nobody else reads them, and
they may change freely. Bounds are those of what they carry; the pair bounds what waits.
"""

from typing import Annotated

from msgspec import Meta, field

from overlay import limits
from overlay.audit.event import EventName, Outcome
from overlay.errors import DecodeError
from overlay.wire.bodies import Attachment, Micros, Name
from overlay.wire.codec import Body, decode, encode

PART = 60_000
"""Bytes of a message in one packet: what a socket buffer of the default size takes."""
MESSAGE = 4 * limits.MAX_CONTROL
"""A message is not longer."""
_MORE, _LAST = b"\x01", b"\x00"

Count = Annotated[int, Meta(ge=0)]


# --- first process to worker ----------------------------------------------------------------------------


class Identity(Body, frozen=True, tag=1):
    """Who this router is: root and chain (DER) and the key's seed, which stays in memory; again after each renewal."""

    root: bytes
    seed: Annotated[bytes, Meta(min_length=32, max_length=32)]
    chain: tuple[bytes, ...]
    boot: Count
    version: str


class Time(Body, frozen=True, tag=2):
    """Plant time is CLOCK_BOOTTIME plus `offset` (microseconds); `floor` counts for certificates until a controller has
    told the time (A-20)."""

    offset: int
    floor: Micros
    answered: bool


class Signers(Body, frozen=True, tag=3):
    """Leaves (DER) of controllers whose chains the first process has verified: what they signed is believed (P-14)."""

    leaves: tuple[bytes, ...]


class Restrictions(Body, frozen=True, tag=4):
    """The authority in force, as signed, and when it was accepted. Answered by `Applied`."""

    signed: bytes
    accepted: Micros


class Condition(Body, frozen=True, tag=5):
    """`room`: the spool takes events of new circuits (U-09); `drained`: this router drains (L-37)."""

    room: bool
    drained: bool = False


class Dials(Body, frozen=True, tag=6):
    """Routers to dial on this worker's lane: names and addresses."""

    routers: Annotated[tuple[tuple[Name, str], ...], Meta(max_length=limits.ROUTER_DIALS)]


class Places(Body, frozen=True, tag=7):
    """Where nodes are attached now; each replaces what was said of its node before."""

    attachments: Annotated[tuple[Attachment, ...], Meta(max_length=limits.ATTACHMENTS_PER_FRAME)]


class Ways(Body, frozen=True, tag=8):
    """All ways to other routers: cost in µs and the routers still to visit, by router."""

    ways: dict[str, tuple[float, tuple[str, ...]]]


class Accepted(Body, frozen=True, tag=9):
    """A connection for this worker's lane; its descriptor comes with the packet. Answered by `Opened`.

    `received` was read from it already; `left` are the seconds that its handshake may still take (L-04).
    """

    ticket: Count
    received: bytes
    left: float


class Leave(Body, frozen=True, tag=10):
    """The router stops: let circuits move, close the links, and end."""


# --- worker to first process ----------------------------------------------------------------------------


class Opened(Body, frozen=True, tag=32):
    """The handshake of a connection is over, and with it the place that it took (L-04)."""

    ticket: Count
    authenticated: bool


class Applied(Body, frozen=True, tag=33):
    """What this version of the authority makes void is cut here."""

    version: Count


class Recorded(Body, frozen=True, tag=34):
    """An audit event of this router."""

    event: EventName
    outcome: Outcome
    fields: dict[str, str | int]


class Facts(Body, frozen=True, tag=35):
    """What this worker carries now, and has carried; said where it changed, and every `FACTS_SECONDS`, so
    that silence is noticed."""

    links: Count = 0
    circuits: Count = 0
    queued_bytes: Count = 0
    frames: Count = 0
    bytes: Count = 0
    counts: dict[str, int] = field(default_factory=dict)
    busy: Annotated[int, Meta(ge=0, le=100)] = 0
    """Percent of a core."""


FACTS_SECONDS = 3.0

ToWorker = (
    Identity | Time | Signers | Restrictions | Condition | Dials | Places | Ways | Accepted | Leave
)
ToFirst = Opened | Applied | Recorded | Facts
Message = ToWorker | ToFirst


def packets(message: Message) -> list[bytes]:
    """A message cut into packets that keep their borders on the way."""
    data = encode(message)
    parts = [data[at : at + PART] for at in range(0, len(data), PART)]
    return [*(_MORE + part for part in parts[:-1]), _LAST + parts[-1]]


class Assembler:
    """Puts packets together again."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, packet: bytes) -> Message | None:
        """The message that this packet completes.

        Raises:
            DecodeError: it is none, or longer than `MESSAGE`.
        """
        self._parts.append(packet[1:])
        self._size += len(packet) - 1
        if self._size > MESSAGE or packet[:1] not in {_MORE, _LAST}:
            raise DecodeError("what came over the pair is no message")
        if packet[:1] == _MORE:
            return None
        data = b"".join(self._parts)
        self._parts, self._size = [], 0
        return decode(Message, data)  # type: ignore[arg-type]
