"""What every node asks and tells every few seconds costs the controller no look at the store of its own (K-03, K-06)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from controller.actions import nodes
from controller.actions import requests as r
from controller.actions.errors import Unavailable
from controller.store.store import StoreError
from tests.support.controllers import ADMIN, Mill
from tests.unit.controller.actions.test_recording import CIRCUIT, opens


class Reads:
    """Counts transactions that read the store, and can take it away, or hold one up when it has read."""

    def __init__(self, plant: Mill, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.away = False
        self.held: asyncio.Event | None = None
        self._read = plant.controller.store.read
        monkeypatch.setattr(plant.controller.store, "read", self)

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[AsyncSession]:
        self.count += 1
        held, self.held = self.held, None
        await asyncio.sleep(0.01)
        if self.away:
            raise StoreError("The store is away")
        async with self._read() as session:
            yield session
        if held is not None:
            await held.wait()


@pytest.fixture
def reads(plant: Mill, monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(plant, monkeypatch)


async def test_the_store_is_looked_at_once_for_all_who_ask_for_the_version(
    plant: Mill, reads: Reads
):
    ask = plant.actions.authority_version
    asked = await asyncio.gather(*(ask() for _ in range(100)))
    assert len(set(asked)) == 1
    assert reads.count == 1
    plant.controller.pass_(nodes.LOOK_SECONDS - 0.01)
    assert await ask() == asked[0]
    assert reads.count == 1
    plant.controller.pass_(0.02)
    assert await ask() == asked[0]
    assert reads.count == 2


async def test_a_kill_is_in_the_very_next_answer(plant: Mill, reads: Reads):
    before = await plant.actions.authority_version()
    await plant.actions.kill(ADMIN, r.NewKill(level="plant"))
    assert await plant.actions.authority_version() == before + 1


async def test_whoever_asks_after_a_kill_gets_nothing_that_was_read_before_it(
    plant: Mill, reads: Reads
):
    before = await plant.actions.authority_version()
    plant.controller.pass_(nodes.LOOK_SECONDS)
    held = reads.held = asyncio.Event()
    sooner = asyncio.ensure_future(plant.actions.authority_version())
    await asyncio.sleep(0.1)  # the old version is read, and on its way
    await plant.actions.kill(ADMIN, r.NewKill(level="plant"))
    later = asyncio.ensure_future(plant.actions.authority_version())
    await asyncio.sleep(0)
    held.set()
    assert await later == before + 1
    assert await sooner >= before


async def test_a_controller_without_its_store_answers_for_a_second_at_most(
    plant: Mill, reads: Reads
):
    ask = plant.actions.authority_version
    await ask()
    reads.away, reads.count = True, 0
    plant.controller.pass_(nodes.LOOK_SECONDS)
    answers = await asyncio.gather(*(ask() for _ in range(100)), return_exceptions=True)
    assert [type(one) for one in answers] == [Unavailable] * 100
    assert reads.count <= 2, "a failure is told to all who had asked before that look"
    with pytest.raises(Unavailable):
        await ask()
    reads.away = False
    assert await ask() >= 1


async def test_whoever_is_cancelled_at_a_look_holds_nobody_up(plant: Mill, reads: Reads):
    first = asyncio.ensure_future(plant.actions.authority_version())
    others = [asyncio.ensure_future(plant.actions.authority_version()) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    assert min(await asyncio.gather(*others)) >= 1
    assert first.cancelled()


async def test_a_report_of_the_same_circuits_looks_for_nothing(plant: Mill, reads: Reads):
    edge, circuit = plant.edge_b, bytes.fromhex(CIRCUIT)
    live = plant.actions.node_live
    for _ in range(3):
        await live(edge.leaf, ())
    assert reads.count == 1
    await plant.actions.record_events(edge.leaf, 1, [opens(edge)])
    reads.count = 0
    await live(edge.leaf, ((circuit, 1, 2),))
    await live(edge.leaf, ((circuit, 3, 4),))
    assert reads.count == 1
    (session,) = await plant.actions.sessions(ADMIN)
    assert (session.bytes_in, session.bytes_out) == (3, 4), "bytes count all the same"


async def test_a_circuit_that_opens_between_two_equal_reports_is_missed(plant: Mill, reads: Reads):
    edge, live = plant.edge_b, plant.actions.node_live
    await live(edge.leaf, ())
    await live(edge.leaf, ())
    await plant.actions.record_events(edge.leaf, 1, [opens(edge)])
    await live(edge.leaf, ())
    await live(edge.leaf, ())
    assert await plant.actions.sessions(ADMIN) == [], "missing twice it has ended"


async def test_a_report_during_which_the_store_was_away_is_looked_at_again(
    plant: Mill, reads: Reads
):
    edge, live = plant.edge_b, plant.actions.node_live
    await plant.actions.record_events(edge.leaf, 1, [opens(edge)])
    reads.away = True
    with pytest.raises(Unavailable):
        await live(edge.leaf, ())
    reads.away = False
    await live(edge.leaf, ())
    await live(edge.leaf, ())
    assert await plant.actions.sessions(ADMIN) == []


async def test_a_controller_without_its_store_grants_nothing(plant: Mill, reads: Reads):
    """Whatever it remembers: what was withdrawn meanwhile, it would not know."""
    await plant.actions.allow(ADMIN, r.Allow(who="hmi-a", to="plc-b", protocol="modbus"))
    assert len(await plant.actions.grants_for(plant.edge_a.leaf)) == 1
    reads.away = True
    plant.controller.pass_(nodes.LOOK_SECONDS)
    with pytest.raises(Unavailable):
        await plant.actions.grants_for(plant.edge_a.leaf)


async def test_what_nodes_have_to_do_is_read_once_after_a_change_for_all_of_them(
    plant: Mill, reads: Reads
):
    async def look() -> list[object]:
        found: list[object] = []
        for node in (plant.edge_a, plant.edge_b, plant.router) * 10:
            found.append(await plant.actions.assignments_for(node.leaf))
            found.append(await plant.actions.grants_for(node.leaf))
        return found

    before = await look()
    reads.count = 0
    assert await look() == before
    assert reads.count == 0
    await plant.actions.allow(ADMIN, r.Allow(who="hmi-a", to="plc-b", protocol="modbus"))
    reads.count = 0
    assert await look() != before
    assert reads.count <= 5, "versions, map, what is assigned, the plant; certificates are the same"
