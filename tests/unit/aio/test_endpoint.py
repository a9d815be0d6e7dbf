"""Circuits between two endpoints through routers that forward frames, in virtual time."""

import asyncio

import pytest

from overlay import limits
from overlay.aio import incoming
from overlay.aio.circuit_roles import Refused
from overlay.aio.incoming import ACCEPT_WITHIN
from overlay.aio.tasks import spawn
from overlay.errors import Code
from overlay.wire.bodies import DATAGRAMS, Open
from overlay.wire.codec import decode
from overlay.wire.header import Kind
from tests.support.circuits import LATENCY, Plant
from tests.support.simulation import Simulation


def story(test, routers: int = 1):
    """Run a coroutine function in a plant."""
    sim = Simulation(seed=1)

    async def run():
        plant = Plant(sim, routers)
        await plant.up()
        return await test(plant)

    return sim.run(run())


async def read_all(stream) -> bytes:
    parts = []
    while data := await stream.read():
        parts.append(data)
    return b"".join(parts)


def test_a_circuit_carries_bytes_both_ways_and_ends_with_a_receipt():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        assert stream.key_exchange == "X25519MLKEM768"
        await stream.write(b"read holding registers")
        assert await stream.read() == b"read holding registers"
        stream.end()
        assert await stream.read() == b""
        end = await stream.closed
        host = await plant.b.hosted[0].closed
        assert (end.code, end.bytes_in, end.bytes_out) == (Code.NORMAL, 22, 22)
        assert end == host
        assert end.receipt.caller.bytes == end.receipt.host.bytes == 22
        await asyncio.sleep(0.1)
        assert plant.router.table == {}
        assert plant.a.endpoint.live() == plant.b.endpoint.live() == []
        assert plant.b.hosted[0].path == ("edge-a", "router-1", "edge-b")
        assert plant.a.security == plant.b.security == []

    story(test)


def kinds(router, number: int = 0) -> list[Kind]:
    return [header.kind for _, header, _ in router.seen[number:]]


def test_later_circuits_cost_no_handshake_and_carry_early_data():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        first = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        before, began = len(plant.router.seen), plant.sim.loop.time()
        stream = plant.a.endpoint.open("plc-b.modbus", plant.grant(), early=b"poll")
        assert await stream.read() == b"poll"
        assert (
            plant.sim.loop.time() - began < 0.0045
        )  # one round trip over two hops of 1 ms, the dial of the host included
        openings = [
            (h, p) for _, h, p in plant.router.seen[before:] if h.kind in (Kind.OPEN, Kind.ACCEPT)
        ]
        assert all(len(p) < 700 for _, p in openings)  # no certificates
        assert stream.core.names.association == first.core.names.association
        stream.end()
        assert await stream.read() == b""
        end = await stream.closed
        assert (end.bytes_in, end.receipt.caller.bytes, end.receipt.caller.frames) == (4, 4, 1)

    story(test)


def test_connect_poll_and_close_cost_five_frames_where_the_asset_answers_at_once():
    """C-14, C-30, L-38: the answer comes with ACCEPT, ends acknowledge each other, and no RESET follows."""

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        number = len(plant.router.seen)
        stream = plant.a.endpoint.open("plc-b.modbus", plant.grant(), early=b"poll")
        assert await stream.read() == b"poll"
        assert kinds(plant.router, number) == [Kind.OPEN, Kind.ACCEPT]
        stream.end()
        end = await stream.closed
        assert end == await plant.b.hosted[-1].closed
        assert (end.code, end.receipt.caller.bytes, end.receipt.host.bytes) == (Code.NORMAL, 4, 4)
        await asyncio.sleep(1.0)
        assert kinds(plant.router, number)[2:] == [Kind.CLOSE, Kind.CLOSE, Kind.CREDIT]
        assert len(plant.router.table) == 2, "only the first circuit is open"

    story(test)


def test_accept_does_not_wait_for_an_asset_that_is_slow():
    async def test(plant: Plant):
        slow = asyncio.Event()

        def serve(incoming):
            async def run() -> None:
                await slow.wait()
                stream = await incoming.accept()
                await stream.write(await stream.read())

            plant.b.tasks.append(spawn(run(), "slow"))

        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        plant.b.serve = serve
        number = len(plant.router.seen)
        stream = plant.a.endpoint.open("plc-b.modbus", plant.grant(), early=b"poll")
        await asyncio.sleep(2 * LATENCY + ACCEPT_WITHIN)
        assert kinds(plant.router, number) == [Kind.OPEN]
        await asyncio.sleep(2 * LATENCY)
        assert kinds(plant.router, number) == [Kind.OPEN, Kind.ACCEPT]
        slow.set()
        assert await stream.read() == b"poll"
        assert kinds(plant.router, number)[2:] == [Kind.READY, Kind.DATA]

    story(test)


def test_not_more_than_so_many_accepts_wait(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(incoming, "ACCEPTS_WAITING", 2)

    async def test(plant: Plant):
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        number = len(plant.router.seen)
        plant.b.serve = lambda _: None
        for _ in range(5):
            plant.a.endpoint.open("plc-b.modbus", plant.grant(), early=b"poll")
        await asyncio.sleep(3.5 * LATENCY)
        assert kinds(plant.router, number) == [Kind.OPEN] * 5 + [Kind.ACCEPT] * 3
        await asyncio.sleep(ACCEPT_WITHIN)
        assert kinds(plant.router, number) == [Kind.OPEN] * 5 + [Kind.ACCEPT] * 5
        assert not plant.b.endpoint._hosting._waiting

    story(test)


def test_early_data_waits_for_keys_where_another_host_may_have_to_serve():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        number = len(plant.router.seen)
        grant = plant.grant(hosts=("edge-b", "edge-c"))
        stream = plant.a.endpoint.open("plc-b.modbus", grant, early=b"poll")
        assert await stream.read() == b"poll"
        opening = next(p for _, h, p in plant.router.seen[number:] if h.kind is Kind.OPEN)
        assert len(decode(Open, opening).early) == limits.TAG_SIZE
        assert kinds(plant.router, number).count(Kind.DATA) == 2

    story(test)


def test_fifty_at_once_share_one_handshake():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        streams = await asyncio.gather(
            *(
                plant.a.endpoint.dial("plc-b.modbus", plant.grant(), early=b"%d" % n)
                for n in range(50)
            )
        )
        for number, stream in enumerate(streams):
            assert await stream.read() == b"%d" % number
        flights = [p for _, h, p in plant.router.seen if h.kind is Kind.OPEN and len(p) > 1200]
        assert len(flights) == 1

    story(test)


def test_bulk_is_not_lost_and_the_window_grows_with_the_way():
    async def test(plant: Plant):
        data = bytes(range(256)) * 4096 * 8  # 8 MiB
        for router in plant.routers:
            for link in router.links.values():
                link.latency = link.other.latency = 0.05
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        host = plant.b.hosted[0]

        async def send():
            await stream.write(data)
            stream.end()

        began = plant.sim.loop.time()
        got, _ = await asyncio.gather(read_all(host), send())
        assert got == data
        assert host.core._receiving.window > limits.INITIAL_WINDOW
        # with the first window alone it would be 32 round trips of 0.2 s
        assert plant.sim.loop.time() - began < 3.0
        host.end()
        assert (await stream.closed).receipt.caller.bytes == len(data)

    story(test)


def test_a_slow_reader_stops_the_writer_within_one_window():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        writing = asyncio.ensure_future(stream.write(bytes(4 * 1024 * 1024)))
        await asyncio.sleep(5)
        host = plant.b.hosted[0]
        assert not writing.done()
        assert sum(map(len, host._inbox)) <= limits.INITIAL_WINDOW
        assert stream.core.kept_bytes <= limits.INITIAL_WINDOW + 4096
        got = 0
        while got < 4 * 1024 * 1024:
            got += len(await host.read())
        await writing
        stream.abort(Code.NORMAL, "")

    story(test)


def test_many_small_frames_are_bounded_too():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        plant.router.meddle = lambda router, link, header, payload: (
            [] if header.kind is Kind.CREDIT else None
        )
        sent = 0
        while stream.room():
            stream.send(b"x")
            sent += 1
        assert sent == 1024
        plant.router.meddle = None
        stream.abort(Code.NORMAL, "")

    story(test)


def test_half_close_leaves_the_other_direction_open():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        host = plant.b.hosted[0]
        stream.end()
        assert await host.read() == b""
        await host.write(b"a late answer")
        assert await stream.read() == b"a late answer"
        host.end()
        assert await stream.read() == b""
        assert (await host.closed).code is Code.NORMAL

    story(test)


def test_an_abort_tells_the_other_side_why():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        host = plant.b.hosted[0]
        host.abort(Code.LOCAL_KILL, "someone pulled the switch")
        with pytest.raises(ConnectionResetError, match="pulled the switch"):
            await stream.read()
        assert (await stream.closed).code is Code.LOCAL_KILL
        await asyncio.sleep(0.1)
        assert plant.router.table == {}

    story(test)


def test_cut_ends_what_matches_and_live_says_what_is_left():
    async def test(plant: Plant):
        one = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        other = await plant.a.endpoint.dial("plc-b.web", plant.grant(service="plc-b.web"))
        facts = plant.b.endpoint.live()
        assert [fact.service for fact in facts] == ["plc-b.modbus", "plc-b.web"]
        assert facts[0].path == ("edge-a", "router-1", "edge-b")
        assert facts[0].hosting
        count = plant.b.endpoint.cut(
            lambda grant, circuit, peer: grant.service == "plc-b.web" and peer.identity.name == "edge-a",
            Code.KILLED, "a kill is active",
        )  # fmt: skip
        assert count == 1
        assert (await other.closed).code is Code.KILLED
        assert [fact.circuit_id for fact in plant.a.endpoint.live()] == [one.circuit_id]

    story(test)


def test_the_host_says_why_not_and_the_association_lives_on():
    async def test(plant: Plant):
        plant.b.serve = lambda incoming: incoming.refuse(
            Code.UNREACHABLE, "the asset refused the connection"
        )
        with pytest.raises(Refused, match="the asset refused") as caught:
            await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        assert caught.value.code is Code.UNREACHABLE
        plant.b.serve = plant.b.echo
        before = len(plant.router.seen)
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        assert all(len(p) < 1000 for _, h, p in plant.router.seen[before:] if h.kind is Kind.OPEN)

    story(test)


def test_without_a_host_or_a_link_the_refusal_comes_at_once():
    async def test(plant: Plant):
        grant = plant.grant(hosts=("edge-c",))
        with pytest.raises(Refused) as caught:
            await plant.a.endpoint.dial("plc-b.modbus", grant)
        assert caught.value.code is Code.NO_ROUTE
        plant.router.links["edge-a"].cut()
        await asyncio.sleep(0.01)
        with pytest.raises(Refused, match="no router"):
            plant.a.endpoint.open("plc-b.modbus", plant.grant())

    story(test)


def test_datagrams_keep_their_boundaries_and_are_not_repeated():
    async def test(plant: Plant):
        grant = plant.grant(transport=DATAGRAMS)
        stream = plant.a.endpoint.open("plc-b.modbus", grant, transport=DATAGRAMS)
        for number in range(limits.DATAGRAM_QUEUE + 5):
            stream.send_datagram(b"early %d" % number)
        assert stream.dropped == 5  # the oldest
        await stream.ready()
        host = plant.b.hosted[0]
        assert await host.receive_datagram() == b"early 5"
        copies = []

        def twice(router, link, header, payload):
            if header.kind is Kind.DATAGRAM:
                copies.append(header)
                return [(header, payload), (header, payload)]
            return None

        plant.router.meddle = twice
        while host._arrived:
            host._arrived.pop()
        stream.send_datagram(b"x" * 65_507)
        stream.send_datagram(b"")
        assert len(await host.receive_datagram()) == 65_507
        assert await host.receive_datagram() == b""
        host.send_datagram(b"back")
        assert await stream.receive_datagram() == b"back"
        assert len(host._arrived) == 0
        assert host.core.datagrams.dropped == 2
        stream.end()
        with pytest.raises(ConnectionResetError):
            stream.abort(Code.IDLE, "quiet")
            await host.receive_datagram()

    story(test)
