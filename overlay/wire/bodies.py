"""Bodies of circuit and link frames that are MessagePack (docs/protocol/circuit.md, link.md).

DATA, DATAGRAM, CREDIT, CHECKPOINT and CLOSE are fixed binary layouts in `overlay.circuit`, since they are the hot path.
"""

from typing import Annotated, ClassVar

from msgspec import Meta

from overlay import limits
from overlay.wire.codec import Body

Name = Annotated[str, Meta(min_length=1, max_length=63)]
ServiceName = Annotated[str, Meta(min_length=1, max_length=127)]
Id16 = Annotated[bytes, Meta(min_length=16, max_length=16)]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Random = Annotated[bytes, Meta(min_length=32, max_length=32)]
Reason = Annotated[str, Meta(max_length=limits.MAX_REASON)]
GrantBytes = Annotated[bytes, Meta(max_length=limits.MAX_GRANT)]
Flight = Annotated[bytes, Meta(max_length=limits.MAX_FLIGHT)]
Early = Annotated[bytes, Meta(max_length=limits.MAX_EARLY_DATA + limits.TAG_SIZE)]
Nodes = Annotated[tuple[Name, ...], Meta(max_length=limits.MAX_ROUTE + 1)]
Micros = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]

NORMAL = 0
STRICT = 1
STREAM = 0
DATAGRAMS = 1

CONTROL_SERVICE = "_control"
"""The built-in service of controllers; it needs no grant."""
ASSOCIATE_SERVICE = "_associate"
"""Asks the host for an association under a grant for some service, and nothing else: it dials nothing (C-62)."""
ECHO_SERVICE = "_echo"
"""ICMP echo to the asset of a grant, whatever service the grant is for (C-80)."""
RIDERS = frozenset({ASSOCIATE_SERVICE, ECHO_SERVICE})
"""Services that ride on a grant for another one."""


class OpenIntent(Body, frozen=True):
    """The part of OPEN that both ends' keys are bound to (C-10): its bytes are hashed as transported.

    `circuit` is the circuit's name everywhere (random, 16 bytes); `association` names the association and `number` the
    circuit in it; `grant` is a `Signed` grant, empty only for `_control`. `host` is empty where the ingress router may
    choose (F-11); `port` 0 is the service's first port (C-09). `address`, 4 or 16 bytes, is one of an asset that is a
    subnet, and empty for one that is not (C-19).
    """

    circuit: Id16
    association: Id16
    number: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    service: ServiceName
    integrity: Annotated[int, Meta(ge=0, le=STRICT)]
    transport: Annotated[int, Meta(ge=0, le=DATAGRAMS)]
    random: Random
    grant: GrantBytes
    host: Annotated[str, Meta(max_length=63)] = ""
    port: Annotated[int, Meta(ge=0, le=65_535)] = 0
    address: Annotated[bytes, Meta(max_length=16)] = b""


class Open(Body, frozen=True):
    """OPEN: `flight` is the ClientHello of a new association, else empty; `early` is sealed early data, or its tag.

    `route` holds the nodes still to visit (filled by the ingress router), `path` those already visited, first the
    caller. Both lie outside the intent: routers change them, nothing is trusted in them.
    """

    intent: Annotated[bytes, Meta(max_length=limits.MAX_INTENT)]
    flight: Flight
    early: Early
    route: Nodes = ()
    path: Nodes = ()


class Accept(Body, frozen=True):
    """ACCEPT: the host's randomness; `flight` is the TLS server flight of a new association, else empty.

    `ready` and `data` are the payloads of READY and of the host's first DATA frame, as they would follow, where they
    come along (C-14).
    """

    random: Random
    flight: Flight
    ready: Annotated[bytes, Meta(max_length=limits.MAX_SEALED_READY)] = b""
    data: Early = b""


class Refusal(Body, frozen=True):
    """REFUSE, RESET, GOAWAY and the tail of CLOSE: a code of `overlay.errors.Code` and a sentence for people."""

    code: Annotated[int, Meta(ge=0, le=255)]
    reason: Reason


class Ready(Body, frozen=True):
    """READY, sealed with the host's control key: the host has reached the asset. `boot` counts the host's starts."""

    boot: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class ResumeIntent(Body, frozen=True):
    """The part of RESUME that is bound to its seal (C-60): its bytes are hashed as transported.

    The fields are those of the circuit's `OpenIntent`, with the present grant; `host` is empty only for `_control`.
    """

    circuit: Id16
    association: Id16
    number: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    host: Annotated[str, Meta(max_length=63)]
    service: ServiceName
    grant: GrantBytes


class Resume(Body, frozen=True):
    """RESUME: `intent` is a `ResumeIntent`, `sealed` a `ResumeState` under the control key of its sender.

    `route` and `path` as in `Open`. The header's sequence is the control key's counter that sealed it.
    """

    intent: Annotated[bytes, Meta(max_length=limits.MAX_INTENT)]
    sealed: Annotated[bytes, Meta(max_length=256)]
    route: Nodes = ()
    path: Nodes = ()


class ResumeState(Body, frozen=True):
    """What is sealed in RESUME (C-60).

    Only the caller raises `generation`; `expected` is the next stream number wanted, `limit` as in CREDIT. `ask`: the
    host wants to be resumed (C-64).
    """

    generation: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    expected: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    limit: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    ask: bool = False


EXPRESS = 0
"""The lane on which everything begins (L-08); lanes above it are for bulk."""


Lane = Annotated[int, Meta(ge=EXPRESS, le=limits.BULK_LANES)]


class Hello(Body, frozen=True, tag=1):
    """First CONTROL frame of each side of a link (L-30).

    `link` and `lane` repeat what the dialer's first bytes said; `bulk_lanes` is how many the acceptor has besides
    express (L-08).
    """

    link: Id16
    lane: Lane
    boot: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    version: Annotated[str, Meta(max_length=32)]
    bulk_lanes: Annotated[int, Meta(ge=0, le=limits.BULK_LANES)] = 0


class Attach(Body, frozen=True, tag=2):
    """CONTROL: `Signed` attachments, edge to router and router to router (F-10)."""

    attachments: Annotated[
        tuple[Annotated[bytes, Meta(max_length=limits.MAX_ATTACHMENT)], ...],
        Meta(max_length=limits.ATTACHMENTS_PER_FRAME),
    ]


class Publish(Body, frozen=True, tag=3):
    """CONTROL: a `Signed` authority or fabric map on its way to everybody (A-10)."""

    signed: Annotated[bytes, Meta(max_length=limits.MAX_CONTROL - 64)]


SignedHead = Annotated[bytes, Meta(max_length=limits.MAX_HEAD)]
"""A `Signed` `TreeHead`."""


class Heads(Body, frozen=True, tag=4):
    """CONTROL: tree heads of the audit log that the sender has seen (U-12): the newest, or the two of a fork."""

    heads: Annotated[tuple[SignedHead, ...], Meta(max_length=limits.HEADS_AT_ONCE)]


class Load(Body, frozen=True, tag=9):
    """CONTROL: how busy the router that says it is (F-17)."""

    level: Annotated[int, Meta(ge=0, le=limits.LOAD_MOST)]


LinkControl = Hello | Attach | Publish | Heads | Load
"""What a CONTROL frame holds."""


class Attachment(Body, frozen=True):
    """The routers that a node has links to, with the cost of each in µs, signed by that node itself (F-10).

    Newer (boot, counter) wins. `down` lists assets that the edge knows to be down. `until` in microseconds, plant time.
    """

    TYPE: ClassVar[str] = "attachment"

    node: Name
    routers: Annotated[
        tuple[tuple[Name, Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]], ...],
        Meta(max_length=limits.ROUTERS_PER_NODE),
    ]
    boot: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    counter: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    until: Micros
    down: Annotated[tuple[Name, ...], Meta(max_length=limits.ASSETS_DOWN)] = ()


class LocalKill(Body, frozen=True):
    """The switch that somebody pulled at an edge itself, as it is kept there: `since` in microseconds, plant time."""

    reason: Reason
    since: Micros


class TreeHead(Body, frozen=True):
    """A signed tree head of the audit log (RFC 9162 §4.10): `size` records, `root` their Merkle root."""

    TYPE: ClassVar[str] = "tree-head"

    size: Annotated[int, Meta(ge=0)]
    root: Hash
    time: Micros
