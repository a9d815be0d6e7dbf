"""What actions answer. Field names are the JSON keys of API and command line, and are exact.

Times are RFC 3339 text in UTC with microseconds (`2026-01-31T17:00:00.000000Z`); every id is text. Optional text that
does not apply is null. What is asked is in `controller.actions.requests`.
"""

from typing import Any, Literal

from msgspec import Struct, field

RoleName = Literal["admin", "engineer", "approver", "operator", "auditor"]
ObjectKind = Literal[
    "zone", "router", "edge", "asset", "service", "listener", "intercept", "conduit", "kill"
]
KillLevel = Literal["identity", "service", "zone", "plant"]
NodeState = Literal["connected", "waiting", "lost", "revoked"]


class Result(Struct, kw_only=True):
    """Base of what is answered."""


# --- who asks --------------------------------------------------------------------------------------
class Actor(Result):
    """The person (or the controller itself) on whose behalf an action runs."""

    name: str
    role: RoleName


class LoggedIn(Result):
    """A session: `token` is shown this once, it ends at `expires` without use; `root` is the plant's root in PEM."""

    token: str
    user: str
    role: RoleName
    plant: str
    expires: str
    root: str


# --- inventory -------------------------------------------------------------------------------------
class Zone(Result):
    """A zone."""

    name: str
    level: int | None
    sl: int | None
    parent: str | None


class Router(Result):
    """A router and where it is dialled."""

    name: str
    address: str
    dials: tuple[str, ...]
    draining: bool
    state: NodeState
    generation: int


class Edge(Result):
    """An edge; `generation` counts redeemed tokens, `pools` are where overlay addresses are on it."""

    name: str
    zone: str | None
    state: NodeState
    generation: int
    pools: tuple[str, ...]


class Token(Result):
    """A one-time token: `token` is the text of the token file, valid until `expires`."""

    name: str
    role: Literal["router", "edge"]
    token: str
    expires: str


class AddedRouter(Router):
    """The router made, and its token."""

    token: str
    expires: str


class AddedEdge(Edge):
    """The edge made, and its token."""

    token: str
    expires: str


class AssetEdge(Result):
    """An edge before an asset; the lowest priority number hosts while it is attached, those of one share by weight."""

    edge: str
    priority: int
    weight: int


class Asset(Result):
    """A device without agent."""

    name: str
    edges: tuple[AssetEdge, ...]
    address: str | None
    mac: str | None
    zone: str | None
    tags: tuple[str, ...]


class Service(Result):
    """`name` is ASSET.PROTOCOL; `port` to `port_end` are equal for one port.

    `connect`: when an intercepted connection is answered. `health`: seconds between two checks, null for none.
    `source`: whose address the asset sees.
    """

    name: str
    asset: str
    protocol: str
    port: int
    port_end: int
    transport: Literal["tcp", "udp"]
    connect: Literal["held", "at-once"]
    health: int | None
    source: Literal["edge", "caller"]


class Listener(Result):
    """`name` is EDGE:HOST:PORT, with `:udp` for datagrams."""

    name: str
    edge: str
    service: str
    listen: str
    transport: Literal["tcp", "udp"]
    as_asset: str | None = field(name="as")


class Intercept(Result):
    """`name` is EDGE:ASSET, or EDGE:SERVICE when it is for one service only.

    Traffic to `dns`, to `overlay` (the addresses of that name on the edge) and to `addresses` is caught.
    """

    name: str
    edge: str
    asset: str
    service: str | None
    mode: Literal["auto", "tun", "tproxy", "redirect"]
    addresses: tuple[str, ...]
    overlay: tuple[str, ...]
    dns: str
    as_asset: str | None = field(name="as")


class Removed(Result):
    """What was removed."""

    kind: str
    name: str


# --- policy ----------------------------------------------------------------------------------------
class Conduit(Result):
    """A conduit. `until` null: no end. `away` is `close` or `hold:DUR`, `max_session` seconds, `text` all in words."""

    id: str
    who: str
    to: str
    protocol: str
    until: str | None
    max_session: int | None
    away: str
    strict: bool
    reason: str | None
    by: str
    created: str
    ended: str | None
    end_reason: str | None
    text: str


class Reach(Result):
    """One pair that policy opens or closes."""

    who: str
    via: str
    service: str
    asset: str


class Effect(Result):
    """What `--dry-run` found: pairs that become allowed, pairs that end, ids of live sessions that would be cut."""

    opens: tuple[Reach, ...]
    closes: tuple[Reach, ...]
    cuts: tuple[str, ...]


class Denied(Result):
    """`ended` are the conduits that were ended, `still` those that allow (part of) the same: not empty means exit 1."""

    ended: tuple[str, ...]
    still: tuple[str, ...]
    text: str


class Check(Result):
    """One check of `why`; `text` is for people."""

    check: str
    ok: bool
    text: str


class Why(Result):
    """Whether it is allowed now, by which conduit, and each check."""

    allowed: bool
    conduit: str | None
    checks: tuple[Check, ...]


# --- sovereignty -----------------------------------------------------------------------------------
class Kill(Result):
    """An active kill; `until` null: until it is restored."""

    id: str
    level: KillLevel
    name: str
    reason: str
    by: str
    since: str
    until: str | None


class Restored(Result):
    """The kills that were lifted, and those that still cover the same target."""

    restored: tuple[str, ...]
    still: tuple[str, ...]
    text: str


class Revoked(Result):
    """Certificates of `name` up to `generation` are void."""

    kind: str
    name: str
    generation: int


# --- what happens ----------------------------------------------------------------------------------
class Session(Result):
    """A circuit. `bytes_in` count towards the service. `ended` null: live. `moves`: how often it went on by another
    path, or under another conduit."""

    id: str
    who: str
    via: str
    asset: str
    service: str
    address: str
    path: tuple[str, ...]
    conduit: str
    started: str
    ended: str | None
    end_reason: str | None
    bytes_in: int
    bytes_out: int
    key_exchange: str
    integrity: Literal["normal", "strict"]
    moves: int = 0


class AuditRecord(Result):
    """A record of the log. `hash` is its Merkle leaf hash in hex; `detail` what only this kind of event has."""

    seq: int
    time: str
    event: str
    outcome: Literal["allowed", "denied", "done", "failed"]
    who: str
    via: str
    asset: str
    service: str
    address: str
    conduit: str
    reason: str
    node: str
    count: int
    hash: str
    circuit: str = ""
    detail: dict[str, Any] = {}


class Verified(Result):
    """Whether the log is whole: `signed_by` is the controller of the newest tree head."""

    ok: bool
    records: int
    first: int | None
    last: int | None
    signed_by: str | None
    problems: tuple[str, ...]


class Proof(Result):
    """That record `seq` is in the log: hashing `hash` up along `path` (hex, lowest first) gives `root` at `size`.

    `record` and `head` are the lines that an export would hold for the record and for the newest signed head
    (overlay.audit.export: `export_record`, `export_head`), so that a client can check everything by itself.
    """

    seq: int
    hash: str
    path: tuple[str, ...]
    size: int
    root: str
    signed_by: str
    record: str
    head: str


class NodeStatus(Result):
    """One program of the plant."""

    name: str
    state: NodeState
    since: str | None
    version: str | None


class Alert(Result):
    """Something that works and should not stay so: `kind` and `name` say what it is about, `text` what it is."""

    kind: Literal["plant", "edge", "router", "service"]
    name: str
    text: str


class Hop(Result):
    """One link of a path; `round_trip_ms` null: nobody has measured it yet. `age`: seconds since the controller was
    told; 0: it was measured for this answer."""

    node: str
    to: str
    round_trip_ms: float | None
    age: float | None


class Trace(Result):
    """The path of a session, hop by hop; `round_trip_ms` of all hops together, null where one is missing."""

    id: str
    who: str
    service: str
    address: str
    path: tuple[str, ...]
    moves: int
    ended: str | None
    hops: tuple[Hop, ...]
    round_trip_ms: float | None


class Status(Result):
    """The plant's programs."""

    plant: str
    controllers: tuple[NodeStatus, ...]
    routers: tuple[NodeStatus, ...]
    edges: tuple[NodeStatus, ...]
    alerts: tuple[Alert, ...] = ()
