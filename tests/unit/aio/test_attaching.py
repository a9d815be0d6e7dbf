"""When a node says anew where it is attached (F-10, F-16)."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from overlay.aio.attaching import MOVED_SECONDS, RENEW_SECONDS, Attacher
from overlay.fabric.paths import UNMEASURED_COST
from overlay.identity.certificate import Role
from overlay.link.load import COSTS
from overlay.wire.bodies import Attach, Attachment
from overlay.wire.codec import Signed, decode
from tests.support.pki import NOW, Pki
from tests.support.simulation import Simulation


class Stage:
    """An edge, or another router, with one link, whose attacher looks once a second."""

    def __init__(self, role: Role = Role.EDGE) -> None:
        self.credentials = Pki().node(role, "node")
        self.sent: list[Attach] = []
        self.link: Any = SimpleNamespace(
            name="router-1", over=False, going_away=False, sound=True, round_trip=None, load=0,
            peer=SimpleNamespace(identity=SimpleNamespace(role=Role.ROUTER)),
            send_control=self.sent.append,
        )  # fmt: skip
        self.attacher = Attacher(lambda: self.credentials, lambda: NOW, 1, lambda: [self.link])
        self.attacher.announce()

    async def news(self, seconds: float, *trips: float) -> list[int]:
        """The costs (µs) that are said within this time, while round trips (seconds) take turns."""
        before = len(self.sent)
        for second in range(int(seconds)):
            if trips:
                self.link.round_trip = trips[second % len(trips)]
            await asyncio.sleep(1)
            self.attacher.tick()
        return [
            decode(Attachment, decode(Signed, one.attachments[0]).body).routers[0][1]
            for one in self.sent[before:]
        ]


def play(test: Any, role: Role = Role.EDGE) -> None:
    async def story() -> None:
        await test(Stage(role))

    Simulation(1).run(story())


def test_what_is_measured_first_is_said_soon():
    async def test(stage: Stage):
        body = decode(Attachment, decode(Signed, stage.sent[0].attachments[0]).body)
        assert body.routers == (("router-1", UNMEASURED_COST),)
        assert await stage.news(MOVED_SECONDS, 0.15) == [75_000]

    play(test)


def test_a_link_that_became_slow_or_fast_is_said_and_only_once():
    async def test(stage: Stage):
        assert await stage.news(MOVED_SECONDS, 0.04) == [20_000]
        assert await stage.news(MOVED_SECONDS + 5, 0.08) == [40_000]
        assert await stage.news(MOVED_SECONDS + 5, 0.04) == [20_000]

    play(test)


def test_noise_is_not_said():
    """Neither what is small nor what is less than twice as much; half a life later it is renewed as ever."""

    async def test(stage: Stage):
        assert await stage.news(RENEW_SECONDS - 1, 0.0002, 0.0119) == []
        assert len(await stage.news(1)) == 1
        assert await stage.news(MOVED_SECONDS, 0.1) == [50_000]
        assert await stage.news(RENEW_SECONDS - 1, 0.07, 0.19) == []

    play(test)


def test_a_link_that_is_never_the_same_is_said_so_often_and_not_more():
    async def test(stage: Stage):
        said = await stage.news(6 * MOVED_SECONDS, 0.01, 0.1, 0.4)
        assert 3 <= len(said) <= 6

    play(test)


@pytest.mark.parametrize("role", [Role.EDGE, Role.ROUTER])
def test_the_load_of_a_router_costs_who_has_to_pass_it(role: Role):
    """F-17: a way to an edge has come by its router already, one over another router leads on through it."""

    async def test(stage: Stage):
        stage.link.round_trip = 0.002
        stage.attacher.announce()
        stage.link.load = 2
        news = await stage.news(2 * MOVED_SECONDS)
        assert news == ([1000 + COSTS[2]] if role is Role.ROUTER else [])

    play(test, role)
