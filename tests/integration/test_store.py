"""The action layer on both databases: the same plant, the same rules, the same log."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

from controller.actions import requests as r
from controller.actions.errors import Conflict, Unavailable
from controller.founding import found, reopen
from controller.store.migrate import _config, revision_of
from controller.store.store import StoreError, local_url, open_store
from overlay.audit.event import EventName, Outcome
from overlay.audit.export import Verifier
from overlay.errors import FerruleError
from tests.support.controllers import ADMIN, PASSWORD, Controller, HandWorld, Mill, controller, mill
from tests.support.postgresql import Server, server
from tests.unit.controller.actions.test_conduits import allow, grants
from tests.unit.controller.actions.test_recording import check_proofs, closes, opens, up


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Server]:
    with server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
async def made(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Controller]:
    url = ""
    if request.param == "postgresql":
        url = request.getfixturevalue("postgresql").database()
    async with controller(tmp_path, store=url) as made:
        yield made


@pytest.fixture
async def plant(made: Controller) -> Mill:
    return await mill(made)


async def test_the_life_of_a_plant(plant: Mill):
    actions = plant.actions
    await actions.add_zone(ADMIN, r.NewZone(name="hall", level=3))
    await actions.set_object(
        ADMIN, "asset", "plc-b", r.Changes(changes={"zone": "hall", "tag": "a,b"})
    )
    made = await actions.allow(ADMIN, allow(for_="2h"))
    assert len(await grants(plant, plant.edge_a)) == 1
    sent = [opens(plant.edge_b), up(plant.edge_b, reason="zero \0 byte"), closes(plant.edge_b)]
    check_proofs(plant, await actions.record_events(plant.edge_b.leaf, 1, sent[:1]), sent[:1])
    assert len(await actions.sessions(ADMIN)) == 1
    await actions.kill_session(ADMIN, r.KillSession(id="ab" * 16))
    check_proofs(plant, await actions.record_events(plant.edge_b.leaf, 1, sent), sent)
    assert await actions.sessions(ADMIN) == []
    for level, name in (
        ("identity", "hmi-a"),
        ("zone", "hall"),
        ("service", "plc-b.modbus"),
        ("plant", ""),
    ):
        await actions.kill(ADMIN, r.NewKill(level=level, name=name, for_="1h"))  # type: ignore[arg-type]
    await actions.restore(ADMIN, r.Restore(level="plant"))
    denied = await actions.deny(ADMIN, r.Deny(conduit=made.id))
    assert denied.still == ()
    await actions.revoke(ADMIN, r.Revoke(kind="edge", name="edge-a", reason="stolen"))
    plant.controller.pass_(7200)
    await actions.tick()
    assert await actions.list_objects(ADMIN, "kill") == []
    with pytest.raises(Conflict):
        await actions.remove_object(ADMIN, "zone", "hall")
    logged = await actions.login(r.Login(user="ada", password=PASSWORD), "127.0.0.1")
    assert await actions.session(logged.token) == ADMIN
    verified = await actions.audit_verify(ADMIN)
    assert verified.ok, verified.problems
    verifier = Verifier(actions.anchor)
    async for piece in actions.audit_export(ADMIN):
        for line in piece.splitlines():
            verifier.line(line)
    assert verifier.verdict().ok, verifier.verdict().problems


async def test_everything_is_there_after_a_restart(plant: Mill):
    actions = plant.actions
    await actions.allow(ADMIN, allow())
    await actions.kill(ADMIN, r.NewKill(level="plant"))
    before = [await actions.list_objects(ADMIN, kind) for kind in ("edge", "conduit", "kill")]
    version, records = await actions.authority_version(), await actions.audit_tail(ADMIN)
    await plant.controller.store.close()
    again, store = await reopen(plant.controller.world, plant.controller.directory)
    for node in (plant.edge_a, plant.edge_b, plant.router):
        await again.node_connected(node.leaf, "0.1.0", 1)
    assert [await again.list_objects(ADMIN, kind) for kind in ("edge", "conduit", "kill")] == before
    assert await again.authority_version() == version
    assert await again.audit_tail(ADMIN) == records
    await store.close()


async def test_many_at_once_take_turns(plant: Mill):
    async def zones(first: int) -> None:
        for number in range(first, first + 5):
            await plant.actions.add_zone(ADMIN, r.NewZone(name=f"z{number}"))

    async def report() -> None:
        for _ in range(10):
            number = plant.edge_b.numbers + 1
            sent = [up(plant.edge_b) for _ in range(8)]
            answer = await plant.actions.record_events(plant.edge_b.leaf, number, sent)
            check_proofs(plant, answer, sent)

    async def read() -> None:
        for _ in range(20):
            await plant.actions.status(ADMIN)
            await plant.actions.authority()

    await asyncio.gather(zones(0), zones(100), report(), read(), read(), read())
    assert (await plant.actions.audit_verify(ADMIN)).ok
    assert len(await plant.actions.list_objects(ADMIN, "zone")) == 10


async def test_a_circuit_shows_as_soon_as_it_is_recorded(plant: Mill):
    for number in range(1, 11):
        sent = [opens(plant.edge_b, circuit=f"{number:032x}")]
        await plant.actions.record_events(plant.edge_b.leaf, number, sent)
        assert len(await plant.actions.sessions(ADMIN)) == number


async def test_verify_finds_a_changed_record(plant: Mill):
    await plant.actions.record_events(
        plant.edge_b.leaf, 1, [plant.edge_b.event(EventName.LINK_UP, Outcome.DONE)]
    )
    assert (await plant.actions.audit_verify(ADMIN)).ok
    async with plant.controller.store.write() as session:
        await session.execute(text("UPDATE records SET who = 'eve' WHERE seq = 3"))
    assert not (await plant.actions.audit_verify(ADMIN)).ok
    async with plant.controller.store.write() as session:
        await session.execute(text("DELETE FROM records WHERE seq = 3"))
    assert not (await plant.actions.audit_verify(ADMIN)).ok


async def test_two_controllers_of_one_store_never_share_a_number(plant: Mill):
    """Not how it is run today; what protects the log is in the database all the same."""
    other, store = await reopen(plant.controller.world, plant.controller.directory)
    await asyncio.gather(
        *(one.add_zone(ADMIN, r.NewZone(name=f"{name}{number}"))
          for number in range(5) for name, one in (("a", plant.actions), ("b", other)))
    )  # fmt: skip
    assert (await other.audit_verify(ADMIN)).ok
    assert len(await plant.actions.list_objects(ADMIN, "zone")) == 10
    await store.close()


async def test_postgresql_that_goes_away_and_comes_back(postgresql: Server, tmp_path: Path):
    async with controller(tmp_path, store=postgresql.database()) as made:
        await made.actions.add_zone(ADMIN, r.NewZone(name="before"))
        await asyncio.to_thread(postgresql.stop)
        try:
            with pytest.raises(Unavailable):
                await made.actions.add_zone(ADMIN, r.NewZone(name="during"))
            with pytest.raises(Unavailable):
                await made.actions.authority_version()
            with pytest.raises(Unavailable):
                await made.actions.status(ADMIN)
        finally:
            await asyncio.to_thread(postgresql.start)
        await made.actions.authority_version()
        await made.actions.add_zone(ADMIN, r.NewZone(name="after"))
        zones = await made.actions.list_objects(ADMIN, "zone")
        assert [one.name for one in zones] == ["after", "before"]  # type: ignore[attr-defined]
        assert (await made.actions.audit_verify(ADMIN)).ok


async def test_init_wants_an_empty_database(postgresql: Server, tmp_path: Path):
    url = postgresql.database()
    await found(HandWorld(), tmp_path / "a", "mill", "ada", PASSWORD, store=url)
    with pytest.raises(FerruleError, match="not empty"):
        await found(HandWorld(), tmp_path / "b", "mill", "ada", PASSWORD, store=url)
    assert not (tmp_path / "b").exists()


async def test_a_failed_init_leaves_the_database_empty_for_the_next(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = postgresql.database()
    world = HandWorld()
    monkeypatch.setattr("controller.founding._publish", _full)
    with pytest.raises(OSError, match="full"):
        await found(world, tmp_path / "a", "mill", "ada", PASSWORD, store=url)
    monkeypatch.undo()
    await found(world, tmp_path / "a", "mill", "ada", PASSWORD, store=url)


def _full(*_: object) -> None:
    raise OSError(28, "full")


async def test_migrations_make_the_same_tables_on_postgresql(postgresql: Server):
    store = open_store(postgresql.database())
    await store.migrate()
    await store.migrate()
    async with store.write() as session:
        from alembic.autogenerate import compare_metadata
        from alembic.migration import MigrationContext

        from controller.store.tables import Base

        def difference(sync) -> list[object]:
            context = MigrationContext.configure(sync.connection(), opts={"compare_type": True})
            return list(compare_metadata(context, Base.metadata))

        assert await session.run_sync(difference) == []
    await store.close()


CIRCUIT = {
    "id": "ab" * 16, "who": "hmi-a", "via": "edge-a", "asset": "plc-b", "service": "plc-b.modbus", "address": "",
    "path": "[]", "conduit": "c1", "ended": 0, "end_reason": "", "bytes_in": 7, "bytes_out": 8,
    "key_exchange": "", "integrity": "normal", "moves": 0,
}  # fmt: skip


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
async def test_sessions_of_an_older_store_stay_and_get_room_for_those_of_other_nodes(
    database: str, request: pytest.FixtureRequest, tmp_path: Path
):
    """There and back: 0006 keys them by node, too; what goes back keeps the first of each circuit."""
    url = local_url(tmp_path)
    if database == "postgresql":
        url = request.getfixturevalue("postgresql").database()
    store = open_store(url)

    async def at(revision: str) -> None:
        def move(sync) -> None:
            config = _config(sync.connection())
            known = revision_of(sync.connection())
            back = known is not None and known > revision
            (command.downgrade if back else command.upgrade)(config, revision)

        async with store.write() as session:
            await session.run_sync(move)

    async def claim(node: str, started: int) -> None:
        row = CIRCUIT | {"node": node, "started": started}
        names = ", ".join(row)
        values = ", ".join(f":{name}" for name in row)
        async with store.write() as session:
            await session.execute(text(f"INSERT INTO circuits ({names}) VALUES ({values})"), row)

    async def nodes() -> list[tuple[str, int]]:
        async with store.read() as session:
            found = await session.execute(text("SELECT node, bytes_in FROM circuits ORDER BY node"))
            return [(node, count) for node, count in found]

    await at("0005")
    await claim("edge-b", 5)
    with pytest.raises(StoreError):
        await claim("edge-a", 6)
    await store.migrate()
    await claim("edge-a", 6)
    with pytest.raises(StoreError):
        await claim("edge-a", 7)
    assert await nodes() == [("edge-a", 7), ("edge-b", 7)]
    await at("0005")
    assert await nodes() == [("edge-b", 7)]
    await store.migrate()
    await store.close()


def test_the_server_is_gone_afterwards():
    with server() as running:
        folder = running.folder
    assert not folder.exists()
    found = subprocess.run(["pgrep", "-f", str(folder)], capture_output=True, check=False)
    assert found.stdout == b""
