"""Periodic work is done at whole seconds of the event loop's clock, so that all of it shares one wake-up.

A wake-up of a program that slept costs more than what most of this work does: its caches are cold, and a core may have
to be waked. The clock is CLOCK_MONOTONIC, the same in all programs of a host, so they even wake together.
"""

import asyncio
import math


def nearest(at: float) -> float:
    """The whole second nearest to a time of the loop's clock; of two the later."""
    return math.floor(at + 0.5)


async def pause(seconds: float) -> None:
    """Sleep until the whole second nearest to so many from now; for periods of a second and more."""
    now = asyncio.get_running_loop().time()
    await asyncio.sleep(nearest(now + seconds) - now)
