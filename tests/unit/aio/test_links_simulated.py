"""Link drivers over the simulated network: real handshakes, virtual time, faults of the wire."""

import asyncio
import itertools
from collections.abc import Callable

import pytest

from overlay import limits
from overlay.aio import link_listener
from overlay.aio.dialer import Dialer
from overlay.aio.link_driver import LinkDriver
from overlay.aio.link_listener import LinkListener
from overlay.errors import Code, FerruleError, ProtocolError, TrustError
from overlay.identity.keys import SigningKey
from overlay.identity.trust import Credentials
from overlay.link.link import LinkRefused
from overlay.link.liveness import SUSPECT_AT_MOST
from overlay.wire.bodies import Attach
from overlay.wire.header import Kind
from tests.support.links import PKI, ROUTER, Notes, Pair, dial, listen, now
from tests.support.simulation import Simulation

MODES = ["header", "full", "tls"]
MODE = pytest.mark.parametrize("mode", MODES)


async def linked(sim: Simulation, **options) -> Pair:
    """An edge on one host, a router on another."""
    near, far = Notes(), Notes()
    router = sim.host("router")
    listener = await router.task(listen(router.world, far))
    edge = sim.host("edge")
    link = await edge.task(dial(edge.world, ("router", listener.local[1]), near, **options))
    await far.until(lambda: bool(far.links))
    return Pair(listener, near, far, link)


def run(story: Callable, seed: int = 0):
    sim = Simulation(seed)
    return sim.run(story(sim)), sim


def open_circuit(link: LinkDriver) -> int:
    number = link.next_circuit()
    assert link.send(Kind.OPEN, number, b"open")
    return number


@MODE
@pytest.mark.parametrize("seed", range(3))
def test_frames_arrive_whole_and_in_order_through_short_reads(mode: str, seed: int):
    async def story(sim: Simulation):
        both = await linked(sim, mode=mode)
        sim.net.short_reads = seed > 0
        number = open_circuit(both.link)
        sizes = [0, 1, 100, 20_000, limits.MAX_DATA, 5]
        for sequence, size in enumerate(sizes):
            both.link.send(Kind.DATA, number, bytes([sequence]) * size, sequence=sequence)
        await both.far.until(lambda: len(both.far.frames) == 1 + len(sizes), 100)
        for sequence, size in enumerate(sizes):
            assert both.far.frames[1 + sequence] == (
                Kind.DATA, number, sequence, bytes([sequence]) * size
            )  # fmt: skip
        both.other.send(Kind.ACCEPT, number, b"yes")
        await both.near.until(lambda: bool(both.near.frames), 100)
        assert both.near.frames == [(Kind.ACCEPT, number, 0, b"yes")]
        both.other.send_control(Attach((b"news",)))
        await both.near.until(lambda: bool(both.near.bodies), 100)

    run(story, seed)


def test_a_payload_that_is_not_kept_may_change_at_once():
    async def story(sim: Simulation):
        both = await linked(sim)
        number = open_circuit(both.link)
        memory = bytearray(100_000)
        for sequence in range(20):  # more than the wire takes
            memory[:] = bytes([sequence]) * len(memory)
            both.link.send(Kind.DATA, number, memoryview(memory), sequence=sequence)
        memory[:] = bytes(len(memory))
        await both.far.until(lambda: len(both.far.frames) == 21, 100)
        assert all(data == bytes([seq]) * 100_000 for _, _, seq, data in both.far.frames[1:])

    run(story)


@MODE
def test_control_overtakes_bulk_and_room_is_told(mode: str):
    async def story(sim: Simulation):
        both = await linked(sim, mode=mode)
        sim.net.bandwidth = 1_000_000.0
        number = open_circuit(both.link)
        for sequence in range(16):
            both.link.send(Kind.DATA, number, bytes(limits.MAX_DATA), sequence=sequence)
        assert both.link.backlog(number) > 0
        await asyncio.sleep(0.1)
        both.link.send(Kind.CREDIT, number, b"credit")
        await both.far.until(lambda: any(f[0] is Kind.CREDIT for f in both.far.frames), 100)
        assert sum(f[0] is Kind.DATA for f in both.far.frames) < 6
        await both.far.until(lambda: len(both.far.frames) == 18, 100)
        assert both.near.rooms == [number]
        assert both.near.ends == []  # busy is not dead

    run(story)


@pytest.mark.parametrize("fault", ["cut", "freeze"])
@MODE
def test_a_dead_peer_is_found_within_three_seconds(mode: str, fault: str):
    async def story(sim: Simulation):
        both = await linked(sim, mode=mode)
        await asyncio.sleep(60)
        assert both.near.ends == both.far.ends == []
        began = sim.loop.time()
        if fault == "cut":
            sim.net.cut("edge", "router")
        else:
            sim.host("router").freeze()
        await both.near.until(lambda: bool(both.near.ends), 100)
        assert sim.loop.time() - began <= limits.DEAD_AFTER + 0.1
        assert both.near.ends[0][0] is Code.PATH_LOST
        await asyncio.sleep(10)
        if fault == "cut":
            assert both.far.ends[0][0] is Code.PATH_LOST

    run(story)


def test_an_idle_link_wakes_each_side_once_a_second_when_all_else_does(monkeypatch):
    looks: list[tuple[bool, float]] = []
    tick = LinkDriver._tick

    def counted(link: LinkDriver) -> None:
        looks.append((link.dialer, asyncio.get_running_loop().time()))
        tick(link)

    monkeypatch.setattr(LinkDriver, "_tick", counted)

    async def story(sim: Simulation):
        both = await linked(sim)
        open_circuit(both.link)
        await asyncio.sleep(5)
        looks.clear()
        pings = both.far.links[0].bytes_in
        await asyncio.sleep(20)
        assert both.near.ends == both.far.ends == []
        for dialer in (True, False):
            assert 18 <= sum(who is dialer for who, _ in looks) <= 21
        assert all(abs(at - round(at)) < 0.002 for _, at in looks)
        assert both.far.links[0].bytes_in - pings <= 21 * 64, "one side asks, the other answers"

    run(story)


def test_a_peer_that_takes_nothing_is_dead_even_when_it_talks():
    async def story(sim: Simulation):
        both = await linked(sim)
        both.other._connection.pause()  # its keepalive goes on, but it reads nothing
        number = open_circuit(both.link)
        for _ in range(8):
            both.link.send(Kind.DATA, number, bytes(limits.MAX_DATA))
        began = sim.loop.time()
        both.other._link.tick = lambda *_, **__: None  # type: ignore[method-assign]
        both.other._link.deadline = lambda now: now + 1  # type: ignore[method-assign]

        async def talk():
            while True:
                await asyncio.sleep(0.5)
                both.other.send_control(Attach(()))

        sim.host("router").start(talk())
        await both.near.until(lambda: bool(both.near.ends), 100)
        assert sim.loop.time() - began < limits.DEAD_AFTER + limits.PING_INTERVAL + 0.5
        assert both.near.ends[0][0] is Code.PATH_LOST

    run(story)


def test_a_peer_that_does_not_read_cannot_make_control_grow():
    async def story(sim: Simulation):
        both = await linked(sim)
        both.other._connection.pause()
        body = Attach((bytes(200_000),))
        for _ in range(limits.LINK_CONTROL_BYTES // 200_000 + 10):
            both.link.send_control(body)
        await both.near.until(lambda: bool(both.near.ends), 100)
        assert both.near.ends[0][0] is Code.BUSY
        assert both.link.total_backlog <= limits.LINK_CONTROL_BYTES + 200_100

    run(story)


def test_a_peer_that_does_not_read_cannot_make_answers_grow():
    async def story(sim: Simulation):
        both = await linked(sim)
        both.other._connection.pause()
        number = open_circuit(both.link)
        for _ in range(limits.LINK_CONTROL_BYTES // 16_000 + 10):
            both.link.send(Kind.CREDIT, number, bytes(16_000))
        await both.near.until(lambda: bool(both.near.ends), 100)
        assert both.near.ends[0][0] is Code.BUSY
        assert both.link.total_backlog <= limits.LINK_CONTROL_BYTES + 16_100

    run(story)


def tamper(kind: str) -> Callable[[list[bytes]], list[bytes]]:
    """What an attacker on the wire does to the chunks that a link wrote, each one a whole record or more."""

    def change(chunks: list[bytes]) -> list[bytes]:
        if kind == "flipped":
            one = bytearray(chunks[0])
            one[len(one) // 2] ^= 1
            return [bytes(one), *chunks[1:]]
        if kind == "dropped":
            return chunks[1:]
        if kind == "repeated":
            return [chunks[0], *chunks]
        return [chunks[1], chunks[0], *chunks[2:]]

    return change


@pytest.mark.parametrize("kind", ["flipped", "dropped", "repeated", "reordered"])
@MODE
def test_a_changed_record_ends_the_link_and_is_found(mode: str, kind: str):
    async def story(sim: Simulation):
        both = await linked(sim, mode=mode)
        number = open_circuit(both.link)
        await both.far.until(lambda: bool(both.far.frames))
        held: list[bytes] = []
        change = tamper(kind)

        def attack(source: str, _: str, data: bytes) -> bytes:
            if source != "edge" or len(held) == 3:
                return data
            held.append(data)
            return b"" if len(held) < 3 else b"".join(change(held))

        sim.net.filter = attack
        for sequence in range(3):
            both.link.send(Kind.CREDIT, number, b"c" * 50, sequence=sequence)
            await asyncio.sleep(0.01)
        await both.far.until(lambda: bool(both.far.ends))
        code, _, found = both.far.ends[0]
        assert (code, found) == (Code.TAMPER, True)
        delivered = [frame for frame in both.far.frames if frame[0] is Kind.CREDIT]
        assert [frame[2] for frame in delivered] == list(range(len(delivered)))  # nothing twice
        await both.near.until(lambda: bool(both.near.ends))
        assert both.near.ends[0][2] is False  # the other side did not find it

    run(story)


def test_payload_of_data_is_the_circuits_own_affair_in_header_mode():
    """The header is sealed, the payload is sealed end to end: a router cannot see that it was changed."""

    async def story(sim: Simulation):
        both = await linked(sim)
        number = open_circuit(both.link)
        await both.far.until(lambda: bool(both.far.frames))
        sim.net.filter = lambda source, _, data: (
            data[:-1] + bytes([data[-1] ^ 1]) if source == "edge" else data
        )
        both.link.send(Kind.DATA, number, b"\0" * 30)
        await both.far.until(lambda: len(both.far.frames) == 2)
        assert both.far.frames[1][3] == b"\0" * 29 + b"\1"
        assert both.far.ends == []

    run(story)


def test_a_protocol_error_of_the_peer_or_the_owner_ends_the_link_with_its_code():
    async def story(sim: Simulation):
        both = await linked(sim)
        both.link._link.may_send = lambda kind, circuit, flags=0: True  # type: ignore[method-assign]
        both.link.send(Kind.ACCEPT, 1, b"")
        await both.far.until(lambda: bool(both.far.ends))
        assert both.far.ends[0][0] is Code.PROTOCOL
        assert both.far.ends[0][2]
        await both.near.until(lambda: bool(both.near.ends))
        assert both.near.ends[0] == (Code.PROTOCOL, both.far.ends[0][1], False)

        again = await linked(sim)

        def refuse(*_: object) -> None:
            raise ProtocolError("not that", Code.REVOKED)

        again.far.on_frame = refuse
        open_circuit(again.link)
        await again.near.until(lambda: bool(again.near.ends))
        assert again.near.ends[0][:2] == (Code.REVOKED, "not that")

    run(story)


def test_a_defect_of_the_owner_costs_the_link_and_no_more():
    async def story(sim: Simulation):
        both = await linked(sim)

        def fail(*_: object) -> None:
            raise ZeroDivisionError

        both.far.on_frame = fail
        open_circuit(both.link)
        await both.near.until(lambda: bool(both.near.ends))
        assert both.near.ends[0][0] is Code.PROTOCOL

    run(story)


def test_goodbye_says_why_and_later_frames_are_dropped():
    async def story(sim: Simulation):
        both = await linked(sim)
        both.other.goodbye(Code.GOING_AWAY, "draining")
        await asyncio.sleep(0.1)
        assert both.link.going_away
        assert both.near.ends == []
        both.other.goodbye(Code.REVOKED, "edge-a is revoked")
        assert not both.other.send(Kind.OPEN, both.other.next_circuit())
        await both.near.until(lambda: bool(both.near.ends))
        assert both.near.ends == [(Code.REVOKED, "edge-a is revoked", False)]
        await both.link.wait_closed()
        await both.other.wait_closed()
        assert both.far.ends == [(Code.REVOKED, "edge-a is revoked", False)]
        assert not both.listener.links

    run(story)


def test_a_reset_for_a_kill_leaves_at_once_and_any_other_behind_its_queue():
    async def story(sim: Simulation):
        both = await linked(sim)
        sim.net.bandwidth = 2_000_000.0
        one, other = open_circuit(both.link), open_circuit(both.link)
        for number in (one, other):
            for _ in range(4):
                both.link.send(Kind.DATA, number, bytes(limits.MAX_DATA))
        both.link.reset(one, Code.KILLED, "killed")
        both.link.reset(other, Code.PATH_LOST, "gone")
        await both.far.until(lambda: sum(f[0] is Kind.RESET for f in both.far.frames) == 2, 100)
        data = [f[1] for f in both.far.frames if f[0] is Kind.DATA]
        assert data.count(other) == 4
        assert data.count(one) < 4
        await asyncio.sleep(1)
        assert (both.link.circuits, both.other.circuits) == (0, 0)

    run(story)


def test_refusals_are_sealed_and_say_why():
    async def story(sim: Simulation):
        router, edge = sim.host("router"), sim.host("edge")
        far = Notes()
        listener = await router.task(
            listen(router.world, far, refuse=lambda opened: (Code.REVOKED, "edge-a is revoked"))
        )
        with pytest.raises(LinkRefused, match="edge-a is revoked") as caught:
            await edge.task(dial(edge.world, ("router", listener.local[1]), Notes()))
        assert caught.value.code is Code.REVOKED
        assert far.links == []
        await asyncio.sleep(5)
        assert not listener.links
        full = await router.task(listen(router.world, far, max_links=0))
        with pytest.raises(LinkRefused, match="too many links"):
            await edge.task(dial(edge.world, ("router", full.local[1]), Notes()))

    run(story)


def test_a_dialer_takes_nobody_but_the_router_it_wants():
    async def story(sim: Simulation):
        router, edge = sim.host("router"), sim.host("edge")
        for options, expect in (
            ({"credentials": PKI.edge("edge-b")}, None),
            ({}, "router-2"),
            (
                {"credentials": Credentials.newcomer(PKI.anchor, SigningKey.generate(b"x" * 32))},
                None,
            ),
        ):
            far = Notes()
            listener = await router.task(listen(router.world, far, **options))
            with pytest.raises((FerruleError, OSError)):
                await edge.task(
                    dial(edge.world, ("router", listener.local[1]), Notes(), expect=expect)
                )
            await asyncio.sleep(5)
            assert far.links == []

        def revoked(_: object) -> None:
            raise TrustError("router-1 is revoked")

        listener = await router.task(listen(router.world, Notes()))
        with pytest.raises(TrustError, match="router-1 is revoked"):
            await edge.task(
                dial(
                    edge.world,
                    ("router", listener.local[1]),
                    Notes(),
                    expect="router-1",
                    admit=revoked,
                )
            )

    run(story)


def test_before_authentication_places_and_time_are_bounded():
    async def story(sim: Simulation):
        router = sim.host("router")
        far, failures = Notes(), []
        listener = await router.task(
            listen(router.world, far, failed=lambda source, error: failures.append((source, error)))
        )
        address = ("router", listener.local[1])
        idle = []
        for number in range(10):
            stranger = sim.host(f"stranger-{number}")
            idle += [await stranger.task(stranger.world.net.connect(*address)) for _ in range(20)]
        await asyncio.sleep(1)
        open_to_all = limits.HANDSHAKES_AT_ONCE - limits.HANDSHAKES_RESERVED
        assert len(listener._pending) == open_to_all
        assert listener.refused == len(idle) - open_to_all
        edge = sim.host("edge")
        with pytest.raises((FerruleError, OSError)):
            await edge.task(dial(edge.world, address, Notes()))
        await asyncio.sleep(limits.HANDSHAKE_SECONDS)
        assert listener._pending == {}
        assert len(failures) == open_to_all
        assert all(isinstance(error, TimeoutError) for _, error in failures)
        link = await edge.task(dial(edge.world, address, Notes()))
        assert link.name == "router-1"
        for number in range(10):  # all public places are taken again
            stranger = sim.host(f"stranger-{number}")
            idle += [await stranger.task(stranger.world.net.connect(*address)) for _ in range(20)]
        await asyncio.sleep(0.1)
        again = await edge.task(dial(edge.world, address, Notes()))  # the known source has its own
        assert again.name == "router-1"

    run(story)


def test_a_listener_remembers_so_many_sources_that_authenticated(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(link_listener, "KNOWN_SOURCES", 3)

    async def story(sim: Simulation):
        router = sim.host("router")
        listener = await router.task(listen(router.world, Notes()))
        for number in range(5):
            edge = sim.host(f"edge-{number}")
            await edge.task(dial(edge.world, ("router", listener.local[1]), Notes()))
        assert len(listener._handshakes._welcome) == 3

    run(story)


def test_a_newcomer_gets_one_small_short_circuit():
    newcomer = Credentials.newcomer(PKI.anchor, SigningKey.generate(b"n" * 32))

    async def story(sim: Simulation):
        both = await linked(sim, credentials=newcomer, enrol=True)
        assert both.other.newcomer
        assert both.other.peer is None
        assert both.other.peer_public == newcomer.key.public
        open_circuit(both.link)
        await asyncio.sleep(limits.ENROL_SECONDS / 2)
        assert both.far.ends == []
        await both.far.until(lambda: bool(both.far.ends), 100)
        assert both.far.ends[0][0] is Code.BUSY
        more = await linked(sim, credentials=newcomer, enrol=True)
        number = open_circuit(more.link)
        for _ in range(3):
            more.link.send(Kind.DATA, number, bytes(limits.ENROL_BYTES // 2))
        await more.far.until(lambda: bool(more.far.ends))
        assert more.far.ends[0][0] is Code.BUSY

    run(story)


def test_who_is_enrolled_does_not_stay_on_a_link_for_enrolling_with_who_is_enrolled_too():
    async def story(sim: Simulation):
        with pytest.raises(TrustError, match="router-1 is enrolled already"):
            await linked(sim, enrol=True)

    run(story)


def test_a_dialer_dials_again_with_jittered_pauses_and_at_once_when_woken():
    async def story(sim: Simulation):
        router, edge = sim.host("router"), sim.host("edge")
        attempts: list[float] = []

        async def attempt() -> LinkDriver:
            attempts.append(sim.loop.time())
            return await dial(edge.world, ("router", 7000), Notes())

        async def program():
            dialer = Dialer(edge.world, "router", attempt)
            dialer.start()
            return dialer

        dialer = await edge.task(program())
        await asyncio.sleep(120)
        pauses = [after - before for before, after in itertools.pairwise(attempts)]
        assert max(pauses) <= limits.RECONNECT_MAX + 0.1
        assert len(set(pauses)) == len(pauses)
        assert 8 < len(attempts) < 60
        assert "refused" in dialer.error.lower()

        far = Notes()

        async def serve():
            listener = LinkListener(router.world, lambda: ROUTER, far, now)
            await listener.listen("", 7000)

        await router.task(serve())
        count = len(attempts)
        dialer.wake()
        await asyncio.sleep(0.1)
        assert len(attempts) == count + 1
        assert dialer.link is not None
        assert dialer.error == ""
        router.crash()
        await asyncio.sleep(1.0)
        assert dialer.link is None
        assert len(attempts) > count + 1
        await edge.task(dialer.close())
        count = len(attempts)
        await asyncio.sleep(60)
        assert len(attempts) == count

    run(story)


@pytest.mark.parametrize("least", [limits.RECONNECT_MIN, 20 * limits.RECONNECT_MIN])
def test_a_dialer_waits_before_it_dials_again_and_longer_each_time(
    monkeypatch: pytest.MonkeyPatch, least: float
):
    """Without its jitter: from twice `RECONNECT_MIN` to `RECONNECT_MAX`, and after a wake from the start again."""
    monkeypatch.setattr(limits, "RECONNECT_MIN", least)

    async def story(sim: Simulation):
        edge = sim.host("edge")
        monkeypatch.setattr(type(edge.world.entropy), "uniform", lambda _: 1.0)
        attempts: list[float] = []

        async def attempt() -> LinkDriver:
            attempts.append(sim.loop.time())
            raise OSError("nobody is there")

        async def program():
            dialer = Dialer(edge.world, "router", attempt)
            dialer.start()
            return dialer

        dialer = await edge.task(program())
        expected: list[float] = []
        while sum(expected) < 100:
            expected.append(min(2 ** (len(expected) + 1) * least, limits.RECONNECT_MAX))
        await asyncio.sleep(100)
        pauses = [after - before for before, after in itertools.pairwise(attempts)]
        assert pauses == pytest.approx(expected[: len(pauses)])
        assert len(pauses) >= len(expected) - 1
        count = len(attempts)
        dialer.wake()
        await asyncio.sleep(3 * limits.RECONNECT_MIN)
        assert attempts[count + 1] - attempts[count] == pytest.approx(2 * least)
        await edge.task(dialer.close())

    run(story)


@pytest.mark.parametrize(
    ("lasts", "pauses"), [(1.0, (0.1, 0.2, 0.4, 0.8)), (6.0, (0.05,) * 4)], ids=("flaps", "lasts")
)
def test_a_link_that_lasted_is_dialed_again_at_once_and_one_that_flaps_ever_later(
    monkeypatch: pytest.MonkeyPatch, lasts: float, pauses: tuple[float, ...]
):
    async def story(sim: Simulation):
        router, edge = sim.host("router"), sim.host("edge")
        monkeypatch.setattr(type(edge.world.entropy), "uniform", lambda _: 1.0)
        ended: list[float] = []
        begun: list[float] = []

        async def serve():
            listener = LinkListener(router.world, lambda: ROUTER, Notes(), now)
            await listener.listen("", 7000)

        async def attempt() -> LinkDriver:
            begun.append(sim.loop.time())
            link = await dial(edge.world, ("router", 7000), Notes())
            sim.loop.call_later(lasts, link.close)
            return link

        async def gone(link: LinkDriver) -> None:
            await link.wait_closed()
            ended.append(sim.loop.time())

        async def program():
            dialer = Dialer(edge.world, "router", attempt, gone=gone)
            dialer.start()
            return dialer

        await router.task(serve())
        dialer = await edge.task(program())
        await asyncio.sleep(5 * (lasts + 1.0))
        found = [after - before for before, after in zip(ended, begun[1:], strict=False)]
        assert found[:4] == pytest.approx(pauses, abs=0.01)
        await edge.task(dialer.close())

    run(story)


def test_a_slow_way_makes_nobody_suspect_and_ends_no_link():
    """L-31, L-35: four seconds of the line wait in the connection's buffer, before the PING, and nothing comes back."""

    async def story(sim: Simulation):
        both = await linked(sim)
        number = open_circuit(both.link)
        await asyncio.sleep(0.5)
        sim.net.bandwidth = limits.MAX_DATA / 4
        both.link.send(Kind.DATA, number, bytes(limits.MAX_DATA))
        await both.far.until(lambda: both.far.frames[-1][0] is Kind.DATA, 6)
        assert both.near.healths == []
        assert both.near.ends == both.far.ends == []
        both.link.send(Kind.DATA, number, bytes(limits.MAX_DATA), sequence=1)
        await asyncio.sleep(1.0)
        cut = sim.loop.time()
        sim.net.cut("edge", "router")
        await both.near.until(lambda: bool(both.near.healths), SUSPECT_AT_MOST + 0.2)
        await both.near.until(lambda: bool(both.near.ends), 10)
        assert sim.loop.time() - cut < limits.DEAD_AFTER + 0.2, (
            "and one that is cut is lost as ever"
        )

    run(story)


def test_a_frozen_router_is_suspected_long_before_it_is_dead_and_may_come_back():
    """L-35."""

    async def story(sim: Simulation):
        both = await linked(sim)
        number = open_circuit(both.link)
        await asyncio.sleep(0.5)
        began = sim.loop.time()
        sim.host("router").freeze()
        both.link.send(Kind.DATA, number, b"poll")
        await both.near.until(lambda: bool(both.near.healths), 10)
        assert sim.loop.time() - began < 0.5
        assert both.near.healths == [False]
        assert not both.link.sound
        await asyncio.sleep(0.5)
        sim.host("router").thaw()
        await both.near.until(lambda: len(both.near.healths) > 1, 10)
        assert both.near.healths == [False, True]
        assert both.link.sound
        assert both.near.ends == both.far.ends == []
        assert both.far.healths == []  # an edge has to be found dead by keepalive alone

    run(story)
