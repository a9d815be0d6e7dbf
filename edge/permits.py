"""What somebody may use now, for rules that judge the first packet of a connection before the edge sees it (ADR 8)."""

import asyncio
from collections.abc import Callable

from edge.enforcement import LONGEST_SLEEP
from edge.grants import GrantBook, Judge, Use
from edge.rules import Rules


class Permits:
    """Looks at all grants when something has changed, and when time changes it; not at each question.

    Args:
        book: grants in hand.
        rules: what is allowed now.
        judge: what stands against a grant now, of this edge's callers.
        changed: told that `uses` may be others.
    """

    def __init__(
        self,
        book: GrantBook,
        rules: Rules,
        judge: Callable[[], Judge],
        changed: Callable[[], None],
    ) -> None:
        self._book = book
        self._rules = rules
        self._judge = judge
        self._changed = changed
        self._uses: frozenset[Use] = frozenset()
        self._known = False
        self._until = float("inf")
        self._binds = False
        self._timer: asyncio.TimerHandle | None = None

    def uses(self) -> frozenset[Use]:
        """Who, service and transport for which a grant holds now."""
        if not self._known or self._over():
            self._look()
        return self._uses

    def review(self) -> None:
        """Grants, authority or switch are others."""
        self._known = False
        self._changed()

    def tick(self) -> None:
        """Call it every second: plant time may be corrected, and timers stand still while the machine sleeps."""
        if self._known and self._over():
            self.review()

    def close(self) -> None:
        """No more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _over(self) -> bool:
        rules = self._rules
        return rules.now() >= self._until or rules.refresh_binds() != self._binds

    def _look(self) -> None:
        self.close()
        rules = self._rules
        self._binds, judge = rules.refresh_binds(), self._judge()
        found, self._until = set(), rules.next_change()
        for use, grants in self._book.by_use():
            if any(judge(grant) is None for grant in grants):
                found.add(use)
            self._until = min(self._until, *map(rules.turns, grants))
        self._uses, self._known = frozenset(found), True
        if self._until < float("inf"):
            delay = max(0.0, (self._until - rules.now()) / 1e6)
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(delay, LONGEST_SLEEP), self._ring)

    def _ring(self) -> None:
        self._timer = None
        self.review()
