"""What rules are told that judge the first packet: what holds now, as soon as it does or does not any more."""

import asyncio
from collections.abc import Callable

import pytest

from overlay.errors import Code
from tests.support.edges import NOW, Plant, story

SECOND = 1_000_000
USE = ("hmi-a", "plc-b.modbus", 0)


class Told:
    """What the rules are told, with the plant's time in seconds: they ask as soon as they hear of a change."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.found: list[tuple[float, bool]] = []
        self.permits = plant.a.permits
        self.permits._changed = self.ask

    def ask(self) -> None:
        seconds = (self.plant.circuits.now() - NOW) / SECOND
        now = USE in self.permits.uses()
        if not self.found or self.found[-1][1] is not now:
            self.found.append((round(seconds, 1), now))


def now_of(plant: Plant) -> int:
    return int(plant.circuits.now())


async def kill(plant: Plant) -> None:
    plant.a.agent.state.authority.objection = Code.KILLED, "killed: plant"
    plant.a.authority_changed(None)


async def restore(plant: Plant) -> None:
    plant.a.agent.state.authority.objection = None
    plant.a.authority_changed(None)


async def pull(plant: Plant) -> None:
    await plant.a.pull("smoke")


async def release(plant: Plant) -> None:
    await plant.a.release("over")


@pytest.mark.parametrize(("end", "begin"), [(kill, restore), (pull, release)])
def test_a_kill_and_its_end_are_told_at_once(end: Callable, begin: Callable):
    async def test(plant: Plant):
        grant = plant.allow()
        told = Told(plant)
        told.ask()
        await end(plant)
        await begin(plant)
        plant.a.granted([], [grant])
        assert [holds for _, holds in told.found] == [True, False, True, False]

    story(test)


def test_what_the_clock_begins_and_ends_is_told_then():
    """A grant that is not valid yet and has an end, of a service that is killed for a while."""

    async def test(plant: Plant):
        now = now_of(plant)
        plant.allow(not_before=now + SECOND, end=now + 9 * SECOND, hold_until=now + 20 * SECOND)
        plant.a.agent.state.authority.kills["plc-b.modbus"] = now + 3 * SECOND
        told = Told(plant)
        told.ask()
        begun = told.found[0][0]
        await asyncio.sleep(20)
        moments = [(round(at - begun, 1), holds) for at, holds in told.found]
        assert moments == [(0, False), (3, True), (9, False)]

    story(test)


def test_a_conduit_that_is_to_end_is_told_when_it_ends():
    async def test(plant: Plant):
        grant = plant.allow()
        plant.a.agent.state.authority.withdrawals[grant.conduit] = now_of(plant) + 2 * SECOND
        told = Told(plant)
        told.ask()
        await asyncio.sleep(1.9)
        assert [holds for _, holds in told.found] == [True]
        await asyncio.sleep(0.2)
        assert [holds for _, holds in told.found] == [True, False]

    story(test)


def test_a_grant_that_was_not_refreshed_counts_while_the_controller_is_away():
    async def test(plant: Plant):
        now = now_of(plant)
        plant.a.agent.binds = False
        plant.allow(refresh_by=now + SECOND, hold_until=now + 100 * SECOND)
        told = Told(plant)
        told.ask()
        await asyncio.sleep(5)
        assert [holds for _, holds in told.found] == [True]
        plant.a.agent.binds = True
        told.permits.tick()
        assert [holds for _, holds in told.found] == [True, False]

    story(test)


def test_grants_are_looked_at_when_something_has_changed_and_not_at_each_question():
    async def test(plant: Plant):
        plant.allow()
        looks = 0
        judge = plant.a.permits._judge

        def counted():
            nonlocal looks
            looks += 1
            return judge()

        plant.a.permits._judge = counted
        for _ in range(100):
            assert plant.a.permits.uses() == {USE}
            plant.a.permits.tick()
        assert looks == 1

    story(test)
