"""How often a follower looks again."""

import asyncio

from controller.api import follow
from tests.support.simulation import Simulation


def test_the_first_look_after_a_quiet_time_is_at_once_and_others_keep_their_distance():
    sim = Simulation()

    async def story() -> None:
        pace = follow._Pace()
        times = []
        for _ in range(3):
            await pace.keep()
            times.append(sim.loop.time())
        await asyncio.sleep(10)
        quiet = sim.loop.time()
        await pace.keep()
        assert sim.loop.time() == quiet
        assert [round(at - times[0], 6) for at in times] == [
            0,
            follow.FOLLOW_PAUSE,
            2 * follow.FOLLOW_PAUSE,
        ]

    sim.run(story())
