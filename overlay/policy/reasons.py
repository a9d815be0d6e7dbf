"""The checks behind a decision, in words that an OT engineer can act on."""

from collections.abc import Iterator, Sequence

import msgspec

from overlay.policy.model import (
    ActiveKill,
    Conduit,
    Edge,
    NodeState,
    Plant,
    Principal,
    Service,
)
from overlay.policy.names import TAG_PREFIX, listed
from overlay.policy.times import format_duration, format_local, rough_duration
from overlay.wire.bodies import STRICT

MAX_CONDUITS_NAMED = 5


class Check(msgspec.Struct, frozen=True):
    """One step of a decision: `check` is a short id for scripts, `text` one sentence for people."""

    check: str
    ok: bool
    text: str


def describe(plant: Plant, who: Principal) -> str:
    """`hmi-a is an asset in zone cell-1, behind edge-a`."""
    if who.kind == "user":
        return f"{who.name} is a person"
    article = "an edge" if who.kind == "edge" else "an asset"
    inside = f" in zone {who.zones[0]}" if who.zones else ""
    outer = f" (inside {listed(who.zones[1:])})" if len(who.zones) > 1 else ""
    tags = f", tagged {listed(who.tags)}" if who.tags else ""
    behind = ""
    if who.kind == "asset":
        known = [edge for edge in who.edges if edge in plant.edge]
        behind = f", behind {listed(known)}" if known else ", behind no edge"
    return f"{who.name} is {article}{inside}{outer}{tags}{behind}"


def describe_service(plant: Plant, service: Service) -> str:
    """`plc-b offers modbus at 10.0.0.5, port 502/tcp`."""
    asset = plant.asset.get(service.asset)
    at = f" at {asset.address}" if asset is not None and asset.address else ""
    return f"{service.asset} offers {service.protocol}{at}, port {service.where}"


def no_service(target: Principal, protocol: str, offered: Sequence[str]) -> str:
    """Which services are there instead, and how to make the one that was asked for."""
    has = f"it offers {listed(offered)}" if offered else "it offers nothing yet"
    return (
        f"{target.name} does not offer {protocol}: {has}; to add it: "
        f"ferrule add service {target.name} {protocol}"
    )


def written_for(conduit: Conduit) -> str:
    """`zone cells to plc-b over modbus`, the way the conduit was written."""
    who, to = (
        f"everything tagged {name.removeprefix(TAG_PREFIX)}"
        if name.startswith(TAG_PREFIX)
        else name
        for name in (conduit.who, conduit.to)
    )
    return f"conduit {conduit.id} ({who} to {to} over {conduit.protocol})"


def conduit_checks(
    plant: Plant,
    who: Principal,
    service: Service,
    conduits: Sequence[Conduit],
    carrier: Conduit | None,
    now: int,
) -> Iterator[Check]:
    """Which conduit allows it and until when, and which else would; or why none does."""
    if carrier is not None:
        yield Check("conduit", ok=True, text=_in_force(plant, carrier, now))
        for other in [one for one in conduits if one.in_force(now) and one is not carrier][
            :MAX_CONDUITS_NAMED
        ]:
            yield Check(
                "other conduit", ok=True, text=f"also allows it: {_in_force(plant, other, now)}"
            )
        return
    advice = (
        f"to allow it: ferrule allow {who.name} {service.asset} {service.protocol} --for 2h"
        if who.kind != "user"
        else f"ask for it: ferrule request {who.name} {service.asset} {service.protocol}"
    )
    if not conduits:
        text = f"no conduit lets {who.name} reach {service.name}; {advice}"
        yield Check("conduit", ok=False, text=text)
        return
    latest = sorted(conduits, key=_gone, reverse=True)[:MAX_CONDUITS_NAMED]
    for number, conduit in enumerate(latest):
        text = _not_in_force(plant, conduit, now)
        yield Check("conduit", ok=False, text=text if number else f"{text}; {advice}")


def _gone(conduit: Conduit) -> int:
    """When it ended; one that has not begun comes first."""
    return conduit.ended or conduit.ends or 1 << 63


def _in_force(plant: Plant, conduit: Conduit, now: int) -> str:
    parts = [f"{written_for(conduit)} is in force"]
    if conduit.ends:
        left = rough_duration(conduit.ends - now)
        parts.append(f"until {format_local(conduit.ends, plant.time_zone)} ({left} left)")
    else:
        parts.append("with no end")
    text = " ".join(parts)
    if conduit.max_session:
        text += f", sessions up to {format_duration(conduit.max_session)}"
    if conduit.integrity == STRICT:
        text += ", every frame signed (strict)"
    if not conduit.hold:
        text += ", closed while the controller is away"
    return text


def _not_in_force(plant: Plant, conduit: Conduit, now: int) -> str:
    named = written_for(conduit)
    if conduit.ended and conduit.ended <= now:
        by = f" by {conduit.ended_by}" if conduit.ended_by else ""
        reason = f": {conduit.ended_reason}" if conduit.ended_reason else ""
        return f"{named} was denied{by} {_ago(plant, conduit.ended, now)}{reason}"
    if conduit.ends and conduit.ends <= now:
        return f"{named} ended {_ago(plant, conduit.ends, now)}"
    starts = format_local(conduit.starts, plant.time_zone)
    return f"{named} begins {starts} (in {rough_duration(conduit.starts - now)})"


def _ago(plant: Plant, moment: int, now: int) -> str:
    return f"{format_local(moment, plant.time_zone)} ({rough_duration(now - moment)} ago)"


def obstacle_checks(
    plant: Plant, who: Principal, service: Service, target: Principal, now: int
) -> tuple[bool, list[Check]]:
    """Whether revocations, kills and switches pulled on site leave a pair of edges; what each of them does.

    An edge that is out of service is in the way only when no other speaks for the caller, or hosts the service.
    """
    pairs = [(via, host) for via in who.edges for host in target.edges]
    out = {
        edge.name
        for edge in (*_edges(plant, who), *_edges(plant, target))
        if edge.state is NodeState.REVOKED or edge.local_kill is not None
    }
    kills = [
        kill
        for kill in plant.kills
        if kill.in_force(now)
        and any(
            kill_matches(kill, who, via, service, target, host) for via, host in pairs or [("", "")]
        )
    ]
    left = [
        (via, host)
        for via, host in pairs
        if not {via, host} & out
        and not any(kill_matches(kill, who, via, service, target, host) for kill in kills)
    ]
    through = f"; {' > '.join(left[0])} is left" if left else ""
    checks = [
        *_revocation_checks(plant, who, target, through),
        *_kill_checks(plant, kills, through, ok=bool(left)),
        *_local_kill_checks(plant, who, target, through),
    ]
    return bool(left), checks


def kill_matches(
    kill: ActiveKill, who: Principal, via: str, service: Service, target: Principal, host: str
) -> bool:
    """Whether a kill covers this caller and service over these two edges (A-05)."""
    match kill.level:
        case "identity":
            return kill.name in {who.name, via, target.name, host}
        case "service":
            return kill.name == service.name
        case "zone":
            return kill.name in who.zones or kill.name in target.zones
        case "plant":
            return True
        case _:
            return False  # a circuit: one session, not what policy says


def _edges(plant: Plant, who: Principal) -> list[Edge]:
    return [plant.edge[name] for name in who.edges if name in plant.edge]


def _both(plant: Plant, who: Principal, target: Principal) -> list[Edge]:
    return list(dict.fromkeys([*_edges(plant, who), *_edges(plant, target)]))


def _revocation_checks(
    plant: Plant, who: Principal, target: Principal, through: str
) -> Iterator[Check]:
    edges = _both(plant, who, target)
    revoked = [edge for edge in edges if edge.state is NodeState.REVOKED]
    for edge in revoked:
        because = f": {edge.revoked}" if edge.revoked else ""
        cure = (
            through or f"; it is for ever: enrol a new machine with ferrule token edge {edge.name}"
        )
        text = f"the certificates of {edge.name} were revoked{because}{cure}"
        yield Check("revoked", ok=bool(through), text=text)
    if edges and not revoked:
        names = listed(edge.name for edge in edges)
        verb = "was" if len(edges) == 1 else "were"
        yield Check("revoked", ok=True, text=f"{names} {verb} not revoked")


def _kill_checks(
    plant: Plant, kills: Sequence[ActiveKill], through: str, *, ok: bool
) -> Iterator[Check]:
    for kill in kills:
        target = "plant" if kill.level == "plant" else f"{kill.level} {kill.name}"
        what = "the whole plant" if kill.level == "plant" else target
        until = f" until {format_local(kill.until, plant.time_zone)}" if kill.until else ""
        reason = f": {kill.reason}" if kill.reason else ", with no reason given"
        cure = through or f"; to lift it: ferrule restore {target}"
        since = format_local(kill.since, plant.time_zone)
        text = f"{what} was killed by {kill.by or 'somebody'} on {since}{until}{reason}{cure}"
        yield Check("kill", ok=ok, text=text)
    if not kills:
        yield Check(
            "kill", ok=True, text="no kill is active for either side, the service or a zone"
        )


def _local_kill_checks(
    plant: Plant, who: Principal, target: Principal, through: str
) -> Iterator[Check]:
    for edge in _both(plant, who, target):
        if edge.local_kill is None:
            continue
        since = format_local(edge.local_kill.since, plant.time_zone)
        reason = f": {edge.local_kill.reason}" if edge.local_kill.reason else ""
        cure = through or "; only there can it be lifted, with ferrule-edge restore"
        text = f"someone on site pulled the switch of {edge.name} on {since}{reason}{cure}"
        yield Check("local kill", ok=bool(through), text=text)


def presence_checks(
    plant: Plant, who: Principal, target: Principal, hosts: Sequence[str]
) -> Iterator[Check]:
    """Whether the edges on both sides are there now."""
    if who.kind == "user":
        yield Check("caller edge", ok=False, text=f"no edge speaks for {who.name}")
    else:
        yield _present(plant, "caller edge", who.edges, ("speaks for", "speak for"), who.name)
    yield _present(plant, "host edge", hosts or target.edges, ("hosts", "host"), target.name)


def _present(
    plant: Plant, check: str, names: Sequence[str], verb: tuple[str, str], what: str
) -> Check:
    """`verb` in singular and plural."""
    does = f"{verb[0]} {what}"
    edges = [plant.edge[name] for name in names if name in plant.edge]
    if not edges:
        return Check(check, ok=False, text=f"no edge {does}")
    connected = [edge.name for edge in edges if edge.state is NodeState.CONNECTED]
    if connected:
        if len(connected) == 1:
            return Check(check, ok=True, text=f"{connected[0]} {does} and is connected")
        said = f"{listed(connected)} {verb[1]} {what} and are connected"
        return Check(check, ok=True, text=said)
    return Check(check, ok=False, text=f"{listed(_away(plant, edge) for edge in edges)} ({does})")


def _away(plant: Plant, edge: Edge) -> str:
    since = f" since {format_local(edge.since, plant.time_zone)}" if edge.since else ""
    match edge.state:
        case NodeState.REVOKED:
            return f"{edge.name} was revoked"
        case NodeState.WAITING:
            return f"{edge.name} has not connected yet: start it with its token"
        case _:
            return f"{edge.name} is not connected{since}"
