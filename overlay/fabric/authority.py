"""The controller's authority and the fabric map, as signed bodies (docs/protocol/control.md, A-01 to A-08)."""

from typing import Annotated, ClassVar

from msgspec import Meta

from overlay import limits
from overlay.wire.bodies import Id16, Micros, Name, Reason, SignedHead
from overlay.wire.codec import Body

LEVELS = ("circuit", "identity", "service", "zone", "plant")


class Kill(Body, frozen=True):
    """One active kill. `name` is the circuit id in hex, the identity, service or zone, or empty for the plant.

    `until` in microseconds, 0 = until it is restored.
    """

    id: Id16
    level: Annotated[str, Meta(pattern="^(circuit|identity|service|zone|plant)$")]
    name: Annotated[str, Meta(max_length=127)]
    reason: Reason
    since: Micros
    until: Micros


class Revocation(Body, frozen=True):
    """All leaves of `name` with an enrolment generation up to and including `generation` are void for ever."""

    name: Name
    generation: Annotated[int, Meta(ge=0)]


class Withdrawal(Body, frozen=True):
    """A conduit that was ended by decision: its grants are void from `at` (microseconds; in the future where another
    conduit still allows and circuits get a moment to move)."""

    conduit: Annotated[str, Meta(max_length=32)]
    at: Micros


class Authority(Body, frozen=True):
    """What is void, at `version` and `time`; signed at every change and every 5 s. A lower version is refused (A-02).

    `head` is a `Signed` tree head, empty before the first record.
    """

    TYPE: ClassVar[str] = "authority"

    version: Annotated[int, Meta(ge=0)]
    time: Micros
    kills: Annotated[tuple[Kill, ...], Meta(max_length=limits.KILLS)]
    revoked: Annotated[tuple[Revocation, ...], Meta(max_length=limits.REVOCATIONS)]
    withdrawn: Annotated[tuple[Withdrawal, ...], Meta(max_length=limits.REVOCATIONS)]
    head: SignedHead = b""


class RouterEntry(Body, frozen=True):
    """A router in the map: `address` is HOST:PORT as others dial it, `dials` the routers that it dials itself;
    `draining`: it gets nothing new, and what passes it moves (L-37)."""

    name: Name
    address: Annotated[str, Meta(max_length=255)]
    dials: Annotated[tuple[Name, ...], Meta(max_length=limits.ROUTER_DIALS)] = ()
    draining: bool = False


class FabricMap(Body, frozen=True):
    """The routers of the plant; `version` only rises (F-01)."""

    TYPE: ClassVar[str] = "map"

    version: Annotated[int, Meta(ge=0)]
    routers: Annotated[tuple[RouterEntry, ...], Meta(max_length=limits.MAP_ROUTERS)]

    def drained(self) -> frozenset[str]:
        """Routers that drain."""
        return frozenset(entry.name for entry in self.routers if entry.draining)
