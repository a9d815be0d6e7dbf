"""A router that says nothing: what it withholds is bounded by time, at both ends, and leaves nothing behind.

Real edges and real TLS links in virtual time. The bounds: C-05 (3 s for a handshake), 10 s from the wish to READY,
C-34 (10 s for a last acknowledgement), C-63 (30 s without a path), L-31 (3 s for a link), G-02 and G-05 (the grant).
"""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from overlay import limits
from overlay.aio import incoming
from overlay.aio.caller_paths import SILENT_SECONDS
from overlay.aio.calling import ASSET_SECONDS, OPEN_SECONDS
from overlay.aio.circuit_roles import Refused
from overlay.circuit.life import LINGER
from overlay.errors import Code
from overlay.wire.header import Header, Kind
from tests.support.honest import SERVICE, until
from tests.support.hostile import HostilePlant, echoed, refusal
from tests.support.meddling import begin, hears, lose_path
from tests.support.pki import SECOND
from tests.support.simulation import Simulation


def story(test: Callable[[HostilePlant, Simulation], Awaitable[None]], routers: int = 1) -> None:
    sim = Simulation(seed=5)

    async def run() -> None:
        async with HostilePlant(routers, machine=lambda name: sim.host(name).world) as plant:
            await test(plant, sim)

    sim.run(run())


def swallow(*kinds: Kind, source: str = ""):
    """Frames of these kinds go nowhere."""

    def meddle(router, link, header, payload):
        return [] if header.kind in kinds and source in ("", link.name) else None

    return meddle


def nothing_is_left(plant: HostilePlant) -> None:
    for edge in plant.edges.values():
        hosting = edge.endpoint._hosting
        assert edge.circuits() == []
        assert hosting._handshakes == {} == hosting._by_key
        assert hosting._unanswered == set()
        assert edge.endpoint._outgoing == {}


@pytest.mark.parametrize("kind", [Kind.OPEN, Kind.ACCEPT, Kind.CREDIT, Kind.READY])
def test_an_opening_that_gets_no_answer_fails_within_ten_seconds(kind: Kind):
    """C-05: the host gives a handshake 3 s, and dials nothing before it is done (C-13)."""

    async def test(plant: HostilePlant, sim: Simulation):
        plant.router.meddle = swallow(kind)
        began = sim.loop.time()
        with pytest.raises(Refused) as caught:
            await plant.a.endpoint.dial(SERVICE, plant.grant())
        # Without its last flight the host has forgotten the handshake by then, and made another one (C-05).
        assert caught.value.code is (Code.RESTARTED if kind is Kind.CREDIT else Code.UNREACHABLE)
        assert sim.loop.time() - began <= OPEN_SECONDS + 0.01
        executed = int(kind is Kind.READY)
        assert plant.b.carried == executed
        assert plant.asset.told == [b""] * executed
        await asyncio.sleep(limits.RESUME_TIME + 1)
        nothing_is_left(plant)
        plant.router.meddle = None
        assert await echoed(await plant.a.dial(), b"honest")

    story(test)


def test_a_refusal_that_is_withheld_fails_within_ten_seconds():
    async def test(plant: HostilePlant, sim: Simulation):
        await plant.asset.close()
        plant.router.meddle = swallow(Kind.REFUSE)
        began = sim.loop.time()
        with pytest.raises(Refused) as caught:
            await plant.a.endpoint.dial(SERVICE, plant.grant())
        assert caught.value.code is Code.UNREACHABLE
        assert sim.loop.time() - began <= OPEN_SECONDS + 0.01
        await asyncio.sleep(limits.RESUME_TIME + 1)
        nothing_is_left(plant)

    story(test)


def test_early_data_that_gets_no_answer_is_executed_once_at_most():
    """C-16, C-17: nobody says it again under another number."""

    async def test(plant: HostilePlant, sim: Simulation):
        await plant.a.dial()
        plant.router.meddle = swallow(Kind.ACCEPT, Kind.READY)
        with pytest.raises(Refused):
            await plant.a.endpoint.dial(SERVICE, plant.grant(), early=b"write coil 7")
        await asyncio.sleep(60)
        await hears(plant, b"", b"write coil 7")
        assert plant.b.carried == 2

    story(test)


def test_without_a_path_both_ends_are_over_after_the_resume_time():
    """C-63: an error for the application, not the end of its stream."""

    async def test(plant: HostilePlant, sim: Simulation):
        stream, host = await begin(plant)
        plant.router.meddle = swallow(Kind.RESUME)
        lose_path(plant)
        began = sim.loop.time()
        async with asyncio.timeout(limits.RESUME_TIME + 1):
            assert (await stream.closed).code is Code.PATH_LOST
            assert (await host.closed).code is Code.PATH_LOST
        assert sim.loop.time() - began >= limits.RESUME_TIME - 1
        with pytest.raises(ConnectionResetError):
            await stream.read()
        assert plant.asset.told == [b"begun."]
        await asyncio.sleep(1)
        nothing_is_left(plant)

    story(test)


@pytest.mark.parametrize("source", ["edge-a", "edge-b"])
def test_frames_that_are_withheld_stop_the_circuit_and_are_bounded_by_its_window(source: str):
    """C-31: a sender keeps what is not acknowledged, at most a window of it, and goes on where another path begins."""

    async def test(plant: HostilePlant, sim: Simulation):
        stream, host = await begin(plant)
        plant.router.meddle = swallow(Kind.DATA, Kind.CHECKPOINT, Kind.CREDIT, source=source)
        one, other = (stream, host) if source == "edge-a" else (host, stream)
        sent = 0
        while room := one.room():
            one.send(bytes(room))
            sent += room
        assert sent <= limits.INITIAL_WINDOW
        await asyncio.sleep(20)
        assert one.core is not None
        assert one.core.kept_bytes <= limits.INITIAL_WINDOW + 64 * 1024
        assert not one.closed.done()
        assert (other.bytes_in if source == "edge-a" else other.bytes_out) == len(b"begun.")
        plant.router.meddle = None
        lose_path(plant)
        total = sent + 6
        await until(lambda: (other.bytes_in if source == "edge-a" else other.bytes_out) == total)
        assert plant.a.security == plant.b.security == []

    story(test)


def test_a_last_acknowledgement_that_is_withheld_is_awaited_for_ten_seconds():
    """C-34."""

    async def test(plant: HostilePlant, sim: Simulation):
        stream, host = await begin(plant)
        plant.router.meddle = swallow(Kind.CREDIT)
        stream.end()
        began = sim.loop.time()
        async with asyncio.timeout(LINGER + 1):
            await asyncio.gather(stream.closed, host.closed)
        assert sim.loop.time() - began <= LINGER + 0.5
        assert plant.asset.told == [b"begun."]

    story(test)


def test_whatever_is_withheld_the_grant_bounds_the_circuit():
    """G-02, G-05: both ends cut it by their own clock, and neither needs the other for it."""

    async def test(plant: HostilePlant, sim: Simulation):
        end = plant.now() + 20 * SECOND
        stream = await plant.a.call(plant.grant(end=end))
        host = plant.b.circuits()[0]
        plant.router.meddle = lambda *_: []
        async with asyncio.timeout(21):
            codes = {(await one.closed).code for one in (stream, host)}
        assert codes == {Code.EXPIRED}
        assert abs(plant.now() - end) < SECOND // 100

    story(test)


def test_a_link_that_is_silent_is_dead_after_three_seconds():
    """L-31; its circuits move to the other router."""

    async def test(plant: HostilePlant, sim: Simulation):
        stream, _ = await begin(plant)
        used = next(router for router in plant.routers if router.hops())
        began = sim.loop.time()
        sim.host(used.name).freeze()
        for link in used.listener.links:
            link._sender.discard()
            link._connection.pause()
            link._clock.stop()
        await until(lambda: used.name not in plant.a.agent.router_names(), limits.DEAD_AFTER + 1.5)
        assert sim.loop.time() - began <= limits.DEAD_AFTER + 1.2
        assert await echoed(stream, b"one.")
        sim.host(used.name).thaw()

    story(test, routers=2)


@pytest.mark.parametrize("kind", [Kind.OPEN, Kind.ACCEPT, Kind.READY])
@pytest.mark.parametrize("later", [False, True], ids=["first circuit", "later circuit"])
def test_what_one_router_swallows_is_said_over_the_other(
    kind: Kind, later: bool, monkeypatch: pytest.MonkeyPatch
):
    """It can deny service only to those who use it alone (C-17): the same OPEN, executed once."""
    if kind is Kind.READY:
        monkeypatch.setattr(incoming, "ACCEPTS_WAITING", 0)  # else it comes with ACCEPT (C-14)

    async def test(plant: HostilePlant, sim: Simulation):
        if later:
            await plant.a.dial()
        asked: list[str] = []
        silent: list[Header] = []

        def meddle(router, link, header, payload):
            if header.kind is Kind.OPEN and link.name == "edge-a" and router.name not in asked:
                asked.append(router.name)
            if header.kind is kind and router.name == asked[0]:
                silent.append(header)
            return [] if silent and router.name == asked[0] else None

        for router in plant.routers:
            router.meddle = meddle
        began = sim.loop.time()
        stream = await plant.a.endpoint.dial(SERVICE, plant.grant(), early=b"write coil 7")
        took = sim.loop.time() - began
        patience = ASSET_SECONDS if kind is Kind.READY else SILENT_SECONDS
        assert patience <= took < patience + 0.1
        await stream.write(b", then 8")
        await hears(plant, *[b""] * later, b"write coil 7, then 8")
        assert plant.b.carried == 1 + later
        assert len(asked) == 2
        assert plant.a.security == plant.b.security == []
        began = sim.loop.time()
        await plant.a.dial()  # and the next attempt does not begin with the one that swallows
        assert sim.loop.time() - began < 0.1

    story(test, routers=2)


def test_a_resume_that_one_router_swallows_is_said_over_the_other():
    """C-60: with the next generation; nothing is lost or repeated."""

    async def test(plant: HostilePlant, sim: Simulation):
        stream, _ = await begin(plant)
        asked: list[str] = []

        def meddle(router, link, header, payload):
            if header.kind is Kind.RESUME and link.name == "edge-a":
                asked.append(router.name)
                return [] if router.name == asked[0] else None
            return None

        for router in plant.routers:
            router.meddle = meddle
        lose_path(plant)
        began = sim.loop.time()
        assert await echoed(stream, b"one.")
        assert sim.loop.time() - began < SILENT_SECONDS + 0.2
        assert len(set(asked)) == 2
        await hears(plant, b"begun.one.")
        assert plant.a.security == plant.b.security == []

    story(test, routers=2)


def test_a_refusal_in_clear_may_be_a_lie_so_the_next_attempt_begins_elsewhere():
    """C-14: it is believed for this attempt, which fails at once and is recorded once; not for the next."""

    async def test(plant: HostilePlant, sim: Simulation):
        def deny(router, link, header, payload):
            if header.kind is not Kind.OPEN:
                return None
            link.send(Kind.REFUSE, header.circuit, refusal(Code.NO_GRANT))
            return []

        liar = next(one for one in plant.routers if one.links["edge-a"].name == "edge-a")
        liar.meddle = deny
        outcomes: list[bool | Code] = []
        for _ in range(4):
            try:
                outcomes.append(await echoed(await plant.a.dial(), b"poll"))
            except Refused as error:
                outcomes.append(error.code)
        assert outcomes.count(True) >= 3
        assert set(outcomes) <= {True, Code.NO_GRANT}

    story(test, routers=2)
