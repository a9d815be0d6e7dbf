"""Where a program's parts put audit events: merged where they repeat, kept until there is a spool."""

import asyncio

from overlay.aio.logs import get_logger
from overlay.aio.spool import Spool
from overlay.audit.event import EventName, Outcome
from overlay.audit.merging import Merger

EARLY = 256
"""Events kept in memory before there is a spool (a node that is not enrolled yet)."""

_log = get_logger("audit")


class Recorder:
    """`record` never blocks and never fails."""

    def __init__(self) -> None:
        self._spool: Spool | None = None
        self._merger = Merger()
        self._early: list[tuple[EventName, Outcome, dict[str, str | int]]] = []

    def begin(self, spool: Spool) -> None:
        """From now on events go to this spool, first those that waited."""
        self._spool = spool
        early, self._early = self._early, []
        for event, outcome, fields in early:
            spool.append(event, outcome, **fields)

    def room(self) -> bool:
        """Events of new circuits have room (U-09)."""
        return self._spool is not None and self._spool.room()

    def waiting(self) -> tuple[int, int]:
        """Events that the controller has not proven to have recorded, and the bytes that they take on disk."""
        spool = self._spool
        if spool is None:
            return len(self._early), 0
        return spool.last - spool.acknowledged, spool.size

    def record(self, event: EventName, outcome: Outcome, **fields: str | int) -> None:
        """Put an event in the spool, or merge it with others of its kind that come too fast (U-06)."""
        passed = self._merger.offer(event, outcome, fields, _now())
        if passed is not None:
            self._put(*passed)

    def tick(self) -> None:
        """Merged events whose time has come; call it every second."""
        for merged in self._merger.due(_now()):
            self._put(*merged)

    async def drain(self, seconds: float) -> None:
        """Put merged events in, write all, and wait that long for the controller to have recorded them."""
        for merged in self._merger.due(_now(), all_of_them=True):
            self._put(*merged)
        spool = self._spool
        if spool is None:
            return
        await spool.flush()
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        while spool.acknowledged < spool.durable and loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def close(self) -> None:
        """Write what can be written."""
        await self.drain(0.0)
        spool, self._spool = self._spool, None  # what comes while it closes would never be written
        if spool is not None:
            await spool.close()

    def _put(self, event: EventName, outcome: Outcome, fields: dict[str, str | int]) -> None:
        if self._spool is not None:
            self._spool.append(event, outcome, **fields)
        elif len(self._early) < EARLY:
            self._early.append((event, outcome, fields))


def _now() -> float:
    return asyncio.get_running_loop().time()
