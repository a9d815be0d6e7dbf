"""The simulation itself: time, streams, cut cables, frozen and crashed hosts, disks."""

import asyncio
import errno
import gc
import weakref
from pathlib import Path

import pytest

from overlay.aio.tasks import spawn
from tests.support.simulation import Deadlock, Simulation


class Sink:
    """Receives into a small buffer."""

    def __init__(self) -> None:
        self.data = b""
        self.events: list[str] = []
        self._memory = memoryview(bytearray(1000))

    def buffer(self) -> memoryview:
        return self._memory

    def received(self, count: int) -> None:
        self.data += self._memory[:count]

    def ended(self) -> None:
        self.events.append("ended")

    def writable(self) -> None:
        self.events.append("writable")

    def lost(self, error: OSError | None) -> None:
        self.events.append(f"lost {error.errno if error else None}")


async def pair(sim: Simulation):
    """A connection from host a to host b, with a sink at each end."""
    accepted: list = []
    await sim.host("b").world.net.listen("", 5, accepted.append)
    here = await sim.host("a").world.net.connect("b", 5)
    await asyncio.sleep(0.01)
    sinks = Sink(), Sink()
    here.start(sinks[0])
    accepted[0].start(sinks[1])
    return here, accepted[0], *sinks


def test_what_is_over_is_forgotten():
    """Tasks that never ended kept all machines: 10 MB for each seed that a process had run."""

    async def program() -> None:
        _ = spawn(asyncio.Event().wait(), "waits")

    async def story(sim: Simulation) -> None:
        sim.host("a").start(program())
        await asyncio.sleep(1)

    sim = Simulation()
    gone = weakref.ref(sim)
    sim.run(story(sim))
    del sim
    gc.collect()
    assert gone() is None


def test_a_day_passes_at_once_and_a_deadlock_is_an_error():
    sim = Simulation()

    async def story():
        await asyncio.sleep(86_400)
        return sim.loop.time()

    assert sim.run(story()) == pytest.approx(86_400)
    with pytest.raises(Deadlock, match="waiting"):
        Simulation().run(asyncio.Event().wait())


def test_what_was_written_together_arrives_little_by_little_over_a_slow_wire():
    sim = Simulation(4)
    sim.net.bandwidth = 100_000.0

    async def story():
        here, _, _, sink = await pair(sim)
        assert here.write([bytes(200_000)]) == 200_000  # two seconds
        got = []
        for _ in range(5):
            await asyncio.sleep(0.5)
            got.append(len(sink.data))
        return got

    got = sim.run(story())
    assert got == sorted(set(got)), "no half second was silent"
    assert got[0] == pytest.approx(50_000, abs=20_000)
    assert got[-1] == 200_000


def test_streams_carry_all_bytes_in_order_in_short_reads():
    sim = Simulation(3)
    sim.net.short_reads = True

    async def story():
        here, there, _, sink = await pair(sim)
        for number in range(50):
            assert here.write([bytes([number]) * 10, b"-"]) == 11
        here.end()
        await asyncio.sleep(1)
        assert there.write([b"back"]) == 4
        await asyncio.sleep(1)
        return sink, here._receiver

    sink, back = sim.run(story())
    assert sink.data == b"".join(bytes([n]) * 10 + b"-" for n in range(50))
    assert sink.events == ["ended"]
    assert back.data == b"back"


def test_a_writer_is_bounded_and_told_when_there_is_room():
    sim = Simulation()

    async def story():
        here, there, sink, other = await pair(sim)
        there.pause()
        taken = here.write([bytes(1 << 20)])
        assert taken < 1 << 20
        await asyncio.sleep(1)
        assert sink.events == []
        there.resume()
        await asyncio.sleep(1)
        assert sink.events == ["writable"]
        assert len(other.data) == taken

    sim.run(story())


def test_a_cut_cable_delivers_nothing_until_it_is_healed():
    sim = Simulation()

    async def story():
        here, _, sink, other = await pair(sim)
        sim.net.cut("a", "b")
        here.write([b"late"])
        await asyncio.sleep(60)
        assert (other.data, sink.events) == (b"", [])
        sim.net.heal("b", "a")
        await asyncio.sleep(0.1)
        assert other.data == b"late"

    sim.run(story())


def test_what_was_on_its_way_when_the_cable_was_cut_comes_before_what_was_written_afterwards():
    sim = Simulation()

    async def story():
        here, _, _, other = await pair(sim)
        here.write([b"first "])
        sim.net.cut("a", "b", one_way=True)
        here.write([b"second "])
        await asyncio.sleep(60)
        assert other.data == b""
        sim.net.heal("a", "b")
        here.write([b"third"])
        await asyncio.sleep(0.1)
        assert other.data == b"first second third"

    sim.run(story())


def test_a_cable_can_carry_one_way_only():
    sim = Simulation()

    async def story():
        here, there, sink, other = await pair(sim)
        sim.net.cut("a", "b", one_way=True)
        here.write([b"lost"])
        there.write([b"heard"])
        await asyncio.sleep(1)
        assert (sink.data, other.data) == (b"heard", b"")

    sim.run(story())


def test_a_connection_that_is_reset_in_between_is_gone_at_both_ends():
    sim = Simulation()

    async def story():
        here, _, sink, other = await pair(sim)
        sim.net.reset(here)
        await asyncio.sleep(1)
        assert sink.events == other.events == [f"lost {errno.ECONNRESET}"]

    sim.run(story())


def test_a_frozen_host_catches_up_and_a_crashed_one_never_cleans_up():
    sim = Simulation()
    log: list[str] = []

    async def program():
        try:
            while True:
                await asyncio.sleep(1)
                log.append("tick")
        finally:
            log.append("cleaned up")

    async def story():
        here, _, sink, other = await pair(sim)
        host = sim.host("b")
        host.start(program())
        await asyncio.sleep(2.5)
        host.freeze()
        here.write([b"x"])
        await asyncio.sleep(10)
        assert (log, other.data) == (["tick"] * 2, b"")
        host.thaw()
        await asyncio.sleep(0.1)
        assert (log, other.data) == (["tick"] * 3, b"x")
        host.crash()
        await asyncio.sleep(10)
        assert log == ["tick"] * 3
        assert sink.events == [f"lost {errno.ECONNRESET}"]
        with pytest.raises(ConnectionRefusedError):
            await sim.host("a").world.net.connect("b", 5)

    sim.run(story())


@pytest.mark.parametrize("frozen", [False, True])
def test_a_failure_is_nobodys_when_who_waits_for_it_crashes_in_that_turn(frozen: bool):
    sim = Simulation()
    said: list[str] = []
    sim.loop.set_exception_handler(lambda _, context: said.append(context["message"]))
    host = sim.host("b")

    async def program(failing: asyncio.Future[None]):
        await failing

    async def story():
        failing = sim.loop.create_future()
        host.start(program(failing))
        await asyncio.sleep(1)
        if frozen:
            host.freeze()
        failing.set_exception(OSError())
        if frozen:
            await asyncio.sleep(1)
        del failing
        host.crash()
        await asyncio.sleep(1)
        gc.collect()
        nobody = sim.loop.create_future()
        nobody.set_exception(ValueError())
        del nobody

    sim.run(story())
    assert said == ["Future exception was never retrieved"]  # the last one, which nobody waits for


def test_a_host_that_sleeps_hears_nothing_and_its_timers_go_on_where_they_were():
    sim = Simulation()
    log: list[tuple[str, float]] = []

    async def program():
        loop, clock = asyncio.get_running_loop(), sim.host("b").world.clock
        begun = loop.time(), clock.boot()
        await asyncio.sleep(5)
        log.append(("loop", loop.time() - begun[0]))
        log.append(("boot", clock.boot() - begun[1]))

    async def story():
        here, _, _, other = await pair(sim)
        host = sim.host("b")
        host.start(program())
        await asyncio.sleep(1)
        host.sleep()
        here.write([b"x"])
        await asyncio.sleep(100)
        assert not other.data
        host.thaw()
        await asyncio.sleep(1)
        assert other.data == b"x", "TCP says again what nobody acknowledged"
        assert not log, "four seconds of its timer were left"
        await asyncio.sleep(3.1)
        return dict(log)

    told = sim.run(story())
    assert told["loop"] == pytest.approx(5)
    assert told["boot"] == pytest.approx(105)


@pytest.mark.parametrize("how", ["freeze", "sleep"])
def test_a_timer_that_is_cancelled_just_after_a_pause_never_rings(how: str):
    sim = Simulation()
    rang: list[str] = []

    async def program():
        loop = asyncio.get_running_loop()

        def cancel() -> None:
            alarm.cancel()

        loop.call_later(2.0, cancel)
        alarm = loop.call_later(2.5, rang.append, "alarm")

    async def story():
        host = sim.host("a")
        host.start(program())
        await asyncio.sleep(1)
        getattr(host, how)()
        await asyncio.sleep(10)
        host.thaw()
        await asyncio.sleep(10)

    sim.run(story())
    assert not rang


def test_what_is_said_to_an_address_that_is_gone_arrives_nowhere():
    sim = Simulation()

    async def story():
        here, there, sink, other = await pair(sim)
        here.write([b"on its way"])
        sim.net.strand(here)
        there.write([b"back"])
        await asyncio.sleep(100)
        assert (sink.data, other.data, sink.events, other.events) == (b"", b"", [], [])
        sim.net.keepalive()
        await asyncio.sleep(2)
        assert sink.events == other.events == [f"lost {errno.ETIMEDOUT}"]
        assert (await sim.host("a").world.net.connect("b", 5)) is not None

    sim.run(story())


def test_tasks_that_a_program_spawns_die_with_its_host():
    sim = Simulation()
    log: list[float] = []

    async def child():
        while True:
            await asyncio.sleep(1)
            log.append(sim.loop.time())

    async def program():
        task = spawn(child(), "child")
        await asyncio.sleep(0)
        del task

    async def story():
        sim.host("a").start(program())
        await asyncio.sleep(3.5)
        sim.host("a").crash()
        await asyncio.sleep(10)

    sim.run(story())
    assert len(log) == 3


@pytest.mark.parametrize("seed", range(20))
def test_a_crash_keeps_what_was_synced(seed: int):
    sim = Simulation(seed)
    file, log = Path("/x/state"), Path("/x/log")

    async def program():
        disk = sim.host("a").world.disk
        await disk.replace(file, b"one")
        await disk.append(log, b"aaaa")
        await asyncio.gather(disk.replace(file, b"two"), disk.append(log, b"bbbb"))

    async def story():
        host = sim.host("a")
        host.start(program())
        await asyncio.sleep(0.005 + 0.000_5 * (seed % 10))
        host.crash()
        await asyncio.sleep(1)
        return await host.world.disk.read(file), await host.world.disk.read(log)

    state, appended = sim.run(story())
    assert state in {b"one", b"two"}
    assert appended is not None
    assert b"aaaabbbb".startswith(appended)
    assert appended.startswith(b"aaaa")


def test_a_full_disk_and_a_lock():
    sim = Simulation()

    async def story():
        disk = sim.host("a").world.disk
        release = disk.lock(Path("/x"))
        with pytest.raises(BlockingIOError):
            disk.lock(Path("/x"))
        release()
        disk.lock(Path("/x"))
        disk.full = True
        with pytest.raises(OSError, match="No space") as caught:
            await disk.append(Path("/x/f"), b"1")
        assert caught.value.errno == errno.ENOSPC
        assert await disk.read(Path("/x/f")) is None

    sim.run(story())


def test_datagrams_keep_boundaries_and_may_be_lost():
    sim = Simulation()
    got: list[tuple[bytes, tuple[str, int]]] = []

    async def story():
        server = await sim.host("b").world.net.datagrams(
            lambda data, source, _: got.append((bytes(data), source)), local=("", 53)
        )
        client = await sim.host("a").world.net.datagrams(lambda *_: None, remote=("b", 53))
        client.send(b"1")
        client.send(b"22")
        await asyncio.sleep(0.1)
        sim.net.loss = 1.0
        client.send(b"333")
        await asyncio.sleep(0.1)
        server.close()
        return client.local

    local = sim.run(story())
    assert sorted(got) == [(b"1", local), (b"22", local)]


def test_the_same_seed_gives_the_same_run():
    def run(seed: int) -> list[float]:
        sim = Simulation(seed)
        times: list[float] = []

        async def story():
            here, _, _, sink = await pair(sim)
            for _ in range(20):
                here.write([b"x"])
                await asyncio.sleep(sim.host("a").world.entropy.uniform())
                times.append(sim.loop.time() + len(sink.data))

        sim.run(story())
        return times

    assert run(5) == run(5)
    assert run(5) != run(6)


def test_what_is_cancelled_before_another_loop_begins_it_never_begins():
    sim = Simulation()
    begun, wrong = [], []

    async def work() -> None:
        begun.append("work")

    async def story():
        asyncio.get_running_loop().set_exception_handler(lambda _, told: wrong.append(told))
        loop = sim.host("a").world.loops.start("bulk")
        task = spawn(loop.run(work()), "test", awaited=True)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(1)
        await loop.close()

    sim.run(story())
    assert (begun, wrong) == ([], [])
