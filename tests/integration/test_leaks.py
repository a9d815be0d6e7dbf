"""Thousands of circuits later nothing of them is left: no task, timer, descriptor, object or memory (`make soak`: 100,000)."""

import asyncio
from collections import Counter

import pytest

from tests.support.soak import Left, Verdict, one, soak
from tests.support.whole import WholePlant

BEFORE, AFTER = 1_500, 3_500


@pytest.mark.timeout(240)
def test_five_thousand_circuits_leave_nothing_behind():
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:  # its timers can be counted
        verdict = runner.run(soak(AFTER, warm=BEFORE))
    assert verdict.growth() == []


@pytest.mark.timeout(120)
def test_a_leak_would_be_found():
    """Each kind, planted."""
    clean = Left(5, 3, 20, 100_000, 1 << 27, Counter({"overlay.x": 5}), {})
    for leaky, words in (
        (clean._replace(tasks=40), "tasks"),
        (clean._replace(timers=90), "timers"),
        (clean._replace(descriptors=30), "descriptors"),
        (clean._replace(blocks=104_000), "blocks"),
        (clean._replace(ours=Counter({"overlay.x": 40})), "overlay.x"),
        (clean._replace(tables={"router circuits": 1}), "router circuits"),
    ):
        found = Verdict(clean, leaky, 1_000).growth()
        assert len(found) == 1
        assert words in found[0]
    assert Verdict(clean, clean, 1_000).growth() == []


async def test_circuits_that_end_while_others_run_harm_nobody():
    async with WholePlant() as plant:
        reader, writer = await asyncio.open_connection("127.0.0.1", plant.listen)
        polls = 0

        async def poll() -> None:
            nonlocal polls
            while True:
                writer.write(b"twelve bytes")
                assert await reader.readexactly(12) == b"twelve bytes"
                polls += 1

        task = asyncio.ensure_future(poll())
        try:
            for number in range(100):
                await asyncio.gather(*(one(plant, 3 * number + n) for n in range(3)))
        finally:
            task.cancel()
        assert polls > 100
        writer.close()
