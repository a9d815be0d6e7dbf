"""Datagrams that are alone leave at once, and what came together leaves together (L-23): system calls and turns of the loop
are what a small datagram costs most."""

import asyncio
from functools import partial

import pytest

from overlay import limits
from overlay.aio.link_sender import BURST, LONG_TURN
from overlay.circuit.datagrams import MAX_DATAGRAM
from overlay.wire.bodies import DATAGRAMS
from overlay.wire.header import Kind
from tests.support.circuits import Plant
from tests.support.links import Pair
from tests.unit.aio.test_datagram_bounds import got, on_a_link
from tests.unit.aio.test_endpoint import story


class Writes:
    """How many frames of datagrams each write of a link's connection carries, and whether it came in this very turn."""

    def __init__(self, both: Pair) -> None:
        self.sizes: list[int] = []
        real = both.link._connection.write

        def write(parts):
            self.sizes.append(sum(map(len, parts)))
            return real(parts)

        both.link._connection.write = write  # type: ignore[method-assign]


def test_one_that_is_alone_leaves_in_the_very_call():
    async def test(both: Pair, one: int, other: int):
        writes = Writes(both)
        both.link.send_datagram(one, b"poll", sequence=7)
        assert len(writes.sizes) == 1
        assert both.link.total_backlog == 0
        await both.far.until(lambda: got(both, one) == [7])

    on_a_link(test)


def test_what_came_together_leaves_in_one_call_with_the_last():
    async def test(both: Pair, one: int, other: int):
        writes = Writes(both)
        for sequence in range(5):
            assert writes.sizes == []
            both.link.send_datagram(one, b"poll", sequence=sequence, more=sequence < 4)
        assert len(writes.sizes) == 1, "the last takes all with it"
        await asyncio.sleep(BURST)
        both.link.send_datagram(one, b"poll", sequence=5)
        assert len(writes.sizes) == 2, "and the next is alone again"
        await both.far.until(lambda: got(both, one) == list(range(6)))

    on_a_link(test)


def test_one_whose_follower_never_comes_leaves_with_the_next_turn():
    async def test(both: Pair, one: int, other: int):
        both.link.send_datagram(one, b"poll", sequence=1, more=True)
        assert both.link.total_backlog > 0
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert both.link.total_backlog == 0
        await both.far.until(lambda: got(both, one) == [1])

    on_a_link(test)


def test_of_a_burst_only_the_first_leaves_alone():
    async def test(both: Pair, one: int, other: int):
        writes = Writes(both)
        for sequence in range(100):  # as a hundred sockets in one turn do
            both.link.send_datagram(one, b"poll", sequence=sequence)
        assert len(writes.sizes) == 1
        await both.far.until(lambda: len(got(both, one)) == 100)
        assert len(writes.sizes) == 2
        assert got(both, one) == list(range(100))

    on_a_link(test)


@pytest.mark.parametrize("kind", [Kind.DATA, Kind.DATAGRAM])
def test_what_comes_one_by_one_leaves_one_by_one_however_many_within_a_millisecond(kind: Kind):
    async def test(both: Pair, one: int, other: int):
        writes = Writes(both)
        for sequence in range(8):
            await asyncio.sleep(BURST)
            if kind is Kind.DATA:
                both.link.send(kind, other, b"poll", sequence=sequence)
            else:
                both.link.send_datagram(one, b"poll", sequence=sequence)
            assert len(writes.sizes) == sequence + 1

    on_a_link(test)


def test_in_a_long_turn_of_the_loop_all_leave_together():
    """Though there is time between them: handling each takes long, and who waits for it is kept waiting."""

    async def test(both: Pair, one: int, other: int):
        writes = Writes(both)
        begun = asyncio.get_running_loop().time()
        for sequence in range(10):
            both.link._sender._clock = partial(float, begun + sequence * 0.3 * LONG_TURN)
            both.link.send_datagram(one, b"poll", sequence=sequence)
        assert len(writes.sizes) == 4
        await both.far.until(lambda: len(got(both, one)) == 10)
        assert len(writes.sizes) == 5

    on_a_link(test)


def test_none_overtakes_what_waits_for_its_turn():
    async def test(both: Pair, one: int, other: int):
        both.link.send(Kind.CREDIT, other, b"credit")  # leaves with the next turn
        both.link.send_datagram(one, b"poll", sequence=1)
        both.link.send(Kind.CLOSE, one, b"close")
        await both.far.until(lambda: len(both.far.frames) == 3)
        assert [frame[0] for frame in both.far.frames] == [
            Kind.CREDIT, Kind.DATAGRAM, Kind.CLOSE,
        ]  # fmt: skip

    on_a_link(test)


def test_a_link_that_takes_nothing_keeps_its_bound_whoever_follows():
    async def test(both: Pair, one: int, other: int):
        both.other._connection.pause()
        while not both.link.blocked:
            both.link.send(Kind.DATA, other, bytes(100_000))
            await asyncio.sleep(0)
        for more in (True, False):
            for sequence in range(2 * limits.DATAGRAM_QUEUE):
                both.link.send_datagram(one, bytes(50), sequence=sequence, more=more)
        assert len(got(both, one)) == 0
        queue = both.link._sender.turns._streams[one]
        assert queue.datagrams == limits.DATAGRAM_QUEUE

    on_a_link(test)


@pytest.mark.parametrize("more", [False, True])
def test_boundaries_stay_what_they_are(more: bool):
    sizes = (0, 1, 200, 0, 4096, 20_000, MAX_DATAGRAM, 0, 3)

    async def test(plant: Plant):
        grant = plant.grant(transport=DATAGRAMS)
        stream = await plant.a.endpoint.dial("plc-b.modbus", grant, transport=DATAGRAMS)
        host = plant.b.hosted[0]
        sent = [bytes([number]) * size for number, size in enumerate(sizes)]
        for data in sent:
            stream.send_datagram(data, more=more)
        assert [await host.receive_datagram() for _ in sent] == sent
        assert stream.datagrams_dropped == host.datagrams_dropped == 0

    story(test)
