"""What a circuit tells its driver."""

from typing import NamedTuple

from overlay.errors import Code


class Opened(NamedTuple):
    """Caller: the host has reached the service; `boot` counts the host's starts."""

    boot: int


class Delivered(NamedTuple):
    """Bytes of the other end, in order; say `consumed` when they have left."""

    data: bytes


class Arrived(NamedTuple):
    """A datagram of the other end."""

    data: bytes


class HalfClosed(NamedTuple):
    """The other end sends nothing more."""


class Room(NamedTuple):
    """`room()` may have grown."""


class Refreshed(NamedTuple):
    """Host: the caller sent another grant (signed, not yet verified)."""

    grant: bytes


class Over(NamedTuple):
    """The circuit is over for the application; the hop lives until `Circuit.finished`."""

    code: Code
    reason: str


Event = Opened | Delivered | Arrived | HalfClosed | Room | Refreshed | Over
