"""Circuits of two edges that go to a bulk lane and come back, in the middle of traffic both ways (C-65, L-08)."""

import asyncio
import random
from typing import Any

import pytest

from overlay.aio import lanes
from overlay.aio.lanes import TICK
from overlay.circuit.lane_choice import EXPRESS_SECONDS
from overlay.errors import Code
from overlay.wire.bodies import STRICT, Refusal
from overlay.wire.codec import encode
from overlay.wire.header import Kind
from tests.support.edges import Plant
from tests.support.edges import story as run_story

CHUNK = 16 * 1024


def story(test, seed: int = 1, bulk_lanes: int = 2):
    run_story(test, seed=seed, bulk_lanes=bulk_lanes)


class Load:
    """A client that writes random bytes, which the asset echoes."""

    def __init__(self, plant: Plant, client: Any, seed: int = 0) -> None:
        self.plant = plant
        self.client = client
        self.random = random.Random(seed)
        self.sent = bytearray()
        self.room = asyncio.Event()
        client.writable = self.room.set

    @classmethod
    async def begin(cls, plant: Plant, seed: int = 0) -> "Load":
        return cls(plant, await plant.dial(), seed)

    async def push(self, size: int) -> None:
        """Write so much, as fast as it is taken."""
        view = memoryview(self.random.randbytes(size))
        self.sent += view
        while view:
            self.room.clear()
            view = view[self.client.connection.write((view[:CHUNK],)) :]
            if not self.room.is_set():
                await asyncio.sleep(0.000_5)

    async def echoed(self, seconds: float = 60.0) -> None:
        """All that was written came back, once and in order."""
        await until(lambda: len(self.client.got) >= len(self.sent) or self.client.gone, seconds)
        assert bytes(self.client.got) == bytes(self.sent)

    async def end(self) -> None:
        """Half-close, and the other side's end."""
        self.client.connection.end()
        await until(lambda: self.client.gone, 60.0)
        assert bytes(self.client.got) == bytes(self.sent)
        assert self.client.over in (False, True)


async def until(condition, seconds: float = 30.0) -> None:
    for _ in range(round(seconds / 0.001)):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise TimeoutError


def in_bulk(edge: Any) -> list[Any]:
    """Its circuits that belong to the bulk loop."""
    bulk = edge.endpoint.lanes.bulk
    return [one for one in edge.endpoint.streams() if one.owner is bulk and one._settled]


def both_in_bulk(plant: Plant) -> bool:
    return bool(in_bulk(plant.a) and in_bulk(plant.b))


def nowhere_in_bulk(plant: Plant) -> bool:
    return not (
        in_bulk(plant.a)
        or in_bulk(plant.b)
        or any(not s.at_home_now for e in (plant.a, plant.b) for s in e.endpoint.streams())
    )


def carried(plant: Plant, kind: Kind, lane: int | None = None) -> int:
    """Frames of this kind that the router saw in bulk lanes, or in one lane."""
    return sum(
        header.kind is kind and (link.lane > 0 if lane is None else link.lane == lane)
        for link, header, _ in plant.router.seen
    )


@pytest.mark.parametrize("integrity", [0, STRICT])
@pytest.mark.parametrize("seed", range(3))
def test_bulk_goes_to_a_lane_and_comes_back_when_it_is_quiet(seed, integrity):
    async def test(plant: Plant):
        plant.allow(integrity=integrity)
        load = await Load.begin(plant, seed)
        await load.push(3_000_000)
        await until(lambda: both_in_bulk(plant))
        stream = in_bulk(plant.a)[0]
        assert plant.a.status()["circuits"]["bulk"] == plant.b.status()["circuits"]["bulk"] == 1
        await load.push(3_000_000)
        await load.echoed()
        assert stream.core.resumes == 1
        assert carried(plant, Kind.DATA, 1 + stream.circuit_id[0] % 2) > 10
        await asyncio.sleep(EXPRESS_SECONDS + 2.0)
        assert nowhere_in_bulk(plant)
        assert stream.core.resumes == 2
        await load.push(100)
        await load.echoed()
        await load.push(4_000_000)
        await until(lambda: both_in_bulk(plant))
        await load.end()
        end = await stream.closed
        assert end.code is Code.NORMAL
        assert end.receipt.caller.bytes == end.receipt.host.bytes == len(load.sent)
        await until(lambda: not plant.router.table)
        assert plant.a.agent.of("security.tamper") == plant.b.agent.of("security.tamper") == []

    story(test, seed)


def test_a_poll_stays_on_express_next_to_bulk():
    async def test(plant: Plant):
        plant.allow()
        poll = await plant.poll()
        load = await Load.begin(plant)
        for _ in range(30):
            await load.push(300_000)
            poll.connection.write((b"again",))
            await poll.expect(b"again")
        await until(lambda: both_in_bulk(plant))
        assert len(in_bulk(plant.a)) == len(in_bulk(plant.b)) == 1
        await load.echoed()

    story(test)


def test_without_lanes_nothing_moves():
    async def test(plant: Plant):
        plant.allow()
        load = await Load.begin(plant)
        await load.push(8_000_000)
        await load.echoed()
        assert plant.a.endpoint.streams()[0].core.resumes == 0
        assert plant.a.endpoint.lanes._bulk is None  # nor was a loop begun

    story(test, bulk_lanes=0)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("side", ["edge-a", "edge-b"])
def test_a_bulk_link_may_be_lost_at_any_moment(side, seed):
    async def test(plant: Plant):
        plant.allow()
        rng = random.Random(seed)
        load = await Load.begin(plant, seed)
        plant.router.meddle = None

        async def cut():
            for _ in range(8):
                await asyncio.sleep(rng.random() * 0.2)
                for (name, _), link in list(plant.router.lanes.items()):
                    if name == side:
                        link.cut()
                await asyncio.sleep(rng.random() * 0.01)
                plant.attach(side)
                for edge in (plant.a, plant.b):
                    edge.endpoint.lanes._paused.clear()
                    for mover in edge.endpoint._outgoing.values():
                        mover.pause_until = 0.0

        cutting = asyncio.ensure_future(cut())
        for _ in range(40):
            await load.push(300_000)
            await asyncio.sleep(0.03)
        await cutting
        await load.echoed()
        await load.end()
        await until(lambda: not plant.a.endpoint.streams() and not plant.b.endpoint.streams())
        assert plant.a.agent.of("security.tamper") == plant.b.agent.of("security.tamper") == []

    story(test, seed)


@pytest.mark.parametrize("kind", [Kind.RESUME, Kind.DATA, Kind.CREDIT, Kind.CHECKPOINT])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_bulk_link_is_lost_right_after_a_frame(kind, number):
    async def test(plant: Plant):
        plant.allow()
        load = await Load.begin(plant)
        seen: list[Any] = []

        def die(router, link, header, payload):
            if link.lane and header.kind is kind:
                seen.append(header)
                if len(seen) == number:
                    for one in list(router.lanes.values()):
                        one.cut()
            return

        plant.router.meddle = die
        await load.push(6_000_000)
        await until(lambda: len(seen) >= number or kind is Kind.RESUME)
        await load.echoed()
        await load.end()
        await until(lambda: nowhere_in_bulk(plant))

    story(test)


def test_a_circuit_that_ends_at_its_host_while_it_moves_gives_all_back():
    """C-35, C-62: it was over at home, tells its end on the bulk loop, and then comes home once more."""

    async def test(plant: Plant):
        plant.allow()
        load = await Load.begin(plant)
        held: list[Any] = []

        def hold(router, link, header, payload):
            if link.lane and header.kind is Kind.RESUME and not held:
                held.append((link, header, payload))
                plant.assets[0].connection.abort()
                return []
            return None

        plant.router.meddle = hold
        pushing = asyncio.ensure_future(load.push(20_000_000))
        await until(lambda: bool(held))
        await until(lambda: not plant.b.endpoint.streams())
        plant.router.forward(*held[0])
        await until(lambda: load.client.gone)
        pushing.cancel()
        assert load.client.over not in (False, True)
        await until(lambda: not plant.router.table)
        parts = [part for edge in (plant.a, plant.b) for part in edge.endpoint.memory.parts]
        assert any(part.windows or part.kept for part in parts), "the end is on its way"
        await asyncio.sleep(1.0)
        held_yet = [(part.windows, part.buffered, part.kept, part._grown) for part in parts]
        assert held_yet == [(0, 0, 0, {})] * len(parts)

    story(test)


def test_a_lane_that_refuses_is_left_alone_for_a_while(monkeypatch):
    monkeypatch.setattr(lanes, "LANE_PAUSE", 4.0)

    async def test(plant: Plant):
        plant.allow()
        asked: list[float] = []

        def refuse(router, link, header, payload):
            if link.lane and header.kind is Kind.RESUME:
                asked.append(plant.sim.loop.time())
                link.send(Kind.REFUSE, header.circuit, encode(Refusal(Code.NO_ROUTE, "not here")))
                return []
            return None

        plant.router.meddle = refuse
        load = await Load.begin(plant)
        while plant.sim.loop.time() < 8.0:
            await load.push(500_000)
            await asyncio.sleep(0.1)
        assert 2 <= len(asked) <= 3
        assert asked[1] - asked[0] >= 4.0
        await load.echoed()
        assert nowhere_in_bulk(plant)

    story(test)


def test_a_lane_that_is_silent_is_given_up():
    async def test(plant: Plant):
        plant.allow()

        def swallow(router, link, header, payload):
            return [] if link.lane and header.kind is Kind.RESUME else None

        plant.router.meddle = swallow
        load = await Load.begin(plant)
        await load.push(3_000_000)
        await load.echoed()
        await until(lambda: nowhere_in_bulk(plant))
        await load.push(100)
        await load.echoed()

    story(test)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("side", ["edge-a", "edge-b"])
def test_a_kill_cuts_a_circuit_wherever_it_is(side, seed):
    """On express, on its way, or in the lane: nothing is delivered any more right after it."""

    async def test(plant: Plant):
        plant.allow()
        load = await Load.begin(plant, seed)
        pushing = asyncio.ensure_future(load.push(20_000_000))
        moment = 2 * TICK + (seed - 2) * 0.000_4
        if seed > 5:
            await until(lambda: both_in_bulk(plant))
        else:
            await until(lambda: bool(plant.a.endpoint.lanes._away))
            await asyncio.sleep(max(0.0, moment - 2 * TICK))
        await plant.edges[side].pull("smoke")
        assert not plant.edges[side].endpoint.streams()
        got = len(load.client.got)
        await until(lambda: load.client.gone)
        if side == "edge-a":
            assert len(load.client.got) - got <= 512 * 1024  # what the sockets held
        assert bytes(load.client.got) == bytes(load.sent[: len(load.client.got)])
        await until(lambda: not plant.a.endpoint.streams() and not plant.b.endpoint.streams())
        pushing.cancel()
        await until(lambda: not plant.router.table)
        assert load.client.over not in (False, True)

    story(test, seed)


def test_a_grant_is_refreshed_in_the_lane_and_a_withdrawn_one_cuts_there():
    async def test(plant: Plant):
        grant = plant.allow()
        load = await Load.begin(plant)
        await load.push(4_000_000)
        await until(lambda: both_in_bulk(plant))
        host = in_bulk(plant.b)[0]
        plant.allow(id=grant.id, refresh_by=grant.refresh_by + 60_000_000)
        await until(lambda: host.grant.refresh_by == grant.refresh_by + 60_000_000)
        assert both_in_bulk(plant)
        plant.states["edge-b"].authority.objection = (Code.WITHDRAWN, "conduit c-1 was ended")
        plant.b.enforcer.review()
        await until(lambda: load.client.gone)
        assert (await host.closed).code is Code.WITHDRAWN

    story(test)


def test_a_forged_or_old_resume_in_a_lane_is_refused_and_the_circuit_stays():
    async def test(plant: Plant):
        plant.allow()
        load = await Load.begin(plant)
        said: list[tuple[Any, bytes]] = []

        def note(router, link, header, payload):
            if header.kind is Kind.RESUME and link is not router.links.get("edge-b"):
                said.append((header, payload))
            return

        plant.router.meddle = note
        await load.push(4_000_000)
        await until(lambda: both_in_bulk(plant))
        host = in_bulk(plant.b)[0]
        await load.echoed()
        header, payload = said[0]
        plant.router.meddle = None
        for body in (payload, payload[:-20] + bytes(20), payload[:-1]):
            for onward in (plant.router.lanes["edge-b", 1], plant.router.links["edge-b"]):
                number = onward.next_circuit()
                before = len(plant.router.seen)
                onward.send(Kind.RESUME, number, body, sequence=header.sequence)
                await asyncio.sleep(0.05)
                answers = [
                    one.kind
                    for link, one, _ in plant.router.seen[before:]
                    if link is onward and one.circuit == number
                ]
                assert answers[:1] == [Kind.RESET if body is payload else Kind.REFUSE]
                assert in_bulk(plant.b) == [host]
        await load.push(1_000_000)
        await load.echoed()
        assert plant.b.agent.events
        assert plant.b.endpoint.resumed().late == 2, "the genuine one is no attack"

    story(test)


def test_an_edge_that_stops_ends_its_lanes():
    async def test(plant: Plant):
        plant.allow()
        load = await Load.begin(plant)
        await load.push(4_000_000)
        await until(lambda: both_in_bulk(plant))
        await plant.edges.pop("edge-b").close()
        await until(lambda: load.client.gone)
        assert not [key for key in plant.router.lanes if key[0] == "edge-b"]

    story(test)
