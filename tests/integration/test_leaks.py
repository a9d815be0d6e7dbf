"""Thousands of circuits later nothing of them is left: no task, timer, descriptor, object or memory (`make soak`: 100,000)."""

import asyncio
import gc
from collections import Counter

import pytest

from overlay.aio import incoming
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.pump import Pump
from overlay.aio.stream_socket import SocketConnection
from overlay.circuit.circuit import Circuit
from tests.support.honest import until
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


async def test_an_edge_leaves_no_circuit_to_the_garbage_collector(monkeypatch: pytest.MonkeyPatch):
    """A pass over the cycles of 500 circuits stopped everything in it for 30 to 300 ms, and took a tenth of its CPU."""
    # Those that wait for a late RESUME are no garbage.
    monkeypatch.setattr(incoming, "ENDED_CIRCUITS", 1)
    async with WholePlant() as plant:
        await one(plant, 0)
        await until(lambda: not any(plant.tables().values()))
        gc.collect()
        gc.disable()
        try:
            for number in range(20):
                await one(plant, number % 7)
            await until(lambda: not any(plant.tables().values()))
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            left = Counter(type(found).__name__ for found in gc.garbage if _of_a_circuit(found))
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
    assert left == Counter()


def _of_a_circuit(found: object) -> bool:
    """Of a program's, not of an attempt at `_control`, which fails with an exception that holds its frames."""
    if isinstance(found, CircuitStream):
        return found.grant is not None
    return isinstance(found, Pump | SocketConnection | Circuit)


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
