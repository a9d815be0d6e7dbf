"""The bulk lanes of a node as its home loop sees them: which links there are, which circuits go there (L-08, C-65)."""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from overlay.aio.bulk_circuits import BulkCircuits, Resume
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.node_circuits import NodeCircuits
from overlay.aio.seconds import nearest
from overlay.aio.world import EventLoop, World
from overlay.circuit.lane_choice import BULK_BYTES, BULK_SECONDS, LANE_PAUSE, LaneChoice, lane_of
from overlay.errors import Code, FerruleError

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver

T = TypeVar("T")

TICK = 0.1
"""Seconds between two looks at what circuits move."""
QUIET_TICK = 1.0
"""The same where links move less than `_QUIET_BYTES` between two looks, no circuit is on a bulk lane, and none says
anything."""
_QUIET_BYTES = BULK_BYTES // 16


class Mover(Protocol):
    """A circuit of a caller (`overlay.aio.calling.Outgoing`), as far as lanes must know it."""

    stream: CircuitStream
    choice: LaneChoice | None
    """None: it was not looked at yet."""
    pause_until: float
    """It was refused in a bulk lane, and stays on express until then."""

    def to_lane(self, link: "LinkDriver") -> None:
        """Go on over this link of a bulk lane."""
        ...

    def to_express(self) -> None:
        """Come back from there."""
        ...


class Lanes:
    """Lives on the home loop; the bulk loop begins with the first link.

    Args:
        node: whose lanes they are.
        evacuate: moves circuits from a link that is not sound.
        outgoing: its circuits as a caller.
        resume: judges a RESUME that came on a bulk lane.
    """

    def __init__(
        self,
        world: World,
        node: NodeCircuits,
        evacuate: "Callable[[LinkDriver], None]",
        outgoing: Callable[[], Iterable[Mover]],
        resume: Resume,
    ) -> None:
        self._node = node
        self._evacuate = evacuate
        self._outgoing = outgoing
        self._loop = asyncio.get_running_loop()
        self._world = world
        self._resume = resume
        self._bulk_loop: EventLoop | None = None
        self._bulk: BulkCircuits | None = None
        self._links: dict[tuple[str, int], LinkDriver] = {}
        self._paused: dict[tuple[str, int], float] = {}
        self._away: set[Mover] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._mark = self._total = 0
        self._quiet = False
        self._since = 0.0

    @property
    def bulk(self) -> BulkCircuits:
        """Owner of the links of bulk lanes, on the bulk loop; both begin when they are asked for."""
        if self._bulk is None:
            self._bulk_loop = self._world.loops.start("bulk")
            memory = self._node.memory.for_another_loop()
            self._bulk = BulkCircuits(
                self._bulk_loop, memory, self._node, self._resume, self._changed, self._evacuate
            )
        return self._bulk

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it on the bulk loop, and wait."""
        if self._bulk_loop is None:
            coroutine.close()
            raise RuntimeError("who runs something there has asked for `bulk` before")
        return await self._bulk_loop.run(coroutine)

    @property
    def links(self) -> "list[LinkDriver]":
        """Those that are up. Ask them nothing that changes anything: they belong to the bulk loop."""
        return list(self._links.values())

    def goodbye(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """As `LinkDriver.goodbye`."""
        self.bulk.post(link.goodbye, code, reason)

    def doubt(self, link: "LinkDriver", lost: bool) -> None:  # noqa: FBT001 - as it is posted
        """As `LinkDriver.doubt`."""
        self.bulk.post(link.doubt, lost)

    def avoid(self, routers: Collection[str]) -> None:
        """As `LinkDriver.avoid`, for the links to these routers and no others."""
        for link in self.links:
            self.bulk.post(link.avoid, link.name in routers)

    async def settled(self) -> None:
        """Until all that was asked of the bulk loop so far is done there."""
        if self._bulk is not None:
            await self.run(self._bulk.idle())

    async def close(self) -> None:
        """End links and loop, once what was asked of them is done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._bulk is not None and self._bulk_loop is not None:
            await self.run(self._bulk.end())
            await self._bulk_loop.close()

    # --- links --------------------------------------------------------------------------------------

    def _changed(self, link: "LinkDriver", up: bool) -> None:  # noqa: FBT001 - told by one callback
        name = (link.name, link.lane)
        if not up:
            if self._links.get(name) is link:
                del self._links[name]
                self._paused[name] = self._loop.time() + LANE_PAUSE
            return
        try:
            if link.peer is not None:
                self._node.admit(link.peer)
        except FerruleError as error:
            self.goodbye(link, Code.REVOKED, str(error))
            return
        old = self._links.get(name)
        self._links[name] = link
        if old is not None:
            self.goodbye(old, Code.NORMAL, "a newer link of this lane")
        if self._timer is None:
            self._timer = self._loop.call_later(TICK, self._tick)

    def knows(self, link: "LinkDriver") -> bool:
        """It is one of these links, and counts."""
        return self._links.get((link.name, link.lane)) is link

    # --- circuits -----------------------------------------------------------------------------------

    def came_back(self, mover: Mover, link: "LinkDriver | None", code: Code) -> None:
        """It is on express again: on purpose (None), or because this link's lane refused it or was lost."""
        now = self._loop.time()
        self._away.discard(mover)
        if mover.choice is not None:
            mover.choice.start(now, _moved(mover), bulk=False)
        if link is not None:
            mover.pause_until = now + LANE_PAUSE
            if code is not Code.NO_ROUTE:
                self._paused[link.name, link.lane] = now + LANE_PAUSE

    def over(self, mover: Mover) -> None:
        """The circuit has ended."""
        self._away.discard(mover)

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        for mover in list(self._away):
            choice = mover.choice
            if choice is not None and choice.moves(now, _moved(mover)) and self._node.links():
                mover.to_express()
        total = sum(link.bytes_in + link.bytes_out for link in self._node.links())
        if self._links and self._busy(now, total):
            for mover in list(self._outgoing()):
                self._consider(mover, now)
        quiet = not self._away and abs(total - self._total) < _QUIET_BYTES
        self._total = total
        self._quiet = quiet
        if quiet:
            for link in self._node.links():
                link.stirs(self._stir)
        if self._links or self._away:
            at = nearest(now + QUIET_TICK) if quiet else now + TICK
            self._timer = self._loop.call_at(at, self._tick)

    def _stir(self) -> None:
        """A circuit says something on an express link."""
        if self._quiet and self._timer is not None:
            self._quiet = False
            self._timer.cancel()
            self._timer = self._loop.call_later(TICK, self._tick)

    def _busy(self, now: float, total: int) -> bool:
        """Express links carried so much that one circuit may be bulk: only then all circuits are looked at."""
        # A link that has gone takes its bytes along: the sum may fall.
        busy = abs(total - self._mark) > BULK_BYTES
        if now - self._since > BULK_SECONDS:
            self._mark, self._since = total, now
        return busy

    def _consider(self, mover: Mover, now: float) -> None:
        stream = mover.stream
        if stream.companion is None or not stream.is_open or mover in self._away:
            return
        choice = mover.choice
        if choice is None:
            choice = mover.choice = LaneChoice(stream.opened_at, 0)
        if not choice.moves(now, _moved(mover)) or mover.pause_until > now:
            return
        link = self._lane_for(stream, now)
        if link is not None:
            choice.start(now, _moved(mover), bulk=True)
            self._away.add(mover)
            mover.to_lane(link)

    def _lane_for(self, stream: CircuitStream, now: float) -> "LinkDriver | None":
        core, express = stream.core, stream.link
        if core is None or core.suspended or core.over is not None or express is None:
            return None
        lanes = express.hello.bulk_lanes
        if not lanes:
            return None
        name = (express.name, lane_of(stream.circuit_id, lanes))
        link = self._links.get(name)
        if link is None or not link.sound or self._paused.get(name, 0.0) > now:
            return None
        self._paused.pop(name, None)
        return link


def _moved(mover: Mover) -> int:
    return mover.stream.bytes_in + mover.stream.bytes_out
