"""The listeners that the controller assigned: bound from assignment until removal, whatever is granted meanwhile."""

import asyncio

from edge.intercept.base import Caught, Interceptor
from edge.intercept.proxy import TcpListener, UdpListener
from overlay.aio.lifecycle import UsageError, describe
from overlay.aio.logs import get_logger
from overlay.aio.options import parse_listen
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.control.messages import ListenerEntry
from overlay.wire.bodies import STREAM

RETRY = 2.0
"""Seconds until a port that could not be bound is tried again."""

_log = get_logger("listeners")


class Listeners:
    """Keeps what is bound equal to what is assigned. `problems` says why a listener is not bound."""

    def __init__(self, world: World, caught: Caught) -> None:
        self.problems: dict[str, str] = {}
        self._world = world
        self._caught = caught
        self._wanted: tuple[ListenerEntry, ...] = ()
        self._bound: dict[ListenerEntry, Interceptor] = {}
        self._dropped = 0
        self._changed = asyncio.Event()
        self._task = spawn(self._keep(), "listeners")

    @property
    def bound(self) -> tuple[ListenerEntry, ...]:
        """Listeners that are bound."""
        return tuple(self._bound)

    @property
    def dropped(self) -> int:
        """Datagrams that came to listeners and got no circuit: no grant, or too many clients."""
        return self._dropped + sum(map(_dropped, self._bound.values()))

    def assign(self, entries: tuple[ListenerEntry, ...]) -> None:
        """What is to be bound from now on. What is removed is released at once, before anything is bound in
        its place.
        """
        self._wanted = tuple(dict.fromkeys(entries))
        for entry in [entry for entry in self._bound if entry not in self._wanted]:
            removed = self._bound.pop(entry)
            removed.stop()
            self._dropped += _dropped(removed)
            _log.info("listener.removed", at=entry.listen, service=entry.service)
        self.problems = {
            entry.listen: self.problems[entry.listen]
            for entry in self._wanted
            if entry.listen in self.problems
        }
        self._changed.set()

    async def close(self) -> None:
        """Release all."""
        await cancel(self._task)
        for interceptor in self._bound.values():
            interceptor.stop()
        self._bound.clear()

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            for entry in self._wanted:
                if entry not in self._bound:
                    await self._bind(entry)
            missing = any(entry not in self._bound for entry in self._wanted)
            if self._changed.is_set():
                continue
            try:
                async with asyncio.timeout(RETRY if missing else None):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _bind(self, entry: ListenerEntry) -> None:
        kind = TcpListener if entry.transport == STREAM else UdpListener
        try:
            address = parse_listen(entry.listen, "listen")
            interceptor = kind(self._world, entry, address, self._caught)
            await interceptor.start()
        except (OSError, UsageError) as error:
            why = describe(error) if isinstance(error, OSError) else str(error)
            if self.problems.get(entry.listen) != why:
                self.problems[entry.listen] = why
                _log.error("listener.failed", at=entry.listen, service=entry.service, reason=why)
            return
        if entry not in self._wanted:  # removed while it was being bound
            interceptor.stop()
            return
        self._bound[entry] = interceptor
        self.problems.pop(entry.listen, None)
        _log.info("listener.bound", at=entry.listen, service=entry.service, who=entry.who)


def _dropped(interceptor: Interceptor) -> int:
    return interceptor.dropped if isinstance(interceptor, UdpListener) else 0
