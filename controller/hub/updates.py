"""Which grants a node has to be told of, given those it was told of (docs/protocol/control.md, K-02, K-04). Pure."""

from collections.abc import Iterable, Iterator

import msgspec

from overlay import limits
from overlay.control.messages import GrantUpdate
from overlay.policy.grant import Grant
from overlay.wire.codec import Signed, decode

MESSAGE_BYTES = limits.CONTROL_MESSAGE // 2
"""Grants in one message, at most, in bytes."""
MESSAGE_GRANTS = 4096
REFRESH_AFTER = int(limits.REFRESH_BY * 1_000_000) // 2
"""A grant is refreshed when half of its refresh-by is over (µs)."""


class GrantLedger:
    """The grants that one node has been told of."""

    def __init__(self) -> None:
        self._told: dict[bytes, Grant] = {}
        self._begun = False

    def update(self, signed: Iterable[bytes], now: int) -> Iterator[GrantUpdate]:
        """Messages that bring the node from what it was told to exactly `signed`; none when there is nothing to say.

        The first time everything is sent (`full`). A grant that says the same as before is sent again only when half of
        its refresh-by is over. `now` in microseconds.
        """
        present = {grant.id: (grant, data) for grant, data in map(_read, signed)}
        full = not self._begun
        put = [data for grant, data in present.values() if full or self._is_news(grant, now)]
        drop = [one for one in self._told if one not in present]
        for grant, _ in present.values():
            if full or self._is_news(grant, now):
                self._told[grant.id] = grant
        for one in drop:
            del self._told[one]
        self._begun = True
        if full or put or drop:
            yield from _messages(put, drop, full=full)

    def refresh_due(self) -> int | None:
        """When the next grant has to be refreshed (µs); None without grants."""
        return min(
            (
                grant.refresh_by - REFRESH_AFTER
                for grant in self._told.values()
                if grant.end == 0 or grant.refresh_by < grant.end
            ),
            default=None,
        )

    def _is_news(self, grant: Grant, now: int) -> bool:
        old = self._told.get(grant.id)
        if old is None or _meaning(old) != _meaning(grant):
            return True
        return grant.refresh_by > old.refresh_by and now >= old.refresh_by - REFRESH_AFTER


def _read(signed: bytes) -> tuple[Grant, bytes]:
    return decode(Grant, decode(Signed, signed).body), signed


def _meaning(grant: Grant) -> Grant:
    """A grant without what every signature changes; its hold is part of what it means."""
    hold = grant.hold_until - grant.refresh_by
    return msgspec.structs.replace(grant, refresh_by=0, hold_until=max(hold, 0), epoch=0)


def _messages(put: list[bytes], drop: list[bytes], *, full: bool) -> Iterator[GrantUpdate]:
    parts: list[list[bytes]] = [[]]
    size = 0
    for data in put:
        if parts[-1] and (size + len(data) > MESSAGE_BYTES or len(parts[-1]) >= MESSAGE_GRANTS):
            parts.append([])
            size = 0
        parts[-1].append(data)
        size += len(data)
    drops = [drop[at : at + MESSAGE_GRANTS] for at in range(0, len(drop), MESSAGE_GRANTS)]
    # What goes comes last, so that circuits can move to what came before.
    parts = [[]] * (len(drops) - len(parts)) + parts
    drops = [[]] * (len(parts) - len(drops)) + drops
    for place, (some, gone) in enumerate(zip(parts, drops, strict=True), start=1):
        yield GrantUpdate(full, tuple(some), tuple(gone), more=full and place < len(parts))
