"""What an edge does with its links when its host's addresses or routes change (L-39)."""

import asyncio
from typing import Any

from overlay.aio.dialer import Dialer
from overlay.aio.uplinks import Target, Uplinks
from tests.support.simulation import Simulation


class FakeLink:
    """A link that only remembers what it was asked."""

    name = "router-1"
    remote = ("192.0.2.1", 7443)

    def __init__(self) -> None:
        self.doubts: list[bool] = []
        self._closed = asyncio.get_running_loop().create_future()

    def doubt(self, lost: bool) -> None:
        self.doubts.append(lost)

    def end(self) -> None:
        self._closed.set_result(None)


class Credentials:
    leaf = None


class Stage:
    """Uplinks to one router; attempts come to an end when `answers` says so."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.attempts: list[float] = []
        self.links: list[FakeLink] = []
        self.answers = asyncio.Event()
        nothing: Any = Credentials()
        self.uplinks = Uplinks(sim.host("edge").world, self._dial, lambda: nothing)

    async def _dial(self, _: Target) -> Any:
        self.attempts.append(self.sim.loop.time())
        await self.answers.wait()
        self.links.append(FakeLink())
        return self.links[-1]


def run(story: Any) -> None:
    sim = Simulation()

    async def program() -> None:
        stage = Stage(sim)
        stage.uplinks.set_targets([Target("router-1", "192.0.2.1", 7443)])
        await asyncio.sleep(0.1)
        await story(stage)
        await stage.uplinks.close()

    async def whole() -> None:
        await sim.host("edge").task(program())

    sim.run(whole())


def test_a_link_is_doubted_and_lost_only_where_packets_leave_from_another_address():
    async def story(stage: Stage) -> None:
        stage.answers.set()
        await asyncio.sleep(0.1)
        (link,) = stage.links
        stage.uplinks.network_changed()
        stage.sim.net.sources["edge"] = "198.51.100.7"
        stage.uplinks.network_changed()
        stage.sim.net.sources["edge"] = ""  # there is no way at all
        stage.uplinks.network_changed()
        assert link.doubts == [False, True, True]
        link.end()
        await asyncio.sleep(0.2)
        assert len(stage.links) == 2
        stage.uplinks.network_changed()
        assert stage.links[1].doubts == [False], "it was dialed as things are now"

    run(story)


def test_an_attempt_that_waits_on_a_way_that_is_no_more_begins_anew():
    async def story(stage: Stage) -> None:
        assert len(stage.attempts) == 1
        stage.uplinks.network_changed()
        await asyncio.sleep(0.01)
        assert len(stage.attempts) == 2
        for _ in range(9):
            await asyncio.sleep(0.1)
            stage.uplinks.network_changed()
        assert len(stage.attempts) == 2, "not more often than an attempt can take"
        await asyncio.sleep(0.2)
        stage.uplinks.network_changed()
        await asyncio.sleep(0.01)
        assert len(stage.attempts) == 3
        stage.answers.set()
        await asyncio.sleep(0.1)
        assert len(stage.links) == 1

    run(story)


def test_who_stops_while_an_attempt_is_under_way_stops():
    async def story(stage: Stage) -> None:
        async with asyncio.timeout(1):
            await stage.uplinks.close()
        stage.uplinks.network_changed()
        await asyncio.sleep(1)
        assert len(stage.attempts) == 1

    run(story)


def test_a_map_that_comes_after_the_end_begins_nothing():
    """By a link that was still up; an edge that had stopped dialed for ever."""

    async def story(stage: Stage) -> None:
        stage.uplinks.set_targets([])
        await stage.uplinks.rest()
        stage.uplinks.set_targets([Target("router-1", "192.0.2.1", 7443)])
        await asyncio.sleep(0.1)
        assert len(stage.attempts) == 2, "a rest has an end"
        await stage.uplinks.close()
        stage.uplinks.set_targets([Target("router-2", "192.0.2.2", 7443)])
        await asyncio.sleep(10.0)
        assert len(stage.attempts) == 2

    run(story)


def test_a_link_that_comes_up_while_its_dialer_closes_is_ended():
    """Nobody else would ever end it: the dialer that made it is gone before it is told."""

    async def story(stage: Stage) -> None:
        up, ended = asyncio.Event(), list[Any]()

        async def dial() -> Any:
            await stage.answers.wait()
            up.set()
            return "link"

        dialer = Dialer(stage.sim.host("edge").world, "router-1", dial, drop=ended.append)
        dialer.start()
        await asyncio.sleep(0.1)
        stage.answers.set()
        await up.wait()
        assert dialer.link is None
        await dialer.close()
        assert ended == ["link"]

    run(story)
