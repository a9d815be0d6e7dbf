"""Circuits that a fault sent by a router further away go back to a nearer one (docs/protocol/circuit.md, C-67)."""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from overlay.aio.node_circuits import NodeCircuits
from overlay.circuit.link_choice import steps_away
from overlay.link.load import COSTS

if TYPE_CHECKING:
    from overlay.aio.calling import Outgoing
    from overlay.aio.link_driver import LinkDriver

STEADY_SECONDS = 60.0
"""So long a link has been sound without a break, and a circuit has lived: who comes and goes draws nobody."""
PAUSE_SECONDS = 2.0
"""Between two circuits of a node that go back, on average."""
CLEARLY = 2
"""Steps of C-66 by which the other link has to be nearer: four times as near, or 10 ms where it is near itself."""


class Returning:
    """Of one node. Nothing wakes it but a link that became sound, `STEADY_SECONDS` or more before.

    Args:
        outgoing: the circuits that the node calls.
    """

    def __init__(self, node: NodeCircuits, outgoing: Callable[[], Iterable["Outgoing"]]) -> None:
        self._node = node
        self._outgoing = outgoing
        self._loop = asyncio.get_running_loop()
        self._since: WeakKeyDictionary[LinkDriver, float] = WeakKeyDictionary()
        self._timer: asyncio.TimerHandle | None = None

    def sound(self, link: "LinkDriver") -> None:
        """It came up, or is sound again."""
        self._since[link] = self._loop.time()
        self._look_within(STEADY_SECONDS)

    def close(self) -> None:
        """The node stops."""
        if self._timer is not None:
            self._timer.cancel()

    def _look_within(self, seconds: float) -> None:
        """Or later: edges that have lost the same router do not come back in step."""
        if self._timer is None:
            self._timer = self._loop.call_later(seconds * (1 + self._node.uniform()), self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        ages = {link: now - self._since.get(link, now) for link in self._node.links() if link.sound}
        steady = [link for link, age in ages.items() if age >= STEADY_SECONDS]
        if any(self._goes_back(one, steady, now) for one in self._outgoing()):
            self._look_within(PAUSE_SECONDS / 2)
        elif len(steady) < len(ages):
            self._look_within(STEADY_SECONDS)

    def _goes_back(self, one: "Outgoing", steady: list["LinkDriver"], now: float) -> bool:
        stream, core = one.stream, one.stream.core
        here = stream.link
        if not (one.wish.grant and stream.is_open and stream.at_home_now) or here is None:
            return False
        if core is None or core.suspended or now - stream.opened_at < STEADY_SECONDS:
            return False
        to = min((link for link in steady if link is not here), key=_away, default=None)
        # Where a link has led it back from it, it stays: its router may have no way to this host.
        if to is None or to is one.went_back_to or _away_without_load(here) - _away(to) < CLEARLY:
            return False
        one.go_back(here, to)
        return True


def _away(link: "LinkDriver") -> int:
    return steps_away(link.round_trip, 0, COSTS[link.load] / 1e6)


def _away_without_load(link: "LinkDriver") -> int:
    """Without its router's load, which nobody flees."""
    return steps_away(link.round_trip, 0)
