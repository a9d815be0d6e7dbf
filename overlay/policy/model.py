"""The plant as policy sees it: one immutable snapshot, made by the controller's store, read by the evaluation.

Times in microseconds since 1970, plant time; durations in seconds; 0 means "none" for ends and limits. All names are
canonical (`overlay.policy.names.parse_name`) and share one namespace, so a name says by itself what it is.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from overlay import limits
from overlay.errors import InputError
from overlay.policy.names import TAG_PREFIX, service_name
from overlay.wire.bodies import NORMAL, STREAM, STRICT, LocalKill

ZONE_DEPTH = limits.GRANT_ZONES
EDGES_PER_ASSET = limits.GRANT_HOSTS


class NodeState(StrEnum):
    """How the controller sees a router or an edge."""

    CONNECTED = "connected"
    WAITING = "waiting"
    LOST = "lost"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Zone:
    """Identities and assets with the same security need (IEC 62443); lies inside `parent`, if any."""

    name: str
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """The program before the assets, and a principal of its own."""

    name: str
    zone: str | None = None
    state: NodeState = NodeState.CONNECTED
    since: int = 0
    revoked: str = ""
    """Why it was revoked; says something only in state `revoked`."""
    local_kill: LocalKill | None = None


@dataclass(frozen=True, slots=True)
class Asset:
    """A device without an agent; `edges` speak for it and host its services, the first choice first: the `priorities`
    of the same places say which are equally good (none: all), the `weights` how these share (none: by cost)."""

    name: str
    edges: tuple[str, ...]
    address: str = ""
    zone: str | None = None
    tags: tuple[str, ...] = ()
    priorities: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """One protocol at one asset (or at an edge's own machine); `keep_source`: the asset sees its caller's address."""

    asset: str
    protocol: str
    port: int
    port_end: int
    transport: int = STREAM
    keep_source: bool = False

    @property
    def name(self) -> str:
        """`plc-b.modbus`."""
        return service_name(self.asset, self.protocol)

    @property
    def where(self) -> str:
        """`502/tcp`, for people."""
        ports = str(self.port) if self.port == self.port_end else f"{self.port}-{self.port_end}"
        return f"{ports}/{'tcp' if self.transport == STREAM else 'udp'}"


@dataclass(frozen=True, slots=True)
class Conduit:
    """Who may reach what, over which protocol, until when. `who` and `to`: a name or `tag:NAME`.

    `hold` is for how many seconds after `refresh_by` grants still count while the controller is away (0: not at all).
    `ended` is when somebody denied it before its time (0: nobody did), `ended_by` and `ended_reason` say who and why.
    """

    id: str
    who: str
    to: str
    protocol: str
    starts: int = 0
    ends: int = 0
    max_session: int = 0
    hold: int = 0
    integrity: int = NORMAL
    reason: str = ""
    by: str = ""
    ended: int = 0
    ended_by: str = ""
    ended_reason: str = ""

    def in_force(self, now: int) -> bool:
        """Whether it allows anything at `now`."""
        return self.starts <= now and not self.over(now)

    def over(self, now: int) -> bool:
        """Whether it will never allow anything again."""
        return bool(self.ended and self.ended <= now) or bool(self.ends and self.ends <= now)

    @property
    def sentence(self) -> str:
        """What it says, in the form in which it can be written: `hmi-a > plc-b.modbus`."""
        return f"{self.who} > {self.to}.{self.protocol}" + (
            " strict" if self.integrity == STRICT else ""
        )

    def same_limits(self, other: "Conduit") -> bool:
        """Whether a circuit of this conduit may go on under the other (G-03, design: equal limits)."""
        return self.integrity == other.integrity and self.max_session == other.max_session


@dataclass(frozen=True, slots=True)
class ActiveKill:
    """A kill as the controller keeps it; `level` as in `overlay.fabric.authority.LEVELS`, `until` 0: until restored."""

    id: str
    level: str
    name: str
    reason: str
    by: str
    since: int
    until: int = 0

    def in_force(self, now: int) -> bool:
        """Whether it still counts."""
        return not self.until or now < self.until


class Principal(NamedTuple):
    """Somebody (or something) that policy can name: itself, the zones around it from the inside out, its tags."""

    name: str
    kind: str
    zones: tuple[str, ...]
    tags: tuple[str, ...]
    edges: tuple[str, ...]
    """Edges that speak for it: the edge itself, or those before the asset. Empty for people."""

    @property
    def keys(self) -> tuple[str, ...]:
        """Every WHO and TO that means it."""
        return (self.name, *self.zones, *(TAG_PREFIX + tag for tag in self.tags))


@dataclass(frozen=True)
class Plant:
    """Everything that a decision depends on, at one moment. Cheap look-ups are made once, when it is built."""

    name: str = "plant"
    time_zone: str = "UTC"
    zones: tuple[Zone, ...] = ()
    edges: tuple[Edge, ...] = ()
    assets: tuple[Asset, ...] = ()
    users: tuple[str, ...] = ()
    routers: tuple[str, ...] = ()
    services: tuple[Service, ...] = ()
    conduits: tuple[Conduit, ...] = ()
    kills: tuple[ActiveKill, ...] = ()
    zone: dict[str, Zone] = field(init=False, repr=False, compare=False)
    edge: dict[str, Edge] = field(init=False, repr=False, compare=False)
    asset: dict[str, Asset] = field(init=False, repr=False, compare=False)
    service: dict[str, Service] = field(init=False, repr=False, compare=False)
    principals: dict[str, Principal] = field(init=False, repr=False, compare=False)
    by_who: dict[str, list[Conduit]] = field(init=False, repr=False, compare=False)
    """Conduits by the WHO that was written, in the order given."""
    behind: dict[str, list[str]] = field(init=False, repr=False, compare=False)
    """Edge to the names of the principals that it asserts, itself first."""
    offered: dict[tuple[str, str], list[Service]] = field(init=False, repr=False, compare=False)
    """(TO, protocol) to the services that it means."""

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "zone", {zone.name: zone for zone in self.zones})
        put(self, "edge", {edge.name: edge for edge in self.edges})
        put(self, "asset", {asset.name: asset for asset in self.assets})
        put(self, "service", {service.name: service for service in self.services})
        put(self, "principals", {who.name: who for who in self._principals()})
        behind: dict[str, list[str]] = {edge.name: [edge.name] for edge in self.edges}
        for asset in self.assets:
            for edge in asset.edges:
                behind.setdefault(edge, []).append(asset.name)
        put(self, "behind", behind)
        offered: defaultdict[tuple[str, str], list[Service]] = defaultdict(list)
        for service in self.services:
            target = self.principals.get(service.asset)
            for key in target.keys if target else ():
                offered[key, service.protocol].append(service)
        put(self, "offered", dict(offered))
        self._index_conduits()

    def _index_conduits(self) -> None:
        by_who: defaultdict[str, list[Conduit]] = defaultdict(list)
        for conduit in self.conduits:
            by_who[conduit.who].append(conduit)
        object.__setattr__(self, "by_who", dict(by_who))

    def _principals(self) -> Iterator[Principal]:
        for edge in self.edges:
            yield Principal(edge.name, "edge", self.ancestry(edge.zone), (), (edge.name,))
        for asset in self.assets:
            zones = self.ancestry(asset.zone)
            yield Principal(asset.name, "asset", zones, asset.tags, asset.edges)
        for user in self.users:
            yield Principal(user, "user", (), (), ())

    def ancestry(self, zone: str | None) -> tuple[str, ...]:
        """The zone and those around it, from the inside out; never more than `ZONE_DEPTH`, whatever the store holds."""
        found: list[str] = []
        while zone is not None and zone not in found and len(found) < ZONE_DEPTH:
            found.append(zone)
            known = self.zone.get(zone)
            zone = known.parent if known else None
        return tuple(found)

    def conduits_of(self, who: Principal) -> Iterator[Conduit]:
        """Conduits whose WHO means this principal, in force or not."""
        for key in who.keys:
            yield from self.by_who.get(key, ())

    @property
    def tags(self) -> set[str]:
        """Tags that some asset carries."""
        return {tag for asset in self.assets for tag in asset.tags}

    def kind(self, name: str) -> str:
        """What a name stands for, in one word; empty when nothing has it."""
        if name.startswith(TAG_PREFIX):
            return "tag" if name.removeprefix(TAG_PREFIX) in self.tags else ""
        if name in self.zone:
            return "zone"
        if name in self.routers:
            return "router"
        principal = self.principals.get(name)
        return principal.kind if principal else ""

    def every_name(self) -> Iterator[str]:
        """All names of the one namespace, and all tags in the form in which policy writes them."""
        yield from self.zone
        yield from self.routers
        yield from self.principals
        yield from (TAG_PREFIX + tag for tag in self.tags)

    def with_conduits(self, conduits: Iterable[Conduit]) -> "Plant":
        """The same plant with other conduits, as it would be after a change."""
        return replace(self, conduits=tuple(conduits))


def check_zone_parent(zones: Iterable[Zone], name: str, parent: str) -> None:
    """Whether `name` may lie inside `parent`.

    Raises:
        InputError: it would lie inside itself, or zones would nest deeper than `ZONE_DEPTH`.
    """
    parents = {zone.name: zone.parent for zone in zones}
    above = 0
    at: str | None = parent
    while at is not None and above <= len(parents):
        if at == name:
            raise InputError(f"zone {name} cannot lie inside {parent}, which lies inside {name}")
        above += 1
        at = parents.get(at)
    children: defaultdict[str, list[str]] = defaultdict(list)
    for child, of in parents.items():
        if of is not None:
            children[of].append(child)
    below, level = 0, [name]
    while level and below <= ZONE_DEPTH:
        below += 1
        level = [child for one in level for child in children.get(one, ())]
    if above + below > ZONE_DEPTH:
        raise InputError(f"zones may lie at most {ZONE_DEPTH} deep inside one another")
