"""Merges repeated denials into one event with a `count`: nobody fills an audit log by knocking (U-06). Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from overlay.audit.event import EventName, Outcome

BURST = 20
"""Events of one kind that pass one by one before they are merged."""
PER_SECOND = 0.1
"""Events of one kind that pass each second after that."""
WINDOW = 1.0
"""Seconds for which others are merged before the first merged event goes out."""
LONGEST_WINDOW = 60.0
"""Each window is twice as long as the one before, up to this, while the knocking goes on: a machine that is revoked, or
a panel before a device that is off, makes about one record a minute. Spools have to last with the controller dead."""
KINDS = 1024
"""Kinds that are told apart; of more, only event, outcome and service are kept."""
MERGED = "various"
_MERGEABLE = frozenset(
    {EventName.CIRCUIT_OPEN, EventName.SECURITY_REFUSED, EventName.SECURITY_TAMPER}
)
_KEY_FIELDS = ("who", "via", "asset", "service", "address", "conduit", "reason")

Fields = Mapping[str, str | int]


class Merged(NamedTuple):
    """An event to record now; `fields` has `count`."""

    event: EventName
    outcome: Outcome
    fields: dict[str, str | int]


@dataclass
class _Kind:
    event: EventName
    outcome: Outcome
    fields: dict[str, str | int]
    tokens: float
    at: float
    count: int = 0
    since: float = 0.0
    window: float = WINDOW


class Merger:
    """One per node. `now` is a monotonic time in seconds."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, ...], _Kind] = {}

    def offer(
        self, event: EventName, outcome: Outcome, fields: Fields, now: float
    ) -> Merged | None:
        """The event itself when it may pass, None when it was merged and comes out of `due` later."""
        if event not in _MERGEABLE or outcome is Outcome.ALLOWED:
            return Merged(event, outcome, {"count": 1, **fields})
        kind = self._kind(event, outcome, fields, now)
        kind.tokens = min(BURST, kind.tokens + (now - kind.at) * PER_SECOND)
        kind.at = now
        passes = kind.count == 0 and kind.tokens >= 1
        kind.tokens = max(0.0, kind.tokens - 1)
        if passes:
            kind.window = WINDOW
            return Merged(event, outcome, {"count": 1, **fields})
        if kind.count == 0:
            kind.since = now
        kind.count += int(fields.get("count", 1))
        return None

    def due(self, now: float, *, all_of_them: bool = False) -> list[Merged]:
        """Merged events whose window is over, or all. Kinds that were quiet for long are forgotten."""
        ready: list[Merged] = []
        for key, kind in list(self._kinds.items()):
            if kind.count and (all_of_them or now - kind.since >= kind.window):
                ready.append(Merged(kind.event, kind.outcome, {**kind.fields, "count": kind.count}))
                kind.count = 0
                kind.window = min(2 * kind.window, LONGEST_WINDOW)
            elif not kind.count and (now - kind.at) * PER_SECOND >= BURST:
                del self._kinds[key]
        return ready

    @property
    def waiting(self) -> bool:
        """Something has been merged and waits for its window to end."""
        return any(kind.count for kind in self._kinds.values())

    def _kind(self, event: EventName, outcome: Outcome, fields: Fields, now: float) -> _Kind:
        key = (event.value, outcome.value, *(str(fields.get(name, "")) for name in _KEY_FIELDS))
        kind = self._kinds.get(key)
        if kind is not None:
            return kind
        if len(self._kinds) >= KINDS:
            service = str(fields.get("service", ""))
            fields = {"service": service, "reason": MERGED}
            key = (event.value, outcome.value, service, MERGED)
            kind = self._kinds.get(key)
            if kind is None and len(self._kinds) >= 2 * KINDS:
                fields = {"reason": MERGED}
                key = (event.value, outcome.value, MERGED)
                kind = self._kinds.get(key)
            if kind is not None:
                return kind
        kept = {name: fields[name] for name in _KEY_FIELDS if name in fields}
        kind = self._kinds[key] = _Kind(event, outcome, kept, float(BURST), now)
        return kind
