"""Health of hosted assets (K-11): hysteresis, what routers are told, and which callers are sent elsewhere (C-18)."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest

from edge.host.checks import ANSWER, AT_ONCE, Checks
from edge.host.health import FALL, RISE, Health, State
from overlay.control.messages import Assignments, HostedEntry
from overlay.errors import Code
from tests.support.circuits import Node
from tests.support.circuits import Plant as Circuits
from tests.support.edges import ASSET, PORT, Plant, story
from tests.support.simulation import Simulation

EVERY = 10


def hosted(health: int = EVERY, *, service: str = "plc-b.modbus", port: int = PORT) -> HostedEntry:
    return HostedEntry(service, ASSET, ASSET, port, port, 0, 0, health)


def test_it_takes_several_failures_to_be_down_and_several_answers_to_be_up():
    health = Health()
    assert (health.state, health.seen("", 1), health.state) == (State.UNKNOWN, False, State.UP)
    for _ in range(5):  # one lost packet now and then is no news
        for _ in range(FALL - 1):
            assert not health.seen("no answer", 2)
            assert health.in_doubt
        assert not health.seen("", 3)
        assert not health.in_doubt
    told = [health.seen("no answer", 10 + turn) for turn in range(FALL)]
    assert told == [False] * (FALL - 1) + [True]
    assert (health.state, health.since, health.in_doubt) == (State.DOWN, 10 + FALL - 1, False)
    for _ in range(5):
        for _ in range(RISE - 1):
            assert not health.seen("", 20)
            assert health.in_doubt
        assert not health.seen("no answer", 20)
        assert health.state is State.DOWN
    told = [health.seen("", 30 + turn) for turn in range(RISE)]
    assert told == [False] * (RISE - 1) + [True]
    assert (health.state, health.since) == (State.UP, 30 + RISE - 1)


def test_an_asset_that_never_answered_is_down_only_after_as_many_failures():
    health = Health()
    assert [health.seen("no answer", 1) for _ in range(FALL)] == [False] * (FALL - 1) + [True]
    assert (health.checks, health.failures) == (FALL, FALL)


def test_routers_and_the_audit_hear_of_an_asset_that_went_down_and_came_back():
    async def test(plant: Plant):
        agent = plant.b.agent
        plant.b.assigned(Assignments(2, b"", (), (hosted(),)))
        await asyncio.sleep(EVERY * 2)
        assert plant.b.checks.status()[0]["state"] == "up"
        assert agent.attacher.told == []
        plant.allow()
        running = await plant.poll()
        plant.sim.net.cut("edge-b", ASSET)
        await asyncio.sleep(EVERY + FALL * (5 + 1) + 1)
        assert agent.attacher.told == [(ASSET,)]
        (down,) = agent.of("asset.down", "failed")
        assert (down["asset"], down["service"], down["address"]) == (
            ASSET, "plc-b.modbus", f"{ASSET}:{PORT}",
        )  # fmt: skip
        assert "does not answer within 2 s" in down["reason"]
        assert plant.b.status()["health"][0]["state"] == "down"
        plant.sim.net.heal("edge-b", ASSET)
        await asyncio.sleep(EVERY * 2 + RISE)
        assert agent.attacher.told == [(ASSET,), ()]
        assert len(agent.of("asset.up", "done")) == 1
        assert not running.gone, "K-11: nothing is cut by it"

    story(test)


def test_one_lost_answer_is_no_news():
    async def test(plant: Plant):
        plant.b.assigned(Assignments(2, b"", (), (hosted(),)))
        await asyncio.sleep(EVERY + 1)
        plant.sim.net.cut("edge-b", ASSET)
        await asyncio.sleep(EVERY + ANSWER)  # the next check fails, the one after it does not
        plant.sim.net.heal("edge-b", ASSET)
        await asyncio.sleep(EVERY * 3)
        assert plant.b.status()["health"][0]["failures"] > 0
        assert plant.b.status()["health"][0]["state"] == "up"
        assert plant.b.agent.of("asset.down") == []

    story(test)


def test_what_is_not_hosted_or_not_checked_any_more_is_not_down_and_not_asked():
    async def test(plant: Plant):
        agent = plant.b.agent
        plant.sim.net.cut("edge-b", ASSET)
        plant.b.assigned(Assignments(2, b"", (), (hosted(1),)))
        await asyncio.sleep(20)
        assert agent.attacher.down == (ASSET,)
        same = plant.b.status()["health"]
        plant.b.assigned(Assignments(3, b"", (), (hosted(1), hosted(0, service="plc-b.http"))))
        assert plant.b.status()["health"] == same, "what stays as it was keeps what is known of it"
        plant.b.assigned(Assignments(4, b"", (), (hosted(0),)))
        await asyncio.sleep(1)
        assert agent.attacher.down == ()
        assert plant.b.status()["health"] == []

    story(test)


SOUND = "10.0.0.2"


class Slow:
    """A network in which only `SOUND` answers; it counts, and keeps when which port was asked."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.asked: dict[int, list[float]] = {}

    async def connect(self, host: str, port: int) -> Any:
        self.asked.setdefault(port, []).append(asyncio.get_running_loop().time())
        if host == SOUND:
            return Answered()
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(3600)
        finally:
            self.now -= 1


class Answered:
    """A connection."""

    def close(self) -> None:
        """It is not used."""


def test_a_thousand_silent_assets_are_asked_on_time_and_nobody_waits_for_them():
    async def test() -> None:
        told: list[tuple[str, ...]] = []
        changes: list[Any] = []
        world: Any = sim.host("edge").world
        net = world.net = Slow()
        checks = Checks(world, lambda: 1, changes.append, told.append)
        entries = [
            HostedEntry(f"plc-{n}.modbus", f"plc-{n}", SOUND if n % 50 == 0 else "10.0.0.1",
                        1000 + n, 1000 + n, 0, 0, EVERY)
            for n in range(1020)
        ]  # fmt: skip
        silent = sum(one.address != SOUND for one in entries)
        checks.assign(entries)
        await asyncio.sleep(EVERY + FALL * ANSWER + 1)
        assert len(changes) == silent, "each is down as soon as a single one would be"
        await asyncio.sleep(3 * EVERY)
        late = max(
            later - before for times in net.asked.values() for before, later in pairwise(times)
        )
        assert late <= EVERY + 0.1
        assert len(net.asked) == len(entries)
        await checks.close()

    sim = Simulation(4)
    sim.run(test())


def test_many_assets_are_asked_in_turn_and_a_bounded_number_at_once():
    async def test() -> None:
        told: list[tuple[str, ...]] = []
        changes: list[Any] = []
        world: Any = sim.host("edge").world
        net = world.net = Slow()
        checks = Checks(world, lambda: 1, changes.append, told.append)
        entries = [
            HostedEntry(f"plc-{n}.modbus", f"plc-{n}", "10.0.0.1", 502, 502, 0, 0, 5)
            for n in range(AT_ONCE + 64)
        ]
        checks.assign(entries)
        await asyncio.sleep(4)
        assert 0 < net.most <= AT_ONCE
        await asyncio.sleep(20)
        assert net.most == AT_ONCE
        assert len(changes) == len(entries)
        assert len(told[-1]) == len(entries)
        assert len(told) < len(entries) / 2, "changes are told together"
        checks.assign(entries * 3)
        assert len(checks._due) <= len(entries)
        await checks.close()

    sim = Simulation(3)
    sim.run(test())


@pytest.mark.parametrize("hosts", [("edge-b",), ("edge-b", "edge-c")])
def test_an_association_does_not_bind_a_caller_to_a_host_whose_asset_is_down(
    hosts: tuple[str, ...],
):
    """C-18: the caller begins anew, and its router chooses; with nobody else it is tried all the same."""

    async def test() -> None:
        plant = Circuits(sim)
        third: Any = Node(plant, "edge-c", plant.pki.edge("edge-c"))
        plant.router.attach(third.endpoint, third.leaf)
        await plant.up()
        grant = plant.grant(hosts=hosts)
        await plant.a.endpoint.dial("plc-b.modbus", grant)
        assert len(plant.b.incoming) == 1
        plant.b.endpoint.elsewhere = lambda one: one.asset == "plc-b"
        # This router does not know, and chooses the same host again: it takes the circuit.
        await plant.a.endpoint.dial("plc-b.modbus", grant)
        assert len(plant.b.incoming) == 2
        plant.router.down.add("edge-b")
        stream = await plant.a.endpoint.dial("plc-b.modbus", grant)
        elsewhere = len(hosts) > 1
        assert (len(plant.b.incoming), len(third.incoming)) == ((2, 1) if elsewhere else (3, 0))
        assert plant.b.declined == [], "no attempt is over by it"
        stream.abort(Code.NORMAL, "")
        for node in (plant.a, plant.b, third):
            node.endpoint.close()
        await asyncio.sleep(1)

    sim = Simulation(5)
    sim.run(test())
