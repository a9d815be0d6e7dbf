"""What is asked of actions: bodies of requests. Field names are the JSON keys of the API, and are exact.

Durations and times are text as people write them (`2h`, `friday 18:00`).
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from controller.actions.types import KillLevel
from overlay import limits
from overlay.policy.sentence import MAX_SENTENCE

MAX_TEXT = 255
MAX_NAME = 127
"""Of a service, which has the longest names: what one may be is the policy's to say."""
MAX_PASSWORD = 1024
TAGS = 64
"""Of one asset."""
POOLS = 2
FOUND_AT_ONCE = 100_000
"""Records that one search gives."""

Text = Annotated[str, Meta(max_length=MAX_TEXT)]
NameText = Annotated[str, Meta(min_length=1, max_length=MAX_NAME)]
ReasonText = Annotated[str, Meta(max_length=limits.MAX_REASON)]
Words = Annotated[str, Meta(max_length=MAX_SENTENCE)]


class Request(Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of what is asked for: an unknown field is an error, so that nothing is accepted and ignored."""


class Login(Request):
    """Name and password. `otp` is refused until there are one-time codes."""

    user: NameText
    password: Annotated[str, Meta(max_length=MAX_PASSWORD)]
    otp: Text | None = None


class NewZone(Request):
    """`level` is the Purdue level, `sl` the target security level, `parent` the zone around it."""

    name: NameText
    level: Annotated[int, Meta(ge=0, le=5)] | None = None
    sl: Annotated[int, Meta(ge=1, le=4)] | None = None
    parent: NameText | None = None


class NewRouter(Request):
    """`address` is HOST:PORT as others dial it, `dials` the routers it dials itself."""

    name: NameText
    address: Text
    dials: Annotated[tuple[NameText, ...], Meta(max_length=limits.ROUTER_DIALS)] = ()


class NewEdge(Request):
    """An edge, in a zone or in none. `pools` are subnets for overlay addresses, at most one IPv4 and one IPv6."""

    name: NameText
    zone: NameText | None = None
    pools: Annotated[tuple[Text, ...], Meta(max_length=POOLS)] = ()


class NewAsset(Request):
    """`edges` are `EDGE`, `EDGE:PRIORITY` or `EDGE:PRIORITY:WEIGHT`."""

    name: NameText
    edges: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=limits.GRANT_HOSTS)]
    address: Text | None = None
    mac: Text | None = None
    zone: NameText | None = None
    tags: Annotated[tuple[NameText, ...], Meta(max_length=TAGS)] = ()


class NewService(Request):
    """`port` is `N` or `N-M`; without it `protocol` must be a known name.

    `connect`: an intercepted connection is answered when the asset has answered, or at once. `health`: how often its
    edges ask the asset whether it is there (DUR, or `off`). `source`: whose address the asset sees.
    """

    asset: NameText
    protocol: NameText
    port: Text | None = None
    transport: Literal["tcp", "udp"] | None = None
    connect: Literal["held", "at-once"] = "held"
    health: Text | None = None
    source: Literal["edge", "caller"] = "edge"


class NewListener(Request):
    """A port on `edge` for `service`; connections count as `as_asset` (an asset behind that edge) or as the edge."""

    edge: NameText
    service: NameText
    listen: Text
    as_asset: NameText | None = field(default=None, name="as")


class NewIntercept(Request):
    """Traffic on `edge` for `target`, an asset or a service, is caught: by name, and at `addresses` (IP or SUBNET).

    Programs on the edge's host count as `as_asset` (an asset behind that edge) or as the edge.
    """

    edge: NameText
    target: NameText
    mode: Text | None = None
    addresses: Annotated[tuple[Text, ...], Meta(max_length=limits.INTERCEPT_ADDRESSES)] = ()
    as_asset: NameText | None = field(default=None, name="as")


class Changes(Request):
    """KEY=VALUE of `ferrule set`; keys are the option names of `add`, values text; a list replaces all entries."""

    changes: dict[str, str | tuple[str, ...]]


class Allow(Request):
    """Who may reach what. Either `sentence` (words or `a > b.modbus > 2h`), or `who`, `to` and `protocol`.

    `for_` and `until` exclude each other. `schedule`, `approvals` and `read_only` are refused by this build.
    """

    sentence: Words | None = None
    who: Text | None = None
    to: Text | None = None
    protocol: Text | None = None
    for_: Text | None = field(default=None, name="for")
    until: Text | None = None
    schedule: Text | None = None
    max_session: Text | None = None
    away: Text | None = None
    read_only: bool = False
    approvals: int | None = None
    strict: bool = False
    reason: ReasonText | None = None


class Deny(Request):
    """Either the `conduit` id, or `who`, `to` and `protocol` as they were written (or as a `sentence`)."""

    conduit: Text | None = None
    who: Text | None = None
    to: Text | None = None
    protocol: Text | None = None
    sentence: Words | None = None
    reason: ReasonText | None = None


class NewKill(Request):
    """`name` is empty for the plant."""

    level: KillLevel
    name: Text = ""
    reason: ReasonText = ""
    for_: Text | None = field(default=None, name="for")


class KillSession(Request):
    """Cut one session; its conduit stays."""

    id: NameText
    reason: ReasonText = ""


class Restore(Request):
    """Lifts every kill of exactly this target."""

    level: KillLevel
    name: Text = ""
    reason: ReasonText = ""


class Revoke(Request):
    """All certificates of an identity, for ever."""

    kind: Literal["router", "edge"]
    name: NameText
    reason: Annotated[str, Meta(min_length=1, max_length=limits.MAX_REASON)]


class Search(Request):
    """Filters that all must hold; `since` and `until` are times or durations (that long ago). The newest `limit`."""

    who: Text | None = None
    service: Text | None = None
    outcome: Text | None = None
    since: Text | None = None
    until: Text | None = None
    limit: Annotated[int, Meta(ge=1, le=FOUND_AT_ONCE)] = 1000
