"""What a node hosts and holds is bounded: what is too much is refused with a sentence, and what runs goes on (C-05, C-35)."""

import asyncio
from typing import Any

import pytest

from overlay import limits
from overlay.aio import hosting
from overlay.aio.circuit_roles import Refused
from overlay.aio.incoming import ENDED_BYTES, ENDED_CIRCUITS, ENDED_SECONDS, EndedCircuits
from overlay.errors import Code
from overlay.wire.header import Kind
from tests.support.circuits import Plant
from tests.unit.aio.test_endpoint import kinds, story


async def polls(stream, data: bytes = b"read holding registers") -> bool:
    """Whether a circuit to an echoing service still works."""
    async with asyncio.timeout(5):
        await stream.write(data)
        got = b""
        while len(got) < len(data):
            got += await stream.read()
    return got == data


async def refusal(plant: Plant) -> Refused:
    with pytest.raises(Refused) as caught:
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
    return caught.value


def test_a_node_hosts_so_many_circuits_and_no_more(monkeypatch):
    monkeypatch.setattr(hosting, "HOSTED_CIRCUITS", 8)

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        old = [await plant.a.endpoint.dial("plc-b.modbus", plant.grant()) for _ in range(8)]
        for _ in range(3):
            refused = await refusal(plant)
            assert refused.code is Code.BUSY
            assert "hosts as many circuits as it may" in refused.reason
            assert all([await polls(one) for one in old])
        old[0].end()
        await old[0].read()
        await old[0].closed
        await asyncio.sleep(0.1)
        assert await polls(await plant.a.endpoint.dial("plc-b.modbus", plant.grant()))
        assert plant.b.security == []

    story(test)


def test_circuits_that_wait_for_their_asset_are_bounded(monkeypatch):
    monkeypatch.setattr(hosting, "UNANSWERED", 5)

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        old = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        waiting: list[Any] = []
        plant.b.serve = waiting.append  # assets that do not answer
        opening = [plant.a.endpoint.open("plc-b.modbus", plant.grant()) for _ in range(5)]
        await asyncio.sleep(0.1)
        assert len(waiting) == 5
        refused = await refusal(plant)
        assert refused.code is Code.BUSY
        assert "wait for their assets" in refused.reason
        assert await polls(old)
        opening[0].abort(Code.APPLICATION_RESET, "nobody waits")
        await asyncio.sleep(0.1)
        plant.b.serve = plant.b.echo
        assert await polls(await plant.a.endpoint.dial("plc-b.modbus", plant.grant()))

    story(test)


@pytest.mark.parametrize("side", ["host", "caller"])
def test_a_node_whose_memory_is_full_begins_nothing_new_and_harms_nothing_old(side: str):
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        old = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        memory = (plant.b if side == "host" else plant.a).endpoint.memory
        memory.buffered += limits.CIRCUIT_MEMORY + 1
        refused = await refusal(plant)
        assert refused.code is Code.BUSY
        assert "holds too much" in refused.reason
        assert await polls(old)
        assert await polls(old, bytes(100_000))
        memory.buffered -= limits.CIRCUIT_MEMORY + 1
        assert await polls(await plant.a.endpoint.dial("plc-b.modbus", plant.grant()))

    story(test)


def test_the_memory_of_circuits_that_are_over_is_free_again():
    async def test(plant: Plant):
        for how in ("end", "abort", "cut"):
            stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
            host = plant.b.hosted[-1]
            for one in (stream, host):
                while one.room():
                    one.send(bytes(min(50_000, one.room())))
            await asyncio.sleep(0.05)
            assert 240_000 < plant.a.endpoint.memory.buffered <= limits.INITIAL_WINDOW
            assert 240_000 < plant.b.endpoint.memory.buffered <= limits.INITIAL_WINDOW
            assert plant.b.endpoint.memory.kept > 0 or plant.a.endpoint.memory.kept > 0
            if how == "end":
                for one in (stream, host):
                    one.end()
            elif how == "abort":
                stream.abort(Code.APPLICATION_RESET, "gone")
            else:
                for link in list(plant.router.links.values()):
                    link.cut()
            await asyncio.sleep(limits.RESUME_TIME + 20)
            if how == "end":  # what is unread may still be read
                for one in (stream, host):
                    while await one.read():
                        pass
            for node in (plant.a, plant.b):
                memory = node.endpoint.memory
                assert (memory.buffered, memory.kept, memory.windows) == (0, 0, 0), how
                assert node.endpoint.streams() == []

    story(test)


def test_one_reader_that_stalls_slows_none_of_63_others_and_holds_one_window():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        streams = [await plant.a.endpoint.dial("plc-b.modbus", plant.grant()) for _ in range(64)]
        for router in plant.routers:
            for link in (*router.links.values(), *(one.other for one in router.links.values())):
                link.rate = 20e6
        stalled, others = streams[0], streams[1:]
        while stalled.room():  # it sends and never reads: its echo fills one window each way
            stalled.send(bytes(min(60_000, stalled.room())))
            await asyncio.sleep(0.05)
        counts = [0] * len(others)

        async def work(number: int) -> None:
            while True:
                assert await polls(others[number], bytes(5_000))
                counts[number] += 1

        tasks = [asyncio.ensure_future(work(number)) for number in range(len(others))]
        await asyncio.sleep(5)
        for task in tasks:
            task.cancel()
        assert min(counts) > 50
        assert sum(counts) ** 2 / (len(counts) * sum(one * one for one in counts)) > 0.99
        for node in (plant.a, plant.b):
            memory = node.endpoint.memory
            assert memory.buffered <= 2 * limits.INITIAL_WINDOW + 63 * 10_000
            assert memory.kept <= 64 * limits.INITIAL_WINDOW  # acknowledged every 100 ms
        assert not stalled.closed.done()
        got = 0
        while got < stalled.core.bytes_sent:  # and it can still go on
            got += len(await stalled.read())

    story(test)


def test_a_circuit_queues_no_more_than_its_share_at_its_link():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        link = stream.link
        link.rate = 1e3  # takes next to nothing
        stream.core._sending.limit = limits.MAX_WINDOW
        sent = 0
        while room := stream.room():
            stream.send(bytes(room))
            sent += room
        assert link.backlog(stream.number) >= limits.CIRCUIT_QUEUE_BYTES
        assert sent <= limits.CIRCUIT_QUEUE_BYTES + limits.MAX_DATA
        stream.abort(Code.NORMAL, "")

    story(test)


def test_an_association_ends_after_its_life_and_its_circuits_go_on():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        old = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())

        async def handshakes() -> int:
            seen = len(plant.router.seen)
            assert await polls(await plant.a.endpoint.dial("plc-b.modbus", plant.grant()))
            accepts = [
                len(body)
                for _, header, body in plant.router.seen[seen:]
                if header.kind is Kind.ACCEPT
            ]
            assert Kind.OPEN in kinds(plant.router, seen)
            return sum(size > 500 for size in accepts)  # the server's flight

        await asyncio.sleep(limits.ASSOCIATION_LIFE - 60)
        assert await handshakes() == 0
        await asyncio.sleep(61)
        assert await handshakes() == 1
        assert await polls(old)

    story(test)


class _Ended:
    """An ended circuit, as far as it is kept."""

    def __init__(self, number: int, size: int) -> None:
        self.circuit_id = number.to_bytes(16, "big")
        self.core = self
        self.kept_bytes = size


def test_ended_circuits_are_kept_for_a_while_and_bounded_by_number_and_bytes():
    kept: Any = EndedCircuits()
    for number in range(ENDED_CIRCUITS + 10):
        kept.keep(_Ended(number, 0), 0.0)
    assert len(kept) == ENDED_CIRCUITS
    assert kept.find((0).to_bytes(16, "big"), 0.0) is None
    assert kept.find((10).to_bytes(16, "big"), 0.0) is not None
    assert kept.find((10).to_bytes(16, "big"), ENDED_SECONDS) is None
    for number in range(20):
        kept.keep(_Ended(10_000 + number, ENDED_BYTES // 4), 1.0)
    assert kept.bytes <= ENDED_BYTES
    assert len(kept) == 4
