"""Which grants a node has to be told of, given those it was told of (docs/protocol/control.md, K-02, K-04). Pure."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from overlay import limits
from overlay.control.messages import GrantUpdate
from overlay.policy.grant import Grant

MESSAGE_BYTES = limits.CONTROL_MESSAGE // 2
"""Grants in one message, at most, in bytes."""
MESSAGE_GRANTS = 4096
REFRESH_AFTER = int(limits.REFRESH_BY * 1_000_000) // 2
"""A grant is refreshed when half of its refresh-by is over (µs)."""


class News(NamedTuple):
    """What a node has to be told: grants that it lacks or has otherwise, and ids of those that it has and are gone."""

    full: bool
    put: tuple[Grant, ...]
    drop: tuple[bytes, ...]


class GrantLedger:
    """The grants that one node has been told of."""

    def __init__(self) -> None:
        self._told: dict[bytes, Grant] = {}
        self._begun = False

    def compare(self, grants: Iterable[Grant], now: int) -> News:
        """What is missing until the node has exactly `grants`: only that has to be signed.

        The first time that is everything (`full`). A grant that says the same as before is news only when half of
        its refresh-by is over. `now` in microseconds.
        """
        present = {grant.id: grant for grant in grants}
        full = not self._begun
        put = tuple(grant for grant in present.values() if full or self._is_news(grant, now))
        return News(full, put, tuple(one for one in self._told if one not in present))

    def tell(self, news: News, signed: Iterable[bytes]) -> Iterator[GrantUpdate]:
        """The messages that say it, none when there is nothing to say; they count as told. `signed`: `news.put`."""
        self._begun = True
        for grant in news.put:
            self._told[grant.id] = grant
        for one in news.drop:
            del self._told[one]
        if news.full or news.put or news.drop:
            yield from _messages(list(signed), list(news.drop), full=news.full)

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
