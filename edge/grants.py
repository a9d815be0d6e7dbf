"""Grants in hand: which one opens a circuit, and which one a running circuit may move to (G-03, G-05). Pure."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from overlay.errors import Code
from overlay.policy.grant import NO_END, Grant
from overlay.policy.grant_check import Objection, check_refresh

K = TypeVar("K")

Judge = Callable[[Grant], Objection | None]
"""Why a grant may not be used now, or None."""
Use = tuple[str, str, int]
"""What a grant is for: who, service, transport."""


class Held(NamedTuple):
    """A verified grant and the signed bytes that others get."""

    grant: Grant
    signed: bytes


def lasting(grant: Grant) -> tuple[float, int, int]:
    """Sorts by how long a grant carries: the conduit's end, then hold, then refresh (all microseconds)."""
    end = float("inf") if grant.end == NO_END else float(grant.end)
    return end, grant.hold_until, grant.refresh_by


class GrantBook:
    """All grants of this edge, found by who and service."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, Held] = {}
        self._by_use: dict[Use, dict[bytes, Held]] = {}
        self._by_asset: dict[tuple[str, str], dict[bytes, Held]] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def put(self, grants: Iterable[tuple[Grant, bytes]]) -> None:
        """Add or replace, by id."""
        for grant, signed in grants:
            self.drop((grant,))
            held = Held(grant, signed)
            self._by_id[grant.id] = held
            self._by_use.setdefault(_use(grant), {})[grant.id] = held
            self._by_asset.setdefault((grant.who, grant.asset), {})[grant.id] = held

    def drop(self, grants: Iterable[Grant]) -> None:
        """Forget; unknown ones are no error."""
        for grant in grants:
            old = self._by_id.pop(grant.id, None)
            if old is None:
                continue
            _remove(self._by_use, _use(old.grant), grant.id)
            _remove(self._by_asset, (old.grant.who, old.grant.asset), grant.id)

    def by_use(self) -> Iterator[tuple[Use, list[Grant]]]:
        """All grants, whether or not they hold now, by what they are for."""
        for use, group in self._by_use.items():
            yield use, [held.grant for held in group.values()]

    def holds(self, held: Held) -> bool:
        """It is here as it was picked: neither taken back nor refreshed."""
        return self._by_id.get(held.grant.id) is held

    def objection(self, grant: Grant, host: str | None) -> Objection | None:
        """Why a circuit of this grant, hosted by `host` as far as that is known, may not go on (G-05): the controller
        took the grant back, or does not permit this host any more.
        """
        held = self._by_id.get(grant.id)
        if held is None:
            return (
                Code.WITHDRAWN,
                f"no conduit allows {grant.who} to reach {grant.service} any more",
            )
        if host is not None and host not in held.grant.hosts:
            return Code.WITHDRAWN, f"{host} does not host {grant.service} any more"
        return None

    def pick(self, who: str, service: str, transport: int, judge: Judge) -> Held | Objection:
        """The grant that lasts longest among those that hold now; else why there is none."""
        group = self._by_use.get((who, service, transport), {})
        return _best(group, judge) or (
            Code.NO_GRANT, f"no conduit allows {who} to reach {service}"
        )  # fmt: skip

    def pick_any(self, who: str, asset: str, judge: Judge) -> Held | Objection:
        """The same among the grants for any service of an asset (C-80)."""
        group = self._by_asset.get((who, asset), {})
        return _best(group, judge) or (
            Code.NO_GRANT, f"no conduit allows {who} to reach anything of {asset}"
        )  # fmt: skip

    def successor(self, grant: Grant, host: str | None, judge: Judge) -> Held | None:
        """The equal grant (G-03, with the same longest session) that lasts longest, holds now and permits `host`, if it
        is not this very one. Among equals the refreshed one of the same conduit.
        """
        group = self._by_use.get(_use(grant), {})
        equal = [
            held
            for held in group.values()
            if held.grant.caller_key == grant.caller_key
            and held.grant.max_session == grant.max_session
            and (host is None or host in held.grant.hosts)
            and check_refresh(grant, held.grant) is None
            and judge(held.grant) is None
        ]
        best = max(
            equal, key=lambda held: (lasting(held.grant), held.grant.id == grant.id), default=None
        )
        return None if best is None or best.grant == grant else best


def _best(group: dict[bytes, Held], judge: Judge) -> Held | Objection | None:
    if len(group) == 1:  # most often, and a connection waits for it
        (only,) = group.values()
        return judge(only.grant) or only
    objection: Objection | None = None
    for held in sorted(group.values(), key=lambda held: lasting(held.grant), reverse=True):
        against = judge(held.grant)
        if against is None:
            return held
        objection = objection or against
    return objection


def _remove(groups: dict[K, dict[bytes, Held]], key: K, grant_id: bytes) -> None:
    group = groups[key]
    del group[grant_id]
    if not group:
        del groups[key]


def _use(grant: Grant) -> Use:
    return grant.who, grant.service, grant.transport
