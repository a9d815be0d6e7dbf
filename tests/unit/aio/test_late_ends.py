"""Ends that nobody waits for leave a few at a time, soon, and none is lost (`overlay.aio.late_ends`)."""

import asyncio
from functools import partial

from overlay.aio import late_ends as module
from overlay.aio.late_ends import PATIENCE, PER_TURN, WAITING, late_ends
from overlay.aio.pump import Pump
from tests.support.edges import Plant, story
from tests.support.simulation import Simulation

TRIP = 0.05
"""More than the way through the simulated plant takes."""


def simulate(test) -> None:
    Simulation(0).run(test())


def test_ends_of_a_moment_are_said_together_in_their_order():
    async def test():
        loop = asyncio.get_running_loop()
        said: list[tuple[int, float]] = []
        begun = loop.time()
        for number in range(3):
            late_ends().add(partial(lambda one: said.append((one, loop.time() - begun)), number))
            await asyncio.sleep(PATIENCE / 4)
        assert said == []
        await asyncio.sleep(PATIENCE)
        assert [one for one, _ in said] == [0, 1, 2]
        assert {round(at, 6) for _, at in said} == {PATIENCE}
        assert len(late_ends()) == 0

    simulate(test)


def test_a_turn_of_the_loop_says_no_more_than_so_many():
    async def test():
        loop = asyncio.get_running_loop()
        said = 0
        in_a_turn: list[int] = []

        def end() -> None:
            nonlocal said
            said += 1

        def look(before: int) -> None:
            in_a_turn.append(said - before)
            if len(late_ends()):
                loop.call_soon(look, said)

        for _ in range(3 * PER_TURN):
            late_ends().add(partial(end))
        loop.call_later(PATIENCE, look, 0)
        await asyncio.sleep(2 * PATIENCE)
        assert said == 3 * PER_TURN
        assert max(in_a_turn) <= PER_TURN

    simulate(test)


def test_when_too_many_wait_all_leave_at_once():
    async def test():
        said: list[int] = []
        for number in range(WAITING):
            late_ends().add(partial(said.append, number))
        assert said == []
        late_ends().add(partial(said.append, WAITING))
        assert said == list(range(WAITING + 1))
        await asyncio.sleep(PATIENCE)

    simulate(test)


def test_one_that_is_discarded_is_not_said():
    async def test():
        said: list[int] = []
        end = partial(said.append, 1)
        late_ends().add(end)
        assert late_ends().discard(end)
        assert not late_ends().discard(end)
        await asyncio.sleep(PATIENCE)
        assert said == []

    simulate(test)


class Stream:
    """A circuit that counts its ends."""

    def __init__(self) -> None:
        self.outcome: object = None
        self.ends = 0

    def end(self) -> None:
        self.ends += 1

    def send(self, data) -> None: ...

    def consumed(self, count: int) -> None: ...

    def room(self) -> int:
        return 1024


class Application:
    """A connection that takes everything."""

    def write(self, parts) -> int:
        return len(parts[0])

    def end(self) -> None: ...

    def release(self) -> None: ...

    def settle(self) -> None: ...


def pump() -> tuple[Pump, Stream]:
    stream = Stream()
    return Pump(Application(), stream), stream  # type: ignore[arg-type]


def test_who_waits_for_an_answer_ends_at_once():
    async def test():
        for answered_before in (False, True):
            one, stream = pump()
            if answered_before:
                one.data(b"answer")
            one.received(5)
            one.ended()
            assert stream.ends == 1

    simulate(test)


def test_who_has_the_answer_ends_a_moment_later_and_once():
    async def test():
        one, stream = pump()
        one.received(5)
        one.data(b"answer")
        one.ended()
        assert stream.ends == 0
        await asyncio.sleep(PATIENCE)
        assert stream.ends == 1

    simulate(test)


def test_the_last_word_of_both_is_said_at_once():
    async def test():
        one, stream = pump()
        one.data(b"answer")
        one.half_closed()
        one.ended()
        assert stream.ends == 1

    simulate(test)


def test_a_circuit_that_is_over_meanwhile_is_left_alone():
    async def test():
        one, stream = pump()
        one.data(b"answer")
        one.ended()
        stream.outcome = "over"
        await asyncio.sleep(PATIENCE)
        assert stream.ends == 0

    simulate(test)


def test_an_end_that_waits_goes_along_to_another_event_loop():
    async def test():
        one, stream = pump()
        one.data(b"answer")
        one.ended()
        one.release()
        await asyncio.sleep(PATIENCE)
        assert stream.ends == 0
        one.settle()
        assert stream.ends == 1

    simulate(test)


def test_the_host_hears_of_it_within_the_patience():
    async def test(plant: Plant):
        plant.allow()
        client = await plant.poll()
        client.connection.end()
        await asyncio.sleep(PATIENCE + TRIP)
        assert client.gone
        (closed,) = plant.b.agent.of("circuit.close")
        assert closed["reason"] == "closed"

    story(test)


def test_an_edge_that_stops_says_the_ends_that_wait(monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 3600.0)

    async def test(plant: Plant):
        plant.allow()
        client = await plant.poll()
        client.connection.end()
        await asyncio.sleep(1.0)
        assert len(late_ends()) == 1
        assert not plant.b.agent.of("circuit.close")
        plant.a.endpoint.close()
        assert len(late_ends()) == 0

    story(test)
