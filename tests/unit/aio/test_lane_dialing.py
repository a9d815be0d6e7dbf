"""Dialers of lanes that are not used any more."""

import asyncio
from typing import Any

import pytest

from overlay.aio import lane_dialing
from overlay.aio.dialer import DIRECT
from overlay.aio.lane_dialing import LaneDialers, dialers_for
from overlay.aio.tasks import cancel, spawn


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
    lanes = LaneDialers(nothing, nothing, nothing, nothing, nothing, nothing)
    dialer: Any = Slow()
    lanes._dialers[("r1", 7420), 2] = dialer
    lanes.forget(("r1", 7420))
    closing = spawn(lanes.close(), "close")
    await asyncio.sleep(0.01)
    assert not closing.done()
    dialer.may.set()
    await closing
    assert dialer.closed


class LateLanes:
    """The bulk loop has made the link; the home loop, which waits for it, has not heard of that yet."""

    def __init__(self) -> None:
        self.bulk = self
        self.goodbye = self.doubt = None
        self.made = asyncio.Event()

    def post(self, call: Any) -> None:
        call()

    async def run(self, coroutine: Any) -> Any:
        await coroutine
        self.made.set()
        await asyncio.Event().wait()


async def test_a_lane_that_comes_up_while_nobody_wants_it_any_more_is_closed(
    monkeypatch: pytest.MonkeyPatch,
):
    closed: list[bool] = []

    class Link:
        def close(self) -> None:
            closed.append(True)

    async def dial_link(*_: Any, **__: Any) -> Any:
        return Link()

    monkeypatch.setattr(lane_dialing, "dial_link", dial_link)
    nothing: Any = None
    lanes: Any = LateLanes()
    dialers = dialers_for(nothing, lanes, lambda: nothing, lambda: 0, DIRECT, 0, "")
    attempt = spawn(dialers._dial(("r1", 7420), "router-1", 1), "attempt")
    await lanes.made.wait()
    assert closed == []
    await cancel(attempt)
    assert closed == [True]
