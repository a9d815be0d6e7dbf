"""What a node hosts and holds is bounded: what is too much is refused with a sentence, and what runs goes on (C-05, C-35)."""

import asyncio
from typing import Any

import pytest
from msgspec import structs

from overlay import limits
from overlay.aio import calling, hosting, node_circuits
from overlay.aio.calling import BUSY_TRIES, FRESH_TRIES
from overlay.aio.circuit_roles import Refused
from overlay.aio.incoming import ENDED_BYTES, ENDED_CIRCUITS, ENDED_SECONDS, EndedCircuits
from overlay.aio.node_circuits import CONTROL_PER_CALLER
from overlay.circuit import caller
from overlay.errors import Code
from overlay.identity.certificate import Role
from overlay.wire.bodies import CONTROL_SERVICE, Open, OpenIntent, Refusal
from overlay.wire.codec import decode, encode
from overlay.wire.header import Kind
from tests.support.circuits import Node, Plant
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


@pytest.mark.parametrize("times", [BUSY_TRIES, BUSY_TRIES + 1])
def test_who_is_told_that_too_much_goes_on_asks_again_so_often(times: int):
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        asked: list[int] = []

        def busy(_: object, link: Any, header: Any, __: bytes) -> list[Any] | None:
            if header.kind is not Kind.OPEN:
                return None
            asked.append(header.circuit)
            if len(asked) > times:
                return None
            link.send(Kind.REFUSE, header.circuit, encode(Refusal(Code.BUSY, "a crowd")))
            return []

        plant.router.meddle = busy
        if times > BUSY_TRIES:
            assert (await refusal(plant)).code is Code.BUSY
        else:
            assert await polls(await plant.a.endpoint.dial("plc-b.modbus", plant.grant()))
        assert len(asked) == 1 + BUSY_TRIES

    story(test)


def test_who_is_told_that_nobody_knows_an_association_tries_so_many_and_no_more():
    """A router that says so of each would else have a caller with many hosts open to all of them."""
    hosts = ("edge-b", "edge-c", "edge-d", "edge-e")

    async def test(plant: Plant):
        for name in hosts[1:]:
            other = Node(plant, name, plant.pki.edge(name))
            plant.router.attach(other.endpoint, other.leaf)
        await plant.up()
        for name in hosts:
            await plant.a.endpoint.dial("plc-b.modbus", plant.grant(hosts=(name,)))
        asked: list[int] = []

        def unknown(_: object, link: Any, header: Any, __: bytes) -> list[Any] | None:
            if header.kind is not Kind.OPEN:
                return None
            asked.append(header.circuit)
            refusal = Refusal(Code.UNKNOWN_ASSOCIATION, "no such association")
            link.send(Kind.REFUSE, header.circuit, encode(refusal))
            return []

        plant.router.meddle = unknown
        with pytest.raises(Refused) as caught:
            await plant.a.endpoint.dial("plc-b.modbus", plant.grant(hosts=hosts))
        assert caught.value.code is Code.UNKNOWN_ASSOCIATION
        assert len(asked) == FRESH_TRIES < len(hosts)

    story(test)


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


def with_controller(plant: Plant) -> Node:
    """A controller on the same router, which takes control circuits."""
    node = Node(plant, "controller", plant.controller)
    node.serve = node.echo
    plant.router.attach(node.endpoint, node.leaf)
    return node


def test_one_node_has_so_many_control_circuits_and_takes_none_from_others():
    async def test(plant: Plant):
        controller = with_controller(plant)
        await plant.up()
        old = [await plant.a.endpoint.dial(CONTROL_SERVICE) for _ in range(CONTROL_PER_CALLER)]
        for _ in range(3):
            with pytest.raises(Refused) as caught:
                await plant.a.endpoint.dial(CONTROL_SERVICE)
            assert caught.value.code is Code.BUSY
            assert "as many circuits here as it may" in caught.value.reason
        assert controller.endpoint.hosted == CONTROL_PER_CALLER
        assert await polls(await plant.b.endpoint.dial(CONTROL_SERVICE))
        assert all([await polls(one) for one in old])
        old[0].end()
        await old[0].read()
        await old[0].closed
        await asyncio.sleep(0.1)
        assert await polls(await plant.a.endpoint.dial(CONTROL_SERVICE))

    story(test)


def test_one_caller_has_so_many_circuits_here_and_no_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(node_circuits, "HOSTED_PER_CALLER", 4)

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        old = [await plant.a.endpoint.dial("plc-b.modbus", plant.grant()) for _ in range(4)]
        for _ in range(3):
            refused = await refusal(plant)
            assert refused.code is Code.BUSY
            assert "as many circuits here as it may" in refused.reason
        assert plant.b.endpoint.hosted == 4
        assert all([await polls(one) for one in old])

    story(test)


def test_handshakes_for_control_circuits_are_bounded_and_their_places_come_back():
    async def test(plant: Plant):
        controller = with_controller(plant)
        await plant.up()
        old = await plant.b.endpoint.dial(CONTROL_SERVICE)

        def stall(router, link, header, payload):
            return [] if header.kind is Kind.CREDIT and link.name == "edge-a" else None

        plant.router.meddle = stall
        onward = plant.router.links["controller"]
        opening = plant.a.endpoint.open(CONTROL_SERVICE)
        await asyncio.sleep(0.05)
        payload = next(
            p for one, h, p in plant.router.seen if h.kind is Kind.OPEN and one.name == "edge-a"
        )
        body = decode(Open, payload)
        intent = decode(OpenIntent, body.intent)
        numbers = []
        for count in range(1, hosting.CONTROL_HANDSHAKES + 6):
            name = count.to_bytes(16, "big")
            changed = structs.replace(intent, association=name, circuit=name)
            numbers.append(onward.next_circuit())
            onward.send(Kind.OPEN, numbers[-1], encode(Open(encode(changed), body.flight, b"")))
        await asyncio.sleep(0.05)
        answers = {h.circuit: h.kind for one, h, _ in plant.router.seen if one is onward}
        kinds = [answers[number] for number in numbers]
        room = hosting.CONTROL_HANDSHAKES - 1  # one is the edge's own
        assert kinds == [Kind.ACCEPT] * room + [Kind.REFUSE] * 6
        assert len(controller.endpoint._hosting._handshakes) == hosting.CONTROL_HANDSHAKES
        assert await polls(old)
        with pytest.raises(Refused):
            await opening.ready()
        plant.router.meddle = None
        await asyncio.sleep(limits.HANDSHAKE_PER_GRANT_SECONDS)
        assert controller.endpoint._hosting._handshakes == {}
        assert await polls(await plant.a.endpoint.dial(CONTROL_SERVICE))

    story(test)


def test_handshakes_are_bounded_in_all_however_many_grants_there_are(monkeypatch):
    """Who holds many grants, or a router that has seen many, fills a host's memory for three seconds and no more."""
    monkeypatch.setattr(hosting, "HANDSHAKES", 4)

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        old = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        _, payload = next((h, p) for _, h, p in plant.router.seen if h.kind is Kind.OPEN)
        body = decode(Open, payload)
        intent = decode(OpenIntent, body.intent)
        onward, numbers = plant.router.links["edge-b"], []
        for count in range(7):
            name = count.to_bytes(16, "big")
            grant = plant.grant(conduit=f"c-{count}")
            changed = structs.replace(intent, association=name, circuit=name, grant=grant)
            numbers.append(onward.next_circuit())
            onward.send(Kind.OPEN, numbers[-1], encode(Open(encode(changed), body.flight, b"")))
        await asyncio.sleep(0.05)
        answers = {h.circuit: h.kind for one, h, _ in plant.router.seen if one is onward}
        assert [answers[one] for one in numbers] == [Kind.ACCEPT] * 4 + [Kind.REFUSE] * 3
        assert await polls(old)
        await asyncio.sleep(limits.HANDSHAKE_PER_GRANT_SECONDS)
        assert plant.b.endpoint._hosting._handshakes == {}

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
@pytest.mark.parametrize("loop", ["home", "bulk"])
def test_a_node_whose_memory_is_full_begins_nothing_new_and_harms_nothing_old(side: str, loop: str):
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        old = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        endpoint = (plant.b if side == "host" else plant.a).endpoint
        memory = endpoint.memory if loop == "home" else endpoint.use_lanes().bulk.memory
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


def test_no_open_is_so_late_that_its_host_has_forgotten_the_association():
    """C-03, C-16: what a program has said already would be lost with it."""
    assert caller.REST > calling.OPEN_SECONDS

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        await asyncio.sleep(limits.ASSOCIATION_LIFE - 0.5)
        for link in plant.router.links.values():
            link.other.latency = link.latency = 0.5
        stream = plant.a.endpoint.open("plc-b.modbus", plant.grant(), early=b"poll")
        assert await stream.read() == b"poll"

    story(test)


def test_an_association_goes_on_with_its_key_after_its_host_has_renewed():
    """E-08: its circuits are signed by the key that the caller has seen, whatever the host shows to others now."""

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        plant.b.credentials = plant.pki.node(Role.EDGE, "edge-b", number=1)
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        for _ in range(2):
            assert await polls(stream)
            await asyncio.sleep(2 * limits.CHECKPOINT_INTERVAL)
        stream.end()
        assert (await stream.closed).receipt.host.frames == 2
        assert plant.a.security == plant.b.security == []

    story(test)


def test_early_data_takes_no_memory_once_the_circuit_is_open():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        early = bytes(limits.MAX_EARLY_DATA)
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant(), early=early)
        opening = plant.a.endpoint._outgoing[stream.circuit_id]._opening
        assert len(opening.payload((), ())) < 2048
        assert len(await stream.read()) == len(early)

    story(test)


class _Ended:
    """An ended circuit, as far as it is kept."""

    def __init__(self, number: int, size: int) -> None:
        self.circuit_id = number.to_bytes(16, "big")
        self.core = self
        self.kept_bytes = size
        self.forgotten = False

    def forget(self) -> None:
        self.forgotten = True


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
