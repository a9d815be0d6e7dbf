"""Keeping something equal to what is wanted of it: again at each change, and after a while whatever happened."""

import asyncio
from collections.abc import Awaitable, Callable

from overlay.aio.lifecycle import describe
from overlay.errors import FerruleError


async def keep(
    once: Callable[[], Awaitable[None]],
    changed: asyncio.Event,
    retry: float,
    tell: Callable[[str], None],
) -> None:
    """Do `once` at every `changed`, and when `retry` seconds have passed; never returns.

    Args:
        once: may raise FerruleError or OSError.
        tell: hears why it failed, or the empty string that it did not; only what is new.
    """
    told = ""
    while True:
        changed.clear()
        why = ""
        try:
            await once()
        except (FerruleError, OSError) as error:
            why = describe(error) if isinstance(error, OSError) else str(error)
        if why != told:
            told = why
            tell(why)
        try:
            async with asyncio.timeout(retry):
                await changed.wait()
        except TimeoutError:
            continue
