"""Makes the edge's tables of nftables again as soon as somebody has removed them, for example by `nft flush ruleset`.

What is intercepted would else take the host's own way until the next look at the host, seconds later.
"""

import asyncio

from edge.machine.changes import HostChanges, HostError
from edge.machine.hearing import Hearing
from edge.machine.netfilter import Commits
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn

_log = get_logger("tables")


class Tables:
    """Those among `changes`. Where the kernel does not tell they are made again at that next look."""

    def __init__(self, changes: HostChanges) -> None:
        self._changes = changes
        self._committed = asyncio.Event()
        self._hearing = Hearing("tables", Commits, self._committed.set)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, unless it has."""
        if self._task is None:
            self._hearing.start()
            self._task = spawn(self._keep(), "tables")

    async def close(self) -> None:
        """Look no more."""
        self._hearing.close()
        await cancel(self._task)
        self._task = None

    async def _keep(self) -> None:
        while True:
            await self._committed.wait()
            self._committed.clear()
            try:
                await self._changes.put_back(tables_only=True)
            except HostError as error:  # the look at the host says so in `status`, too
                _log.error("tables.failed", reason=str(error))
