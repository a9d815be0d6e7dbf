"""Asks hosted assets whether they answer, by connecting to their services as often as each service says (K-11)."""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from edge.host.base import Place, place_of
from edge.host.health import Change, Health, State
from overlay.aio.lifecycle import describe
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.control.messages import HostedEntry
from overlay.wire.bodies import STREAM
from overlay.wire.timestamps import format_time

AT_ONCE = 1024
"""Checks that go on at once, each with a descriptor; others wait. With `ANSWER` it is what holds the schedule: twice as
many assets may be silent for each second of their interval."""
ANSWER = 2.0
"""Seconds in which an asset must answer: its SYN, and one that was sent again after a second, may each take half."""
DOUBT = 1.0
"""Seconds between two checks at most, as long as the last ones contradict what the asset counts as."""
SETTLE = 0.1
"""Seconds in which changes are told together: a switch that fails takes many assets along."""

_log = get_logger("health")


class _Watched:
    """One service that is checked."""

    def __init__(self, entry: HostedEntry, place: Place) -> None:
        self.entry = entry
        self.place = place
        self.health = Health()


class Checks:
    """All checks of one edge.

    Args:
        now: plant time in microseconds.
        changed: told each change at once.
        tell: told all assets that are down, soon after they have changed.
    """

    def __init__(
        self,
        world: World,
        now: Callable[[], int],
        changed: Callable[[Change], None],
        tell: Callable[[tuple[str, ...]], None],
    ) -> None:
        self.down: frozenset[str] = frozenset()
        """Assets of which a checked service does not answer."""
        self._world = world
        self._now = now
        self._changed = changed
        self._tell = tell
        self._told: frozenset[str] = frozenset()
        self._telling: asyncio.TimerHandle | None = None
        self._watched: dict[str, _Watched] = {}
        self._due: list[tuple[float, int, _Watched]] = []
        self._order = itertools.count()
        self._news = asyncio.Event()
        self._going = asyncio.Semaphore(AT_ONCE)
        self._running: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def assign(self, entries: Iterable[HostedEntry]) -> None:
        """What is hosted from now on. What stays as it was keeps what is known of it."""
        old, self._watched = self._watched, {}
        added: list[_Watched] = []
        for entry in entries:
            place = place_of(entry, 0)
            if not entry.health or entry.transport != STREAM or not isinstance(place, Place):
                continue
            watched = old.get(entry.service)
            if watched is None or (watched.place, watched.entry.health) != (place, entry.health):
                watched = _Watched(entry, place)
                added.append(watched)
            self._watched[entry.service] = watched
        self._due = [due for due in self._due if self._is_wanted(due[2])]
        now = asyncio.get_running_loop().time()
        for turn, watched in enumerate(added):
            # Spread over the interval, so that an edge with many assets asks them one by one.
            wait = watched.entry.health * turn / len(added)
            self._due.append((now + wait, next(self._order), watched))
        heapq.heapify(self._due)
        self._judge()
        self._news.set()
        if self._task is None and self._watched:
            self._task = spawn(self._keep(), "health checks")

    def status(self) -> list[dict[str, Any]]:
        """For `ferrule-edge status`."""
        return [
            {
                "service": one.entry.service,
                "address": str(one.place),
                "state": one.health.state.value,
                "since": format_time(one.health.since) if one.health.since else None,
                "reason": one.health.reason,
                "checks": one.health.checks,
                "failures": one.health.failures,
            }
            for one in self._watched.values()
        ]

    async def close(self) -> None:
        """Ask nobody any more."""
        if self._telling is not None:
            self._telling.cancel()
        await cancel(self._task, *self._running)

    # --- inside -------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._news.clear()
            while self._due and self._due[0][0] <= loop.time():
                *_, watched = heapq.heappop(self._due)
                if self._is_wanted(watched):
                    await self._going.acquire()
                    task = spawn(self._check(watched), f"health of {watched.entry.service}")
                    self._running.add(task)
                    task.add_done_callback(self._over)
            wait = max(0.0, self._due[0][0] - loop.time()) if self._due else None
            try:
                async with asyncio.timeout(wait):
                    await self._news.wait()
            except TimeoutError:
                continue

    def _over(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._going.release()

    def _is_wanted(self, watched: _Watched) -> bool:
        return self._watched.get(watched.entry.service) is watched

    def _judge(self) -> None:
        states = self._watched.values()
        self.down = frozenset(one.entry.asset for one in states if one.health.state is State.DOWN)
        if self._telling is None and self.down != self._told:
            self._telling = asyncio.get_running_loop().call_later(SETTLE, self._tell_now)

    def _tell_now(self) -> None:
        self._telling = None
        self._told = self.down
        self._tell(tuple(sorted(self._told)))

    async def _check(self, watched: _Watched) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        failure = await self._ask(watched)
        if not self._is_wanted(watched):
            return
        health, entry = watched.health, watched.entry
        news = health.seen(failure, self._now())
        wait = min(DOUBT, entry.health) if health.in_doubt else entry.health
        heapq.heappush(self._due, (max(begun + wait, loop.time()), next(self._order), watched))
        self._news.set()
        if not news:
            return
        self._judge()
        up = health.state is State.UP
        log = _log.info if up else _log.warning
        log(
            "asset.up" if up else "asset.down",
            service=entry.service,
            at=str(watched.place),
            reason=failure,
        )
        self._changed(Change(entry.asset, entry.service, str(watched.place), up, failure))

    async def _ask(self, watched: _Watched) -> str:
        """Connect and close again; how that failed, empty when it did not."""
        seconds = min(ANSWER, float(watched.entry.health))
        try:
            async with asyncio.timeout(seconds):
                connection = await self._world.net.connect(*watched.place)
        except TimeoutError:
            return f"it does not answer within {seconds:.0f} s"
        except OSError as error:
            return describe(error)
        connection.close()
        return ""
