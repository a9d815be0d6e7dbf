"""The first process's side of workers: starts them, hands them connections, keeps them told, and starts them again."""

import asyncio
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterable

from overlay import limits
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import Connection, World
from overlay.audit.event import EventName, Outcome
from overlay.wire.bodies import Attachment
from router import messages
from router.briefing import Briefing, Told
from router.pair import Pair
from router.processes import Process, Starter
from router.switch import LEAVE_SECONDS, Node

CONFIRM_SECONDS = 3.0
"""A worker that has not applied an authority for so long is ended: what it carries may be void."""
SILENT_SECONDS = 10.0
"""The same for one that says nothing at all."""
STEADY_SECONDS = 10.0
"""A worker that lived so long was a good one: the next starts after the shortest pause."""
_LEAVE_SECONDS = LEAVE_SECONDS + 0.5

Over = Callable[[bool], None]
"""Told whether a connection's handshake came to an authenticated end."""

_log = get_logger("workers")


class Worker:
    """One lane, over all processes that carry it one after the other."""

    def __init__(self, lane: int) -> None:
        self.lane = lane
        self.process: Process | None = None
        self.pair: Pair | None = None
        self.told = Told()
        self.facts = messages.Facts()
        self.starts = 0
        self.applied = 0
        self.before: Counter[str] = Counter()
        """What processes that are gone had counted."""
        self.tickets: dict[int, Over] = {}
        self.links: Counter[tuple[str, str]] = Counter()
        """Links by name and address, as its events say: a worker that dies cannot say that they are gone."""
        self.ready = False
        """It has spoken: it reads what it is told."""
        self.heard = 0.0
        self.behind: float | None = None
        """Since when it has not applied what is in force."""

    def totals(self) -> Counter[str]:
        """All that this lane has counted so far."""
        own = Counter({"frames": self.facts.frames, "bytes": self.facts.bytes, **self.facts.counts})
        return self.before + own

    def tell(self, message: messages.ToWorker) -> None:
        """Say it, if it is news."""
        if self.pair is not None and self.told.is_news(message):
            self.pair.send(message)

    def over(self) -> None:
        """Its process is gone, and all that was in it."""
        self.before, self.facts = self.totals(), messages.Facts()
        self.pair = self.process = None
        self.told = Told()
        self.ready, self.applied, self.behind = False, 0, None
        tickets, self.tickets = self.tickets, {}
        for told in tickets.values():
            told(False)  # noqa: FBT003


class Workers:
    """All of them. `start` begins, `tick` keeps them told, `give` is what the listener calls."""

    def __init__(
        self, world: World, node: Node, count: int, starter: Starter, briefing: Briefing
    ) -> None:
        self._world = world
        self._node = node
        self._starter = starter
        self._briefing = briefing
        self._lanes = {lane: Worker(lane) for lane in range(1, count + 1)}
        self._tasks: list[asyncio.Task[None]] = []
        self._ticket = 0
        self._stopping = False
        self.on_applied: Callable[[], None] = lambda: None
        """Called when a worker has applied an authority."""

    @property
    def started(self) -> bool:
        """`start` was called."""
        return bool(self._tasks)

    def start(self) -> None:
        """Begin; this router is enrolled."""
        self._tasks = [
            spawn(self._keep(worker), f"worker {worker.lane}") for worker in self._lanes.values()
        ]

    # --- from the router ------------------------------------------------------------------------------

    def give(
        self, lane: int, connection: Connection, received: bytes, left: float, over: Over
    ) -> bool:
        """Hand a connection to its lane's worker, with the bytes read already; False: there is none now."""
        worker = self._lanes.get(lane)
        if worker is None or worker.pair is None or connection.fileno() < 0:
            return False
        carried = socket.socket(fileno=os.dup(connection.fileno()))
        connection.close()
        self._ticket += 1
        worker.tickets[self._ticket] = over
        worker.pair.send(messages.Accepted(self._ticket, received, left), carried)
        return True

    def brief(self) -> None:
        """What is void, or a way, has changed: all are told before anything else happens."""
        for worker in self._lanes.values():
            self._brief(worker)

    def applied(self, version: int) -> int:
        """The version of the authority that all of this router applies, `version` being the first process's."""
        running = [one for one in self._lanes.values() if one.pair is not None and one.ready]
        return min([version, *(one.applied for one in running)])

    def attached(self, attachments: Iterable[Attachment]) -> None:
        """News of where nodes are attached."""
        places = messages.Places(tuple(attachments))
        for worker in self._lanes.values():
            if worker.pair is not None:
                worker.pair.send(places)

    def tick(self) -> None:
        """Tell what has changed; end workers that do not answer. Call it every `TICK`."""
        now = asyncio.get_running_loop().time()
        self._briefing.tick()
        for worker in self._lanes.values():
            if worker.pair is None:
                continue
            self._brief(worker)
            late = worker.behind is not None and now - worker.behind > CONFIRM_SECONDS
            if (late or now - worker.heard > SILENT_SECONDS) and worker.process is not None:
                _log.error("worker.stuck", lane=worker.lane, pid=worker.process.pid)
                worker.process.kill()

    async def leave(self) -> None:
        """Let circuits move, then end all processes."""
        self._stopping = True
        for worker in self._lanes.values():
            worker.tell(messages.Leave())
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LEAVE_SECONDS)
        for worker in self._lanes.values():
            if worker.process is not None:
                worker.process.kill()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LEAVE_SECONDS)
        await cancel(*self._tasks)

    # --- what they carry ------------------------------------------------------------------------------

    def totals(self) -> Counter[str]:
        """What all have counted."""
        return sum((worker.totals() for worker in self._lanes.values()), Counter())

    def busiest(self) -> float:
        """Share of a core that the busiest of them uses."""
        return max((worker.facts.busy for worker in self._lanes.values()), default=0) / 100

    def facts(self) -> list[dict[str, int | bool]]:
        """Each worker, for `/status` and metrics."""
        return [
            {
                "lane": worker.lane,
                "pid": 0 if worker.process is None else worker.process.pid,
                "up": worker.pair is not None,
                "starts": worker.starts,
                "links": worker.facts.links,
                "circuits": worker.facts.circuits,
                "queued_bytes": worker.facts.queued_bytes,
                "busy": worker.facts.busy,
                "frames": worker.totals()["frames"],
                "bytes": worker.totals()["bytes"],
            }
            for worker in self._lanes.values()
        ]

    # --- one process after the other --------------------------------------------------------------------

    async def _keep(self, worker: Worker) -> None:
        loop = asyncio.get_running_loop()
        pause = limits.RECONNECT_MIN
        while True:
            began = loop.time()
            try:
                process, sock = await self._starter(worker.lane, len(self._lanes))
            except OSError as error:
                _log.error("worker.start", lane=worker.lane, error=error.strerror or str(error))
            else:
                await self._live(worker, process, sock)
            if self._stopping:
                return
            pause = limits.RECONNECT_MIN if loop.time() - began > STEADY_SECONDS else 2 * pause
            pause = min(pause, limits.RECONNECT_MAX)
            await asyncio.sleep(pause * (0.5 + self._world.entropy.uniform() / 2))

    async def _live(self, worker: Worker, process: Process, sock: socket.socket) -> None:
        worker.process, worker.starts = process, worker.starts + 1
        worker.heard = asyncio.get_running_loop().time() + SILENT_SECONDS  # it has to start first
        # A worker that closes its end is no worker any more, even if the process hangs.
        worker.pair = Pair(
            sock, lambda message, _: self._heard(worker, message), lambda: self._lost(worker)
        )
        self._brief(worker)
        for batch in self._briefing.places():
            worker.pair.send(messages.Places(batch))
        _log.info("worker.up", lane=worker.lane, pid=process.pid)
        try:
            code = await process.wait()
        finally:
            if worker.pair is not None:
                worker.pair.close()
            process.kill()
            worker.over()
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        if not self._stopping:
            _log.error("worker.down", lane=worker.lane, pid=process.pid, ended=how)
        links, worker.links = worker.links, Counter()
        for (name, address), count in links.items():
            for _ in range(count):
                self._node.record(
                    EventName.LINK_DOWN, Outcome.DONE, who=name, address=address,
                    reason=f"the worker of lane {worker.lane} ended {how}",
                )  # fmt: skip

    def _lost(self, worker: Worker) -> None:
        worker.pair = None
        if worker.process is not None:
            worker.process.kill()

    def _brief(self, worker: Worker) -> None:
        for message in self._briefing.messages(worker.lane):
            worker.tell(message)
        if worker.ready and worker.applied < self._briefing.version and worker.behind is None:
            worker.behind = asyncio.get_running_loop().time()

    def _heard(self, worker: Worker, message: messages.Message) -> None:
        worker.ready = True
        worker.heard = max(worker.heard, asyncio.get_running_loop().time())
        if isinstance(message, messages.Facts):
            worker.facts = message
        elif isinstance(message, messages.Opened):
            told = worker.tickets.pop(message.ticket, None)
            if told is not None:
                told(message.authenticated)
        elif isinstance(message, messages.Applied):
            worker.applied = message.version
            if worker.applied >= self._briefing.version:
                worker.behind = None
            self.on_applied()
        elif isinstance(message, messages.Recorded):
            self._note(worker, message)
            self._node.record(message.event, message.outcome, **message.fields)

    @staticmethod
    def _note(worker: Worker, message: messages.Recorded) -> None:
        place = str(message.fields.get("who", "")), str(message.fields.get("address", ""))
        if message.event is EventName.LINK_UP:
            worker.links[place] += 1
        elif message.event is EventName.LINK_DOWN:
            worker.links[place] -= 1
            if worker.links[place] <= 0:
                del worker.links[place]
