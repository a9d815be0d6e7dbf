"""Circuits that go back to a nearer router after a fault (C-67)."""

import asyncio
from typing import Any

import pytest

from overlay.aio.returning import STEADY_SECONDS
from overlay.wire.header import Kind
from tests.support.circuits import Plant
from tests.unit.aio.test_endpoint import story

SERVICE = "plc-b.modbus"
LATEST = 2 * STEADY_SECONDS + 1
"""Seconds after which a link that has been sound all the time was looked at."""
FAR, NEAR = 0.1, 0.0005


class Faulty:
    """Programs poll all the time. The router that is near their edge is lost, and they go on over the other one."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.far, self.near = plant.routers
        self.streams: list[Any] = []
        self.polls = 0
        plant.b.serve = plant.b.echo

    async def begin(self, circuits: int = 1) -> None:
        self._put_away(NEAR)
        for _ in range(circuits):
            self.streams.append(await self.plant.a.endpoint.dial(SERVICE, self.plant.grant()))
        await self.poll()
        assert self.by() == {"router-2"}
        self.near.links["edge-a"].cut()
        await self.poll()
        assert self.by() == {"router-1"}

    def _put_away(self, near: float) -> None:
        for router, latency in zip(self.plant.routers, (FAR, near), strict=True):
            link = router.links["edge-a"]
            link.latency = link.other.latency = latency

    def back(self, near: float = NEAR) -> None:
        """The router is there again."""
        self.near.attach(self.plant.a.endpoint, self.plant.a.leaf)
        self._put_away(near)

    def by(self) -> set[str]:
        """The routers that carry the circuits."""
        return {one.path[1] for one in self.streams}

    async def poll(self) -> None:
        for stream in self.streams:
            said = b"poll %06d" % self.polls
            self.polls += 1
            await stream.write(said)
            assert await stream.read() == said

    async def polls_for(self, seconds: float) -> None:
        end = self.plant.sim.loop.time() + seconds
        while self.plant.sim.loop.time() < end:
            await self.poll()
            await asyncio.sleep(0.5)


def play(test: Any) -> None:
    async def run(plant: Plant) -> None:
        faulty = Faulty(plant)
        await test(faulty)
        assert plant.a.security == plant.b.security == []

    story(run, routers=2)


def test_circuits_go_back_one_by_one_when_the_nearer_router_has_been_there_for_long():
    """Nothing that they carry is lost, repeated or delayed for more than a round trip."""

    async def test(faulty: Faulty):
        await faulty.begin(circuits=4)
        faulty.back()
        await faulty.polls_for(STEADY_SECONDS - 3)
        assert faulty.by() == {"router-1"}
        seen = set()
        while faulty.by() != {"router-2"}:
            await faulty.polls_for(0.5)
            seen.add(sum(one.path[1] == "router-2" for one in faulty.streams))
            assert faulty.plant.sim.loop.time() < LATEST + 30
        assert {1, 2, 3} <= seen
        await faulty.polls_for(2 * LATEST)
        assert [one.core.resumes for one in faulty.streams] == [2] * 4, "away and back, no more"

    play(test)


@pytest.mark.parametrize("near", [FAR / 2, FAR * 2])
def test_a_router_that_is_not_clearly_nearer_draws_nobody(near: float):
    async def test(faulty: Faulty):
        await faulty.begin()
        faulty.back(near)
        await faulty.polls_for(2 * LATEST)
        assert faulty.by() == {"router-1"}

    play(test)


def test_a_router_that_comes_and_goes_or_is_busy_draws_nobody():
    async def test(faulty: Faulty):
        await faulty.begin()
        for _ in range(6):
            faulty.back()
            await faulty.polls_for(STEADY_SECONDS * 0.8)
            assert faulty.by() == {"router-1"}
            faulty.near.links["edge-a"].cut()
            await faulty.poll()
        faulty.back()
        faulty.near.links["edge-a"].other.load = 3
        await faulty.polls_for(2 * LATEST)
        assert faulty.by() == {"router-1"}

    play(test)


def test_a_nearer_router_that_has_no_way_to_the_host_is_tried_once():
    async def test(faulty: Faulty):
        await faulty.begin()
        faulty.near.links["edge-b"].cut()
        faulty.back()
        before = len(faulty.near.seen)
        await faulty.polls_for(4 * LATEST)
        assert faulty.by() == {"router-1"}
        asked = [one for one in faulty.near.seen[before:] if one[1].kind is Kind.RESUME]
        assert len(asked) == 1
        assert faulty.streams[0].core.resumes == 2

    play(test)
