"""Ten thousand idle circuits on one router, and one reader that stalls beside 63 that do not, on real sockets."""

import asyncio
import gc
import os
from typing import Any

import pytest

from overlay.errors import Code
from overlay.wire.bodies import Refusal
from overlay.wire.codec import decode
from overlay.wire.header import Kind
from router.admission import CALLS_PER_EDGE
from tests.support.honest import until
from tests.support.honest_router import HonestRouterPlant, HostileEdge
from tests.support.whole import Silent, WholePlant

IDLE = 10_000


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Caller:
    """An edge that opens circuits and polls over them."""

    def __init__(self, edge: HostileEdge, grant: bytes) -> None:
        self.edge = edge
        self.grant = grant
        self.numbers: list[int] = []
        self.accepted = 0
        self.refused: list[int] = []
        self.answers: dict[int, bytes] = {}
        edge.notes.on_frame = self._frame

    def _frame(self, link: Any, header: Any, payload: memoryview) -> None:
        self.edge.notes.frames.clear()
        self.accepted += header.kind is Kind.ACCEPT
        if header.kind is Kind.REFUSE:
            self.refused.append(decode(Refusal, payload).code)
        elif header.kind is Kind.DATA:
            self.answers[header.circuit] = bytes(payload)

    async def open(self, count: int) -> None:
        """So many more; returns when all are answered. A link takes `OPENS_PENDING_PER_LINK` unanswered ones."""
        while count:
            some = min(count, 250)
            count -= some
            self.numbers += [self.edge.open(self.grant) for _ in range(some)]
            wanted = len(self.numbers)
            await until(lambda n=wanted: self.accepted + len(self.refused) == n, 30)  # type: ignore[misc]

    async def poll(self, number: int) -> None:
        """Questions and answers over one of them."""
        for turn in range(20):
            question = b"poll %d" % turn
            self.edge.link.send(Kind.DATA, number, question, sequence=turn)
            await until(lambda q=question: self.answers.get(number) == q)  # type: ignore[misc]


@pytest.mark.timeout(120)
async def test_ten_thousand_idle_circuits_and_one_that_polls():
    async with HonestRouterPlant() as plant:
        plant.real.agent.recorder = Silent()
        host = await HostileEdge(plant, plant.pki.edge("edge-d")).dial(plant.real)

        def serve(link: Any, header: Any, payload: memoryview) -> None:
            host.notes.frames.clear()
            if header.kind is Kind.OPEN:
                link.send(Kind.ACCEPT, header.circuit, b"yes")
            elif header.kind is Kind.DATA:
                link.send(Kind.DATA, header.circuit, bytes(payload), sequence=header.sequence)

        host.notes.on_frame = serve
        callers = []
        for name in ("edge-a", "edge-e", "edge-f"):
            credentials = plant.keys.get(name) or plant.pki.edge(name)
            edge = plant.hostile
            if name != "edge-a":
                edge = await HostileEdge(plant, credentials).dial(plant.real)
            grant = plant.grant(hosts=("edge-d",), caller=credentials)
            callers.append(Caller(edge, grant))
            await callers[-1].open(1)
        gc.collect()
        before = resident()
        while (opened := sum(len(one.numbers) for one in callers)) < IDLE:
            await asyncio.gather(*(one.open(100) for one in callers))
        gc.collect()
        each = (resident() - before) / opened
        assert len(plant.real.router.table) == opened
        assert not any(one.refused for one in callers)
        print(f"{each:.0f} bytes for each circuit in the router and at both links' ends")
        assert each < 4_000
        for one in callers:  # the oldest, one between, the newest
            for number in (one.numbers[0], one.numbers[len(one.numbers) // 2], one.numbers[-1]):
                await one.poll(number)
        greedy = callers[0]
        await greedy.open(CALLS_PER_EDGE - len(greedy.numbers))
        await greedy.open(50)
        assert greedy.refused == [Code.BUSY] * 50
        await callers[1].open(50)  # others are not harmed
        assert callers[1].refused == []
        await greedy.poll(greedy.numbers[0])
        for one in callers:
            for place, number in enumerate(one.numbers):
                one.edge.link.reset(number, Code.NORMAL)
                if place % 100 == 0:  # four nodes share this loop
                    await asyncio.sleep(0.001)
        await until(lambda: len(plant.real.router.table) == 0, 30)
        await until(lambda: host.link.circuits == 0 or host.notes.ends, 30)
        assert host.notes.ends == []
        for edge in (host, callers[1].edge, callers[2].edge):
            await edge.close()


@pytest.mark.timeout(120)
async def test_a_reader_that_stalls_slows_none_of_63_others():
    async with WholePlant() as plant:
        ends = [await asyncio.open_connection("127.0.0.1", plant.listen) for _ in range(64)]
        stalled, others = ends[0], ends[1:]
        sent = 0

        async def flood() -> None:  # never reads what the asset sends back
            nonlocal sent
            while True:
                stalled[1].write(bytes(65_536))
                await stalled[1].drain()
                sent += 65_536

        flooding = asyncio.ensure_future(flood())
        last = -1
        while sent != last:  # until nothing moves any more
            last = sent
            await asyncio.sleep(0.5)
        counts = [0] * len(others)

        async def poll(number: int) -> None:
            reader, writer = others[number]
            for _ in range(40):
                writer.write(bytes(4_000))
                await reader.readexactly(4_000)
                counts[number] += 1

        await asyncio.gather(*(poll(number) for number in range(len(others))))
        assert counts == [40] * 63
        assert sent == last, "the one that stalls is still stalled"
        held = [edge.endpoint.memory for edge in plant.edges.values()]
        assert all(memory.buffered + memory.kept <= memory.limit for memory in held)
        assert not any(link.over for link in plant.real.links.values())
        assert sum(link.total_backlog for link in plant.real.links.values()) < 1 << 20
        flooding.cancel()
        got = 0
        while got < sent:  # it reads at last: nothing was lost
            got += len(await stalled[0].read(1 << 20))
        for _, writer in ends:
            writer.close()
        await until(lambda: not any(plant.tables().values()) and not plant.asset.open, 20)
