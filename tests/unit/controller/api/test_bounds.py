"""What a caller of the API can make long, or make wait, ends somewhere."""

import asyncio
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from controller.actions.errors import Invalid
from controller.api import follow, guard, handlers
from controller.api.problem import MAX_DETAIL, ApiError, ProblemCode
from controller.api.service import Service
from overlay.slots import Slots


def test_what_is_refused_is_not_said_again_at_any_length():
    said = ApiError(ProblemCode.INVALID, "x" * (MAX_DETAIL + 1)).document()
    assert said.detail == "x" * MAX_DETAIL


@pytest.mark.parametrize("text", ["9" * (handlers.MAX_SEQ_DIGITS + 1), "9" * 5000, "-1", "\u0664"])
async def test_a_number_that_is_none_is_not_looked_for(text: str):
    call: Any = SimpleNamespace(path={"seq": text})
    with pytest.raises(Invalid, match="is no number of an audit record"):
        await handlers.audit_prove(call, None, None)


async def test_who_waits_for_the_plant_waits_so_long_and_no_longer(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(follow, "MAX_WAIT_SECONDS", 0.0)
    lacking: Any = SimpleNamespace(routers=(SimpleNamespace(state="absent"),), edges=())

    async def status(_: object) -> Any:
        return lacking

    subscription = SimpleNamespace(close=lambda: None)
    actions = SimpleNamespace(status=status, subscribe=lambda: subscription)
    call: Any = SimpleNamespace(actions=actions, actor=None, gone=lambda: False)
    async with asyncio.timeout(5):
        assert await follow.status(call, follow.StatusQuery(wait=1e9), None) is lacking


async def test_a_reader_that_stops_to_read_is_cut_and_gives_its_place_back(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(guard, "STREAM_STALL_SECONDS", 0.0)

    class Stalled:
        def __init__(self, **_: object) -> None:
            pass

        async def prepare(self, _: object) -> None:
            pass

        async def write(self, _: bytes) -> None:
            await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(web, "StreamResponse", Stalled)
    cut: list[bool] = []
    closed: list[bool] = []

    async def items() -> AsyncGenerator[Any, None]:
        try:
            while True:
                yield {"seq": 1}
        finally:
            closed.append(True)

    made = Service.__new__(Service)
    made._streams, made._streaming = Slots(1, 1), set()
    transport = SimpleNamespace(abort=lambda: cut.append(True), is_closing=lambda: False)
    request: Any = SimpleNamespace(transport=transport)
    async with asyncio.timeout(5):
        await made._stream(request, "login", items())
    assert (cut, closed) == ([True], [True])
    assert made._streams.enter("login")
