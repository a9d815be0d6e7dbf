"""Messages on the `_control` circuit (docs/protocol/control.md, K-01 to K-08).

The circuit's byte stream carries messages of a 4-byte big-endian length and a MessagePack array whose first element
is the tag. Requests carry `id`; the answer repeats it. Node to controller: `Start` to `Measured`; controller to node:
`Answer` to `Measure`.
"""

from typing import Annotated

from msgspec import Meta

from overlay import limits
from overlay.audit.merkle import MAX_PROOF
from overlay.wire.bodies import (
    GrantBytes,
    Hash,
    Id16,
    Micros,
    Name,
    Reason,
    ServiceName,
    SignedHead,
)
from overlay.wire.codec import Body

RequestId = Annotated[int, Meta(ge=0, lt=1 << 32)]
Der = Annotated[bytes, Meta(max_length=4096)]
Prefix = Annotated[str, Meta(min_length=2, max_length=64)]
"""An address or subnet in text."""
LogLeaf = Annotated[bytes, Meta(max_length=limits.MAX_RECORD)]
Proof = Annotated[tuple[Hash, ...], Meta(max_length=MAX_PROOF)]
"""Hashes from a leaf or a smaller tree to a root (RFC 9162 §2.1)."""


class Start(Body, frozen=True, tag=1):
    """First message of a node on a new control circuit: its software version and boot number, and the highest audit
    event number it ever used.

    The controller answers with `Current`, `Assignments`, `GrantUpdate(full=True)` and continues with changes.
    """

    version: Annotated[str, Meta(max_length=32)]
    boot: Annotated[int, Meta(ge=0)]
    last_event: Annotated[int, Meta(ge=0)]
    generation: Annotated[int, Meta(ge=0)] = 0


class Ask(Body, frozen=True, tag=2):
    """Is the authority fresh? Answered by `Answer` with the same nonce; `authority` is the version in force here."""

    nonce: Id16
    authority: Annotated[int, Meta(ge=0)] = 0


class Enrol(Body, frozen=True, tag=3):
    """A newcomer redeems its token; `proof` = HMAC-SHA256(key, role label, end-to-end exporter, SHA-256 of `csr`).

    See E-04.
    """

    id: RequestId
    token: Id16
    csr: Der
    proof: Hash


class Renew(Body, frozen=True, tag=4):
    """A node asks for a new leaf for the same name, role and generation; the control circuit proves who asks (E-08)."""

    id: RequestId
    csr: Der


class Events(Body, frozen=True, tag=5):
    """Audit events from a node's spool, gapless from `first`: each a `Signed` `overlay.audit.event.Event`.

    All are signed with one key; `chain` is its certificates, which may have been replaced or have ended since.
    """

    id: RequestId
    first: Annotated[int, Meta(ge=1)]
    events: Annotated[
        tuple[Annotated[bytes, Meta(max_length=limits.MAX_EVENT)], ...],
        Meta(max_length=limits.EVENTS_PER_BATCH),
    ]
    chain: Annotated[tuple[Der, ...], Meta(max_length=4)] = ()
    makes: Annotated[int, Meta(ge=0)] = 0
    """The form of records (`overlay.audit.record.FORM`) that this node can make itself: the answer need not hold them,
    and its proofs may end early. 0: none, and all is wanted whole."""


NEIGHBOURS = 2
"""Nodes next to one on a path."""
Trip = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]


class Live(Body, frozen=True, tag=6):
    """The hosted circuits that are open at this node now: (circuit, bytes towards the service, bytes back).

    Sent after `Start` and when a link comes or goes; every 5 s while it changes and once more, else every 30 s.
    Circuits of this node that the controller holds as live and that are missing have ended.
    """

    circuits: Annotated[tuple[tuple[Id16, int, int], ...], Meta(max_length=limits.LIVE_CIRCUITS)]
    routers: Annotated[tuple[Name, ...], Meta(max_length=limits.ROUTERS_PER_NODE)] = ()
    """Routers that this node has a link to now."""
    trips: Annotated[tuple[Trip, ...], Meta(max_length=limits.ROUTERS_PER_NODE)] = ()
    """Round trips to them in µs, in the same order; 0: not measured yet."""


class Prove(Body, frozen=True, tag=7):
    """Does the log of `size` records begin with each of the logs of `sizes`? Answered by `Proofs` (U-13)."""

    id: RequestId
    sizes: Annotated[
        tuple[Annotated[int, Meta(ge=0)], ...], Meta(max_length=limits.HEADS_PER_QUESTION)
    ]
    size: Annotated[int, Meta(ge=0)]


class Measured(Body, frozen=True, tag=8):
    """Answer to `Measure`: the round trips in µs, in the same order; 0: no link to it, or no answer in time."""

    id: RequestId
    trips: Annotated[tuple[Trip, ...], Meta(max_length=NEIGHBOURS)]


class Answer(Body, frozen=True, tag=20):
    """Freshness: the nonce of `Ask`, plant time in microseconds, the current authority version."""

    nonce: Id16
    time: Micros
    authority: Annotated[int, Meta(ge=0)]


class Issued(Body, frozen=True, tag=21):
    """Answer to `Enrol` and `Renew`: leaf and issuing CA in DER, leaf first (the root is known from the token)."""

    id: RequestId
    chain: Annotated[tuple[Der, ...], Meta(min_length=1, max_length=4)]


class Recorded(Body, frozen=True, tag=22):
    """Answer to `Events`: for each event its record's index in the log, the record's bytes and an inclusion proof
    (RFC 9162 §2.1.3) in `head`, a `Signed` tree head. A spool drops an event only when its proof holds (U-05)."""

    id: RequestId
    first: Annotated[int, Meta(ge=1)]
    head: SignedHead
    records: Annotated[
        tuple[tuple[int, LogLeaf, Proof], ...], Meta(max_length=limits.EVENTS_PER_BATCH)
    ]
    """Per event: (index in the log, leaf bytes, proof hashes). Where the node has said that it can make records itself
    (`makes`), the bytes are empty if the record says what the event says, with nothing filled in."""


class Failed(Body, frozen=True, tag=23):
    """A request that the controller refuses, with a code of `overlay.errors.Code` and a sentence."""

    id: RequestId
    code: Annotated[int, Meta(ge=0, le=255)]
    reason: Reason


class ListenerEntry(Body, frozen=True):
    """A `proxy` listener on this edge: bind `listen` (HOST:PORT); callers count as `who` (the edge or an asset)."""

    service: ServiceName
    listen: Annotated[str, Meta(max_length=255)]
    who: Name
    transport: Annotated[int, Meta(ge=0, le=1)]


class HostedEntry(Body, frozen=True):
    """A service this edge hosts: dial `address`, or one of that subnet (C-19), on `port` to `port_end`.

    `health`: seconds between two checks whether the asset answers there (K-11); 0 for none. `keep_source`: the asset
    sees its caller's address (G-06).
    """

    service: ServiceName
    asset: Name
    address: Annotated[str, Meta(max_length=255)]
    port: Annotated[int, Meta(ge=1, le=65_535)]
    port_end: Annotated[int, Meta(ge=1, le=65_535)]
    transport: Annotated[int, Meta(ge=0, le=1)]
    priority: int = 0
    health: Annotated[int, Meta(ge=0, le=limits.HEALTH_SECONDS)] = 0
    keep_source: bool = False


class ServicePorts(Body, frozen=True):
    """A service that is intercepted, and the ports and transport by which it is told from others of its asset.

    `at_once`: its connections are answered before the asset has answered.
    """

    service: ServiceName
    port: Annotated[int, Meta(ge=1, le=65_535)]
    port_end: Annotated[int, Meta(ge=1, le=65_535)]
    transport: Annotated[int, Meta(ge=0, le=1)]
    at_once: bool = False


class InterceptEntry(Body, frozen=True):
    """Traffic for services of `asset` is caught here, at the asset's place `number` in the pools and at `addresses`
    (addresses and subnets); programs of the edge's host count as `who`. With `exact` it is for one service only and
    goes before one for the whole asset. `mode` is a place in `overlay.policy.interception.MODES`. `subnet` is where an
    asset is that is a subnet: it has no place in the pools, and an address inside it means itself, one of another
    prefix the one with the same place in `subnet`.
    """

    asset: Name
    number: Annotated[int, Meta(ge=1, lt=1 << 22)]
    services: Annotated[tuple[ServicePorts, ...], Meta(max_length=limits.ASSIGNED)]
    who: Name
    mode: Annotated[int, Meta(ge=0, le=3)]
    addresses: Annotated[tuple[Prefix, ...], Meta(max_length=limits.INTERCEPT_ADDRESSES)] = ()
    exact: bool = False
    subnet: Annotated[str, Meta(max_length=43)] = ""


class BehindEntry(Body, frozen=True):
    """An asset that this edge asserts: who sends from `address` (and `mac`, where it is known) is `asset`."""

    asset: Name
    address: Annotated[str, Meta(max_length=255)]
    mac: Annotated[str, Meta(max_length=17)] = ""


class Assignments(Body, frozen=True, tag=24):
    """All that a node has to do; replaces the previous. `fabric` is the `Signed` fabric map.

    `pools` are the subnets (one IPv4, one IPv6) in which assets have their overlay addresses on this edge, `domain` the
    DNS name under which assets have names; both empty as long as nothing is intercepted.
    """

    version: Annotated[int, Meta(ge=0)]
    fabric: Annotated[bytes, Meta(max_length=limits.MAX_CONTROL)]
    listeners: Annotated[tuple[ListenerEntry, ...], Meta(max_length=limits.ASSIGNED)]
    hosted: Annotated[tuple[HostedEntry, ...], Meta(max_length=limits.ASSIGNED)]
    intercepts: Annotated[tuple[InterceptEntry, ...], Meta(max_length=limits.ASSIGNED)] = ()
    behind: Annotated[tuple[BehindEntry, ...], Meta(max_length=limits.ASSIGNED)] = ()
    pools: Annotated[tuple[Prefix, ...], Meta(max_length=2)] = ()
    domain: Annotated[str, Meta(max_length=127)] = ""


class GrantUpdate(Body, frozen=True, tag=25):
    """Grants of this edge: `put` are `Signed` grants, `drop` ids that are void now; `full` replaces all it held."""

    full: bool
    put: Annotated[tuple[GrantBytes, ...], Meta(max_length=limits.GRANTS_PER_UPDATE)]
    drop: Annotated[tuple[Id16, ...], Meta(max_length=limits.GRANTS_PER_UPDATE)] = ()
    more: bool = False
    """A full update continues in the next message; it replaces at its last part."""


class Current(Body, frozen=True, tag=26):
    """The `Signed` authority, inside the control circuit: a router that withholds it gains seconds at most (K-08)."""

    signed: Annotated[bytes, Meta(max_length=limits.MAX_CONTROL)]


class Proofs(Body, frozen=True, tag=27):
    """Answer to `Prove`: for each of its sizes a consistency proof (RFC 9162 §2.1.4)."""

    id: RequestId
    proofs: Annotated[tuple[Proof, ...], Meta(max_length=limits.HEADS_PER_QUESTION)]


class Measure(Body, frozen=True, tag=28):
    """How long does a PING to each of these routers take now? Answered by `Measured` (K-12)."""

    id: RequestId
    routers: Annotated[tuple[Name, ...], Meta(max_length=NEIGHBOURS)]


NodeMessage = Start | Ask | Enrol | Renew | Events | Live | Prove | Measured
ControllerMessage = (
    Answer | Issued | Recorded | Failed | Assignments | GrantUpdate | Current | Proofs | Measure
)
