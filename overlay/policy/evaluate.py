"""What the conduits of a plant allow: the one that carries, the grants that follow, and every reason in words.

Default deny: nothing is allowed unless a conduit in force says so. Any matching conduit suffices; of several, the one
that ends last carries the circuit (no end is last), and among equals the first. A conduit written for a zone means
everything in it and in the zones inside it.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from overlay import limits
from overlay.errors import InputError
from overlay.policy import reasons
from overlay.policy.model import Conduit, NodeState, Plant, Principal, Service
from overlay.policy.names import hint, known_protocol, shown, with_article
from overlay.policy.reasons import Check


class Decision(msgspec.Struct, frozen=True):
    """The answer of `ferrule why`: `conduit` is the id of the one that carries, None when none does."""

    allowed: bool
    conduit: str | None
    checks: tuple[Check, ...]


class GrantSpec(NamedTuple):
    """What a grant has to say; the controller adds id, key, times of refreshing, and signs it (`overlay.policy.grant`).

    `not_before` and `end` in microseconds (0: no end), `max_session` and `hold` in seconds.
    """

    conduit: str
    who: str
    via: str
    service: str
    asset: str
    hosts: tuple[str, ...]
    transport: int
    integrity: int
    not_before: int
    end: int
    max_session: int
    hold: int
    who_zones: tuple[str, ...]
    asset_zones: tuple[str, ...]
    who_address: str = ""
    ranks: tuple[int, ...] = ()
    weights: tuple[int, ...] = ()


def lasts_longer(one: Conduit, other: Conduit) -> bool:
    """Whether `one` ends strictly later than `other`."""
    return bool(other.ends) and (not one.ends or one.ends > other.ends)


def carrying(conduits: Iterator[Conduit], now: int) -> Conduit | None:
    """Of those in force, the one that ends last; among equals the first."""
    best: Conduit | None = None
    for conduit in conduits:
        if conduit.in_force(now) and (best is None or lasts_longer(conduit, best)):
            best = conduit
    return best


def matching(plant: Plant, who: Principal, service: Service) -> Iterator[Conduit]:
    """All conduits, in force or not, that were written for this principal and this service."""
    target = plant.principals.get(service.asset)
    keys = frozenset(target.keys) if target else frozenset()
    for conduit in plant.conduits_of(who):
        if conduit.protocol == service.protocol and conduit.to in keys:
            yield conduit


def reachable(plant: Plant, who: Principal, now: int) -> dict[str, Conduit]:
    """Every service that the principal may reach at `now`, with the conduit that carries.

    Kills and revocations are left aside: they come and go, and every node applies them by itself (A-05).
    """
    best: dict[str, Conduit] = {}
    for conduit in plant.conduits_of(who):
        if not conduit.in_force(now):
            continue
        for service in plant.offered.get((conduit.to, conduit.protocol), ()):
            held = best.get(service.name)
            if held is None or lasts_longer(conduit, held):
                best[service.name] = conduit
    return best


def carriers(plant: Plant, who: Principal, now: int) -> list[tuple[str, Conduit]]:
    """For every service that the principal may reach at `now`, the conduit that carries, and for each other kind of
    limits the one that ends last: circuits that run under those go on (design: a circuit moves between equal limits).
    """
    best: dict[tuple[str, int, int], Conduit] = {}
    for conduit in plant.conduits_of(who):
        if not conduit.in_force(now):
            continue
        for service in plant.offered.get((conduit.to, conduit.protocol), ()):
            key = (service.name, conduit.integrity, conduit.max_session)
            held = best.get(key)
            if held is None or lasts_longer(conduit, held):
                best[key] = conduit
    return [(service, conduit) for (service, _, _), conduit in best.items()]


def hosts_of(plant: Plant, service: Service) -> tuple[str, ...]:
    """The edges that may host a service, the first choice first.

    Revoked ones are left out, and those whose switch was pulled on site while another remains. Kills are not looked at:
    whoever opens a circuit takes killed hosts out by itself (A-05).
    """
    target = plant.principals.get(service.asset)
    edges = [plant.edge[name] for name in (target.edges if target else ()) if name in plant.edge]
    alive = [edge for edge in edges if edge.state is not NodeState.REVOKED][: limits.GRANT_HOSTS]
    willing = tuple(edge.name for edge in alive if edge.local_kill is None)
    return willing or tuple(edge.name for edge in alive)


def grants_for(plant: Plant, edge: str, now: int) -> list[GrantSpec]:
    """All grants that an edge holds at `now`: for itself and for each asset that it speaks for.

    A revoked edge gets none. Work is proportional to what matches, not to the size of the plant.
    """
    node = plant.edge.get(edge)
    if node is None or node.state is NodeState.REVOKED:
        return []
    specs = []
    for name in plant.behind.get(edge, ()):
        who = plant.principals[name]
        for service_name, conduit in carriers(plant, who, now):
            service = plant.service[service_name]
            hosts = hosts_of(plant, service)
            if hosts:
                specs.append(_spec(plant, conduit, who, edge, service, hosts))
    return specs


def _spec(
    plant: Plant,
    conduit: Conduit,
    who: Principal,
    via: str,
    service: Service,
    hosts: tuple[str, ...],
) -> GrantSpec:
    return GrantSpec(
        conduit=conduit.id,
        who=who.name,
        via=via,
        service=service.name,
        asset=service.asset,
        hosts=hosts,
        transport=service.transport,
        integrity=conduit.integrity,
        not_before=conduit.starts,
        end=min((end for end in (conduit.ends, conduit.ended) if end), default=0),
        max_session=conduit.max_session,
        hold=conduit.hold,
        who_zones=who.zones,
        asset_zones=plant.principals[service.asset].zones,
        who_address=_address(plant, who.name) if service.keep_source else "",
        ranks=_ranks(plant, service, hosts),
        weights=_weights(plant, service, hosts),
    )


def _ranks(plant: Plant, service: Service, hosts: tuple[str, ...]) -> tuple[int, ...]:
    """The priorities of these hosts, where they differ."""
    asset = plant.asset.get(service.asset)
    known = {} if asset is None else dict(zip(asset.edges, asset.priorities, strict=False))
    ranks = tuple(known.get(host, 0) for host in hosts)
    return ranks if len(set(ranks)) > 1 else ()


def _weights(plant: Plant, service: Service, hosts: tuple[str, ...]) -> tuple[int, ...]:
    """The weights of these hosts, where one has any."""
    asset = plant.asset.get(service.asset)
    known = {} if asset is None else dict(zip(asset.edges, asset.weights, strict=False))
    weights = tuple(known.get(host, 0) for host in hosts)
    return weights if len(hosts) > 1 and any(weights) else ()


def _address(plant: Plant, who: str) -> str:
    asset = plant.asset.get(who)
    return "" if asset is None or "/" in asset.address else asset.address


def why(plant: Plant, who: str, to: str, protocol: str, now: int) -> Decision:
    """Whether `who` may reach `protocol` at `to`, and every reason for and against, in words for people.

    `who` and `to` are an asset, an edge or a user. `allowed` is what policy says: a conduit in force, an edge on either
    side, and neither a kill, a revocation nor a switch on site against it. Whether the edges are connected is checked
    and said, too, and changes nothing in `allowed`.

    Raises:
        InputError: a zone or a tag was named, for which there is no single answer.
    """
    caller, checks = _principal(plant, who, "who")
    target, found = _principal(plant, to, "to")
    checks += found
    service = None
    if target is not None:
        service, check = _service(plant, target, protocol)
        checks.append(check)
    if caller is None or target is None or service is None:
        return Decision(allowed=False, conduit=None, checks=tuple(checks))
    conduits = list(matching(plant, caller, service))
    carrier = carrying(iter(conduits), now)
    checks += reasons.conduit_checks(plant, caller, service, conduits, carrier, now)
    hosts = hosts_of(plant, service)
    unhindered, obstacles = reasons.obstacle_checks(plant, caller, service, target, now)
    checks += obstacles
    checks += reasons.presence_checks(plant, caller, target, hosts)
    allowed = carrier is not None and unhindered
    return Decision(
        allowed=allowed,
        conduit=carrier.id if carrier is not None else None,
        checks=tuple(checks),
    )


def _principal(plant: Plant, name: str, check: str) -> tuple[Principal | None, list[Check]]:
    """Who is meant, and the check that says so."""
    found = plant.principals.get(name)
    if found is not None:
        return found, [Check(check, ok=True, text=reasons.describe(plant, found))]
    kind = plant.kind(name)
    if kind in {"zone", "tag"}:
        raise InputError(
            f"{name} is a {kind}, and each thing in it may have another answer: ask for one asset or edge"
        )
    if kind:
        text = f"{name} is {with_article(kind)}: only assets, edges and people reach something or are reached"
    else:
        near = hint(name, plant.principals)
        text = f"nothing in this plant is named {shown(name)}" + (f": {near}" if near else "")
    return None, [Check(check, ok=False, text=text)]


def _service(plant: Plant, target: Principal, protocol: str) -> tuple[Service | None, Check]:
    """The service that is meant, and the check that says so."""
    service = plant.service.get(f"{target.name}.{protocol}")
    if service is not None:
        return service, Check("service", ok=True, text=reasons.describe_service(plant, service))
    offered = sorted(one.protocol for one in plant.services if one.asset == target.name)
    try:
        known_protocol(protocol, (one.protocol for one in plant.services))
        text = reasons.no_service(target, protocol, offered)
    except InputError as error:
        text = str(error)
    return None, Check("service", ok=False, text=text)
