"""The event loops of this machine: the program's own, and others in threads of their own (`overlay.aio.world`)."""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from overlay.aio.world import EventLoop

T = TypeVar("T")

SWITCH_SECONDS = 0.0005
"""How long a thread keeps the interpreter while another waits for it: the one that sleeps most must get it soon."""
JOIN_SECONDS = 2.0


class RunningLoop:
    """`EventLoop` on a loop that somebody else runs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def post(self, call: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(call, *arguments)

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self._loop))

    async def close(self) -> None:
        """Its runner does."""


class ThreadLoop(RunningLoop):
    """`EventLoop` in a thread of its own."""

    def __init__(self, name: str) -> None:
        super().__init__(uvloop.new_event_loop())
        self._closing = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    def _main(self) -> None:
        loop = self._loop
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    async def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._closing:
            coroutine.close()
            raise asyncio.CancelledError
        return await super().run(coroutine)

    async def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        self.post(self._loop.stop)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join, JOIN_SECONDS)


class SystemEventLoops:
    """`EventLoops` of this process."""

    def here(self) -> EventLoop:
        return RunningLoop(asyncio.get_running_loop())

    def start(self, name: str) -> EventLoop:
        sys.setswitchinterval(SWITCH_SECONDS)
        return ThreadLoop(name)
