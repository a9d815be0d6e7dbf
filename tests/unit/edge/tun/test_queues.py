"""A device has several queues: a flow keeps to one of them, in order, and short answers do not wait in it."""

import socket
from typing import Any

import pytest

from edge.packets import virtio
from edge.packets.checksum import holds, pseudo_header
from edge.packets.ip import TCP, read_packet
from edge.tun.prompt import SHORT, PromptConnection
from edge.tun.stack import CARRIED, CARRIED_BYTES
from tests.unit.edge.tun.test_stack import FAKE, HMI, ME, PLC, Bench, opened, segment, turn


@pytest.fixture
async def bench():
    made = Bench()
    yield made
    await made.close()


@pytest.mark.parametrize("held", [False, True])
async def test_all_of_a_flow_goes_by_the_queue_of_its_syn(held: bool):
    """The kernel puts a flow where it was written last, so it would come by two queues, and overtake itself."""
    bench = Bench(at_once=not held)
    bench.put(segment(2), queue=1)
    if held:
        bench.put(segment(2, ports=(50_001, 502)), queue=0)
        bench.streams[0].opened.set_result(None)
        await turn()
    flow = next(iter(bench.nat))
    assert flow.queue == bench.pairs[1][0].fileno()
    answer = segment(0x12, ME, FAKE, (4000, flow.port))
    bench.put(answer, queue=0)
    for queue in (0, 1):
        bench.put(segment(0x10), queue=queue)
        bench.put(segment(0x18, ME, FAKE, (4000, flow.port), b"data"), queue=queue)
    bench.put(segment(0x18, options=b"\1\1\1\0"), queue=0)
    passed = [read_packet(memoryview(one)[10:]) for one in bench.taken(1)]
    to_me, to_hmi = (FAKE, ME), (PLC, HMI)
    ways = [to_me, to_hmi, to_me, to_hmi, to_me, to_hmi, to_me]
    assert [(one.source, one.destination) for one in passed] == ways
    assert bench.taken(0) == []
    await bench.close()


async def test_the_answer_to_a_syn_takes_the_fast_path(bench: Bench, monkeypatch: Any):
    flow = await opened(bench)
    monkeypatch.setattr(bench.stack, "packet", None)
    bench.put(segment(0x12, ME, FAKE, (4000, flow.port)))
    (answer,) = bench.taken()
    packet = read_packet(memoryview(answer)[10:])
    assert (packet.source, packet.destination) == (PLC, HMI)
    body = memoryview(answer)[10:][packet.start : packet.end]
    assert holds(body, pseudo_header(packet.source, packet.destination, TCP, len(body)))
    assert holds(memoryview(answer)[10:30])


async def test_what_is_carried_on_does_not_disturb_a_packet_that_is_being_handled(bench: Bench):
    """Whoever handles a packet may write to a connection: what that brings is read in the next turn."""
    flow = await opened(bench)
    said: list[bytes] = []

    def handle(written: memoryview) -> None:
        bench.kernel.send(virtio.PLAIN + segment(0x10))
        bench.ground.carry(flow.queue)
        said.append(bytes(written))

    bench.stack.packet = handle  # type: ignore[method-assign]
    odd = segment(0x10, options=b"\1\1\1\0")
    bench.put(odd)
    assert said == [virtio.PLAIN + odd]
    assert bench.taken() == []
    await turn()
    assert len(bench.taken()) == 1
    bench.stack.stop()
    bench.kernel.send(virtio.PLAIN + segment(0x10))
    bench.ground.carry(flow.queue)
    assert bench.taken() == [], "nothing is read of a device that is not read any more"


@pytest.mark.parametrize("size", [0, CARRIED_BYTES])
async def test_an_answer_takes_few_packets_along_and_the_rest_waits_its_turn(
    bench: Bench, size: int
):
    flow = await opened(bench)
    for _ in range(3 * CARRIED):
        bench.kernel.send(virtio.PLAIN + segment(0x10, payload=bytes(size)))
    bench.ground.carry(flow.queue)
    assert len(bench.taken()) == (1 if size else CARRIED)
    bench.ground.carry(flow.queue)
    assert len(bench.taken()) == (1 if size else CARRIED)
    await turn()
    assert len(bench.taken()) == 3 * CARRIED - (2 if size else 2 * CARRIED)


@pytest.mark.parametrize(("length", "carried"), [(1, 1), (SHORT, 1), (SHORT + 1, 0)])
async def test_a_short_answer_is_carried_on_in_the_turn_that_wrote_it(length: int, carried: int):
    told: list[int] = []
    theirs, ours = socket.socketpair()
    connection = PromptConnection(ours, ("100.64.0.2", 1025))
    assert connection.write([b"nobody carries it yet"]) == 21
    connection.carry = lambda: told.append(len(theirs.recv(4096)))
    theirs.recv(4096)
    assert connection.write([bytes(length)]) == length
    assert told == [length] * carried
    connection.release()
    connection.write([b"in another event loop"])
    assert len(told) == carried
    connection.abort()
    theirs.close()
