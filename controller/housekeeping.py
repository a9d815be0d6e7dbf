"""Calls the action layer when something is due, for as long as the controller runs (`controller.actions.timed`)."""

import asyncio
from collections.abc import Awaitable, Callable

from controller.actions.actions import Actions
from controller.actions.timed import RETRY
from overlay.aio.logs import get_logger
from overlay.errors import FerruleError
from overlay.wire.timestamps import SECOND

WAKING = frozenset({"policy", "authority"})
"""Changes after which something may be due earlier."""

_log = get_logger("housekeeping")


async def keep_time(actions: Actions, also: Callable[[], Awaitable[None]]) -> None:
    """Tick until cancelled. `also` is called at every tick. What fails is tried again, and said once until it works."""
    news = actions.subscribe()
    said = ""
    try:
        while True:
            try:
                wait = await actions.tick()
                await also()
                said = ""
            except (FerruleError, OSError) as error:
                wait = RETRY
                if str(error) != said:
                    said = str(error)
                    _log.error("housekeeping.failed", text=said)
            try:
                async with asyncio.timeout(wait / SECOND):
                    while not await news.wait() & WAKING:
                        pass
            except TimeoutError:
                continue
    finally:
        news.close()
