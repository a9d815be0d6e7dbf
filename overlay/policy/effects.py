"""What a change of conduits would do, before it is made: the dry run of `ferrule allow` and `ferrule deny`."""

from collections.abc import Iterable, Iterator

import msgspec

from overlay.policy.evaluate import matching, reachable
from overlay.policy.model import Conduit, Plant, Principal
from overlay.policy.names import TAG_PREFIX

MAX_LISTED = 10_000


class Pair(msgspec.Struct, frozen=True):
    """Somebody and a service."""

    who: str
    service: str


class LiveSession(msgspec.Struct, frozen=True):
    """A circuit that is open: its id, who uses which service, and the conduit that carries it."""

    id: str
    who: str
    service: str
    conduit: str


class Effects(msgspec.Struct, frozen=True):
    """What would be allowed and is not now, what the other way round, and which sessions would be cut.

    Each list is sorted and holds at most `MAX_LISTED`; `more` counts the entries that were left out.
    """

    opens: tuple[Pair, ...]
    closes: tuple[Pair, ...]
    cuts: tuple[LiveSession, ...]
    more: int = 0


def effects(
    before: Plant, conduits: Iterable[Conduit], now: int, sessions: Iterable[LiveSession] = ()
) -> Effects:
    """What happens when `conduits` replace those of the plant at `now`.

    Only conduits that differ are looked at. Kills and revocations are left aside, as in `reachable`.
    """
    after = before.with_conduits(conduits)
    changed = set(before.conduits) ^ set(after.conduits)
    affected = {who.name: who for conduit in changed for who in members(before, conduit.who)}
    opens: list[Pair] = []
    closes: list[Pair] = []
    for name, who in sorted(affected.items()):
        old, new = reachable(before, who, now), reachable(after, who, now)
        opens += [Pair(name, service) for service in sorted(new.keys() - old.keys())]
        closes += [Pair(name, service) for service in sorted(old.keys() - new.keys())]
    old_ones = {conduit.id: conduit for conduit in before.conduits if conduit in changed}
    cuts = [
        one
        for one in sessions
        if one.conduit in old_ones and _is_cut(after, one, old_ones[one.conduit], now)
    ]
    lists = (opens, closes, cuts)
    more = sum(max(0, len(entries) - MAX_LISTED) for entries in lists)
    return Effects(
        tuple(opens[:MAX_LISTED]), tuple(closes[:MAX_LISTED]), tuple(cuts[:MAX_LISTED]), more
    )


def members(plant: Plant, name: str) -> Iterator[Principal]:
    """All principals that a WHO or TO means."""
    if name in plant.principals:
        yield plant.principals[name]
    elif name.startswith(TAG_PREFIX) or name in plant.zone:
        yield from (who for who in plant.principals.values() if name in who.keys)


def _is_cut(after: Plant, session: LiveSession, old: Conduit, now: int) -> bool:
    """Whether no conduit carries the session on: its own (`old`) is not in force, and no other has equal limits."""
    who, service = after.principals.get(session.who), after.service.get(session.service)
    if who is None or service is None:
        return False  # what it hangs on was removed: not by this change
    return not any(
        one.in_force(now) and (one.id == old.id or one.same_limits(old))
        for one in matching(after, who, service)
    )


def also_allowing(plant: Plant, conduit: Conduit, now: int) -> list[Conduit]:
    """Other conduits in force that allow a pair which this one was written for: what a `deny` of it leaves open."""
    who = {one.name for one in members(plant, conduit.who)}
    to = {one.name for one in plant.offered.get((conduit.to, conduit.protocol), ())}
    return [
        other
        for other in plant.conduits
        if other.id != conduit.id
        and other.protocol == conduit.protocol
        and other.in_force(now)
        and _overlap(plant, other, conduit, who, to)
    ]


def _overlap(plant: Plant, other: Conduit, one: Conduit, who: set[str], to: set[str]) -> bool:
    if (other.who, other.to) == (one.who, one.to):
        return True
    return any(
        service.name in to for service in plant.offered.get((other.to, other.protocol), ())
    ) and any(principal.name in who for principal in members(plant, other.who))
