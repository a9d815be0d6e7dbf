"""Dialers of lanes that are not used any more."""

import asyncio
from typing import Any

from overlay.aio.lane_dialing import LaneDialers
from overlay.aio.tasks import spawn


class Slow:
    """A dialer that takes its time to stop."""

    link = None

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.closed = False

    async def close(self) -> None:
        await self.may.wait()
        self.closed = True


async def test_close_waits_for_dialers_that_were_forgotten_before():
    nothing: Any = None
    lanes = LaneDialers(nothing, nothing, nothing, nothing, nothing)
    dialer: Any = Slow()
    lanes._dialers[("r1", 7420), 2] = dialer
    lanes.forget(("r1", 7420))
    closing = spawn(lanes.close(), "close")
    await asyncio.sleep(0.01)
    assert not closing.done()
    dialer.may.set()
    await closing
    assert dialer.closed
