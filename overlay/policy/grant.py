"""Grants: signed results of a policy decision (docs/protocol/circuit.md, G-01 to G-05)."""

from typing import Annotated, ClassVar

from msgspec import Meta

from overlay import limits
from overlay.wire.bodies import Hash, Id16, Micros, Name, ServiceName
from overlay.wire.codec import Body

NO_END = 0


Rank = Annotated[int, Meta(ge=0, le=1 << 31)]
Weight = Annotated[int, Meta(ge=0, le=1000)]


class Grant(Body, frozen=True):
    """One identity, for itself or for one asset that it asserts, may dial one service.

    `caller_key` is the SHA-256 of the caller's raw Ed25519 public key; `who` the principal as policy sees it and `via`
    the edge that asserts it (equal to the caller's own name). `hosts` are the edges permitted to host. Times in
    microseconds since 1970, plant time: `not_before`; `refresh_by` binds while the authority is fresh, `hold_until`
    while it is not (refresh_by + the conduit's hold); `end` is the conduit's own and caps both (0: none).
    `max_session` in seconds (0: none). `who_zones` and `asset_zones` list each zone and its ancestors, for zone kills.
    """

    TYPE: ClassVar[str] = "grant"

    id: Id16
    conduit: Annotated[str, Meta(max_length=32)]
    caller_key: Hash
    who: Name
    via: Name
    service: ServiceName
    asset: Name
    hosts: Annotated[tuple[Name, ...], Meta(max_length=limits.GRANT_HOSTS)]
    transport: Annotated[int, Meta(ge=0, le=1)]
    integrity: Annotated[int, Meta(ge=0, le=1)]
    not_before: Micros
    refresh_by: Micros
    hold_until: Micros
    end: Micros
    max_session: Annotated[int, Meta(ge=0)]
    who_zones: Annotated[tuple[Name, ...], Meta(max_length=limits.GRANT_ZONES)]
    asset_zones: Annotated[tuple[Name, ...], Meta(max_length=limits.GRANT_ZONES)]
    epoch: Annotated[int, Meta(ge=0)]
    generation: Annotated[int, Meta(ge=0)] = 0
    """The enrolment generation of `via`, against which revocations count."""
    who_address: Annotated[str, Meta(max_length=45)] = ""
    """The recorded address of `who`, where the asset is to see that instead of the hosting edge's (G-06)."""
    ranks: Annotated[tuple[Rank, ...], Meta(max_length=limits.GRANT_HOSTS)] = ()
    """Of `hosts`, in the same order: the lowest hosts while it can (F-11). None: all are equally good."""
    weights: Annotated[tuple[Weight, ...], Meta(max_length=limits.GRANT_HOSTS)] = ()
    """Of `hosts`, in the same order: by which those of one rank share (F-15); 0 or none: no share of its own."""
