"""Datagrams: the oldest give way, all that is dropped is counted, nobody blocks anybody, nothing is repeated (C-20, L-25)."""

import asyncio
import itertools

import pytest

from overlay import limits
from overlay.circuit.datagrams import MAX_DATAGRAM, Newest
from overlay.errors import Code
from overlay.wire.bodies import DATAGRAMS
from overlay.wire.header import HEADER_SIZE, Kind
from tests.support.circuits import Plant
from tests.support.links import Pair
from tests.support.simulation import Simulation
from tests.unit.aio.test_endpoint import story
from tests.unit.aio.test_links_simulated import linked, open_circuit


def on_a_link(test):
    """Run `test(sim, both)` with a link that is up and two circuits on it."""
    sim = Simulation(seed=1)

    async def run():
        both = await linked(sim)
        numbers = [open_circuit(both.link) for _ in range(2)]
        await both.far.until(lambda: len(both.far.frames) == 2)
        both.far.frames.clear()
        await test(both, *numbers)

    sim.run(run())


def got(both: Pair, circuit: int, kind: Kind = Kind.DATAGRAM) -> list[int]:
    return [frame[2] for frame in both.far.frames if frame[0] is kind and frame[1] == circuit]


async def fill(both: Pair, circuit: int) -> int:
    """The other side does not read: DATA until the connection takes no more; how many frames."""
    both.other._connection.pause()
    for sequence in itertools.count():
        if both.link.blocked and both.link.backlog(circuit) > limits.MAX_DATA:
            return sequence
        both.link.send(Kind.DATA, circuit, bytes(100_000), sequence=sequence)
        await asyncio.sleep(0)
    raise AssertionError


def test_a_burst_on_a_link_that_takes_it_loses_nothing():
    async def test(both: Pair, one: int, other: int):
        count = 10 * limits.DATAGRAM_QUEUE
        dropped = 0
        for sequence in range(count):  # without ever giving the event loop a turn
            dropped += both.link.send_datagram(one, bytes(20), sequence=sequence)
        await both.far.until(lambda: len(got(both, one)) == count)
        assert dropped == 0
        assert got(both, one) == list(range(count))

    on_a_link(test)


def test_on_a_link_that_takes_nothing_the_newest_wait_and_streams_go_on_afterwards():
    async def test(both: Pair, one: int, other: int):
        sent = await fill(both, other)
        count = 3 * limits.DATAGRAM_QUEUE
        dropped = sum(both.link.send_datagram(one, bytes(50), sequence=n) for n in range(count))
        assert dropped == 2 * limits.DATAGRAM_QUEUE
        assert both.link.backlog(one) == limits.DATAGRAM_QUEUE * (HEADER_SIZE + 50)
        both.link.send(Kind.CLOSE, one, b"close")
        both.other._connection.resume()
        await both.far.until(lambda: len(got(both, other, Kind.DATA)) == sent)
        assert got(both, one) == list(range(dropped, count))
        assert got(both, one, Kind.CLOSE) == [0]
        assert got(both, other, Kind.DATA) == list(range(sent))

    on_a_link(test)


def test_neither_streams_nor_datagrams_starve_the_other():
    async def test(both: Pair, one: int, other: int):
        await fill(both, other)
        rounds = 0

        async def chatter() -> None:
            nonlocal rounds
            while True:  # more datagrams than the link carries
                for _ in range(100):
                    both.link.send_datagram(one, bytes(1000), sequence=rounds)
                    rounds += 1
                both.link.send(Kind.DATA, other, bytes(100_000), sequence=0)
                await asyncio.sleep(0.001)

        both.far.frames.clear()
        task = asyncio.ensure_future(chatter())
        both.link._connection._net.bandwidth = 20e6  # type: ignore[attr-defined]
        both.other._connection.resume()
        await asyncio.sleep(2)
        task.cancel()
        size = dict.fromkeys((Kind.DATA, Kind.DATAGRAM), 0)
        for kind, _, _, payload in both.far.frames:
            size[kind] += len(payload)
        assert rounds * 1000 > 4 * size[Kind.DATAGRAM]  # there really was pressure
        ratio = size[Kind.DATAGRAM] / size[Kind.DATA]
        assert 0.7 < ratio < 1.4

    on_a_link(test)


def test_a_datagram_of_a_circuit_that_is_over_is_lost_and_says_so():
    async def test(both: Pair, one: int, other: int):
        both.link.reset(one, Code.NORMAL)
        assert both.link.send_datagram(one, b"late") == 1
        both.link.close()
        assert both.link.send_datagram(other, b"late") == 1

    on_a_link(test)


def test_what_waits_is_bounded_by_number_and_bytes():
    newest = Newest()
    assert sum(newest.push(b"x") for _ in range(limits.DATAGRAM_QUEUE + 9)) == 9
    assert newest.push(bytes(60_000)) == 1
    assert sum(newest.push(bytes(60_000)) for _ in range(10)) > limits.DATAGRAM_QUEUE
    assert len(newest) == limits.DATAGRAM_QUEUE_BYTES // 60_000
    assert newest.push(bytes(limits.DATAGRAM_QUEUE_BYTES)) == 4
    assert len(newest.pop()) == limits.DATAGRAM_QUEUE_BYTES
    assert not newest


def test_before_the_circuit_is_open_the_newest_wait_and_one_that_is_too_large_is_dropped():
    async def test(plant: Plant):
        grant = plant.grant(transport=DATAGRAMS)
        stream = plant.a.endpoint.open("plc-b.modbus", grant, transport=DATAGRAMS)
        for number in range(6):
            stream.send_datagram(bytes([number]) * 60_000)
        assert stream.datagrams_dropped == 2
        stream.send_datagram(bytes(MAX_DATAGRAM + 1))
        assert stream.datagrams_dropped == 3
        await stream.ready()
        host = plant.b.hosted[0]
        assert [(await host.receive_datagram())[0] for _ in range(4)] == [2, 3, 4, 5]
        stream.send_datagram(bytes(MAX_DATAGRAM))
        assert len(await host.receive_datagram()) == MAX_DATAGRAM
        assert plant.a.endpoint.datagrams_dropped == 3

    story(test)


def test_a_circuit_that_never_opens_counts_what_waited():
    async def test(plant: Plant):
        from overlay.aio.incoming import Incoming

        def refuse(incoming: Incoming) -> None:
            incoming.refuse(Code.UNREACHABLE, "no answer")

        plant.b.serve = refuse
        grant = plant.grant(transport=DATAGRAMS)
        stream = plant.a.endpoint.open("plc-b.modbus", grant, transport=DATAGRAMS)
        for _ in range(5):
            stream.send_datagram(b"?")
        await stream.closed
        stream.send_datagram(b"late")
        assert stream.datagrams_dropped == 6

    story(test)


def test_a_reader_that_stalls_gets_the_newest():
    async def test(plant: Plant):
        grant = plant.grant(transport=DATAGRAMS)
        stream = await plant.a.endpoint.dial("plc-b.modbus", grant, transport=DATAGRAMS)
        host = plant.b.hosted[0]
        for number in range(limits.DATAGRAM_QUEUE + 50):
            stream.send_datagram(b"%d" % number)
        await asyncio.sleep(0.1)
        assert await host.receive_datagram() == b"50"
        assert host.datagrams_dropped == 50
        assert plant.b.endpoint.datagrams_dropped == 50

    story(test)


@pytest.mark.parametrize("seed", range(5))
def test_over_moves_to_other_paths_datagrams_may_be_lost_and_are_never_repeated(seed: int):
    async def test(plant: Plant):
        grant = plant.grant(transport=DATAGRAMS)
        stream = await plant.a.endpoint.dial("plc-b.modbus", grant, transport=DATAGRAMS)
        host = plant.b.hosted[0]
        rng, heard = plant.sim.rng, []

        async def listen() -> None:
            while True:
                heard.append(int(await host.receive_datagram()))

        def mishap(router, link, header, payload):
            """Loss, duplication, and one that overtakes."""
            if header.kind is not Kind.DATAGRAM:
                return None
            dice = rng.random()
            frames = [(header, payload)]
            if dice < 0.1:
                frames = []
            elif dice < 0.2:
                frames *= 2
            elif dice < 0.3:
                held.append((header, payload))
                frames = []
            elif held:
                frames.append(held.pop())
            return frames

        held: list = []
        listening = asyncio.ensure_future(listen())
        for router in plant.routers:
            router.meddle = mishap
        count = 400
        for number in range(count):
            stream.send_datagram(b"%d" % number)
            await asyncio.sleep(0.001)
            if number % 40 == 39:
                held.clear()  # of the old path
                router = next((one for one in plant.routers if one.table), plant.router)
                for link in list(router.links.values()):
                    link.cut()
                for node in (plant.a, plant.b):
                    router.attach(node.endpoint, node.leaf)
        await asyncio.sleep(1)
        listening.cancel()
        assert len(heard) == len(set(heard))
        assert set(heard) <= set(range(count))
        assert len(heard) > count / 2
        assert heard != sorted(heard)  # order is not promised, and was not kept
        assert stream.core.resumes >= 5
        assert heard[-1] > count - 40  # it goes on after the last move
        assert not stream.closed.done()
        assert host.datagrams_dropped > 0  # the copies
        assert plant.a.security == plant.b.security == []

    sim_story(test, seed)


def sim_story(test, seed: int) -> None:
    sim = Simulation(seed)

    async def run():
        plant = Plant(sim, 2)
        await plant.up()
        await test(plant)

    sim.run(run())
