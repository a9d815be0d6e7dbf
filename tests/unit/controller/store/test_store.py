"""Transactions, migrations, and what is said of a store that fails."""

import asyncio
import gc
import itertools
import sqlite3
import threading
import time
from collections.abc import Coroutine, Generator
from pathlib import Path
from types import coroutine

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import Connection, select, text, update
from sqlalchemy.exc import OperationalError

from controller.store.store import FILE, Store, StoreError, explain, local_url, open_store
from controller.store.tables import Base, NameRow, ZoneRow
from overlay.errors import FerruleError


@pytest.fixture
async def store(tmp_path: Path):
    opened = open_store(local_url(tmp_path))
    await opened.migrate()
    yield opened
    await opened.close()


async def names(store: Store) -> list[str]:
    async with store.read() as session:
        return list((await session.execute(select(NameRow.name))).scalars())


async def test_migrations_make_exactly_the_tables(store: Store):
    def difference(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        return list(compare_metadata(context, Base.metadata))

    async with store.write() as session:
        assert await session.run_sync(lambda sync: difference(sync.connection())) == []


async def test_migrating_again_changes_nothing(store: Store):
    async with store.write() as session:
        session.add(NameRow(name="a", kind="zone"))
    await store.migrate()
    assert await names(store) == ["a"]


async def test_a_store_of_a_newer_version_is_refused(store: Store):
    async with store.write() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(FerruleError, match="newer version"):
        await store.migrate()


async def test_a_failed_migration_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    opened = open_store(local_url(tmp_path))
    good = command.upgrade

    def fails(config: Config, revision: str) -> None:
        good(config, revision)
        raise OperationalError("CREATE", {}, sqlite3.OperationalError("database or disk is full"))

    monkeypatch.setattr(command, "upgrade", fails)
    with pytest.raises(StoreError, match="full"):
        await opened.migrate()
    monkeypatch.undo()
    async with opened.read() as session:
        found = await session.execute(text("SELECT name FROM sqlite_master"))
        assert found.scalars().all() == []
    await opened.migrate()
    await opened.close()


async def test_sqlite_is_durable_and_checks_references(store: Store):
    async with store.write() as session:
        settings = [
            (await session.execute(text(f"PRAGMA {name}"))).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    assert settings == ["wal", 2, 1]
    with pytest.raises(StoreError):
        async with store.write() as session:
            session.add(ZoneRow(name="nobody-claimed-this"))


async def test_a_change_that_fails_changes_nothing(store: Store):
    with pytest.raises(RuntimeError):
        async with store.write() as session:
            session.add(NameRow(name="a", kind="zone"))
            await session.flush()
            raise RuntimeError
    assert await names(store) == []


@coroutine
def cancelled(work: Coroutine[object, None, None], at: int, times: int) -> Generator[object]:
    """`work`, whose task is cancelled at its await number `at` (from 0) and so many times in all, at those that follow.

    The database's own thread has done what it was asked for by then, and has not been heard.
    """
    throw: BaseException | None = None
    for number in itertools.count():
        try:
            waits = work.send(None) if throw is None else work.throw(throw)
        except StopIteration:
            return
        if at <= number < at + times:
            time.sleep(0.003)
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
        try:
            yield waits
            throw = None
        except BaseException as error:  # noqa: BLE001 - `work` decides
            throw = error


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("times", [1, 2, 100])
async def test_a_change_may_be_cancelled_anywhere(tmp_path: Path, connected: bool, times: int):
    """It is whole or not there, nobody finds the store locked, and the next change works: no await is an exception.

    Nothing is collected meanwhile, and the errors are kept with all that they refer to.
    """
    opened = open_store(local_url(tmp_path))
    await opened.migrate()

    async def change(name: str) -> None:
        async with opened.write() as session:
            await session.execute(select(NameRow))
            session.add(NameRow(name=name, kind="zone"))
            await session.flush()
            session.add(ZoneRow(name=name))

    async def under(at: int) -> None:
        await cancelled(change(f"z{at}"), at, times)

    kept: list[BaseException] = []
    gc.disable()
    try:
        for at in itertools.count():
            if connected:
                await change(f"before{at}")
            else:
                await opened.close()
            (error,) = await asyncio.gather(
                asyncio.ensure_future(under(at)), return_exceptions=True
            )
            other = sqlite3.connect(tmp_path / FILE, timeout=5, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")  # the thread may still be at it; else it raises
            found = [
                other.execute(f"SELECT count(*) FROM {table} WHERE name = 'z{at}'").fetchone()
                for table in ("names", "zones")
            ]
            other.execute("ROLLBACK")
            other.close()
            assert found[0] == found[1], at
            await change(f"after{at}")
            if error is None:
                assert found == [(1,), (1,)]
                break
            assert isinstance(error, asyncio.CancelledError)
            kept.append(error)
    finally:
        gc.enable()
    assert len(kept) > 10  # awaits of one change
    await opened.close()
    closing = asyncio.all_tasks() - {asyncio.current_task()}  # shielded from who was cancelled
    if closing:
        assert (await asyncio.wait(closing, timeout=10))[1] == set()


async def test_a_connection_may_be_closed_again_by_who_was_cancelled_at_its_closing(store: Store):
    """The closing in progress and the forced one stop the same thread: both get an answer."""
    async with store.read() as session:
        driver = (await (await session.connection()).get_raw_connection()).driver_connection
    assert driver is not None
    closing = asyncio.ensure_future(driver.close())
    await asyncio.sleep(0)  # it waits for the thread
    await asyncio.wait_for(asyncio.gather(closing, driver.stop()), 5)


async def test_who_is_cancelled_at_the_commit_goes_after_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    """So that news of the change, which even then are sent, never come before it."""
    loop = asyncio.get_running_loop()
    begun, go = asyncio.Event(), threading.Event()

    def commit(connection: sqlite3.Connection) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert go.wait(10)
        sqlite3.Connection.commit(connection)

    async def change() -> None:
        async with store.write() as session:
            session.add(NameRow(name="a", kind="zone"))

    monkeypatch.setattr("controller.store.store._Connection.commit", commit, raising=False)
    task = asyncio.ensure_future(change())
    await begun.wait()
    try:
        for _ in range(3):
            task.cancel()
            for _ in range(20):
                await asyncio.sleep(0)
        assert not task.done()
    finally:
        go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await names(store) == ["a"]


async def test_a_reader_cannot_write(store: Store):
    with pytest.raises(StoreError):
        async with store.read() as session:
            await session.execute(update(NameRow).values(kind="x"))


async def test_a_reader_sees_one_state(store: Store):
    async with store.read() as session:
        assert (await session.execute(select(NameRow.name))).scalars().all() == []
        async with store.write() as other:
            other.add(NameRow(name="a", kind="zone"))
        assert (await session.execute(select(NameRow.name))).scalars().all() == []
    assert await names(store) == ["a"]


async def test_another_program_that_holds_the_store_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("controller.store.store.BUSY_SECONDS", 0.05)
    opened = open_store(local_url(tmp_path))
    await opened.migrate()
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked by another program"):
        async with opened.write() as session:
            session.add(NameRow(name="a", kind="zone"))
    other.execute("ROLLBACK")
    other.close()
    async with opened.write() as session:
        session.add(NameRow(name="a", kind="zone"))
    await opened.close()


@pytest.mark.parametrize("damage", ["scrambled", "cut", "page"])
async def test_damage_is_found(tmp_path: Path, damage: str):
    opened = open_store(local_url(tmp_path))
    await opened.migrate()
    async with opened.write() as session:
        session.add_all([NameRow(name=f"n{n:05}", kind="zone") for n in range(3000)])
    await opened.check()
    await opened.close()
    path = tmp_path / FILE
    good = path.read_bytes()
    page = good[:-8192] + b"\xff" * 4096 + good[-4096:]
    path.write_bytes({"scrambled": good[::-1], "cut": good[: len(good) // 2], "page": page}[damage])
    again = open_store(local_url(tmp_path))
    with pytest.raises(StoreError, match="damaged"):
        await again.check()
    await again.close()


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("nonsense", "must look like"),
        ("nonsense://", "not nonsense"),
        ("mysql://u@h/d", "not mysql"),
        ("", "must look like"),
    ],
)
def test_a_url_that_cannot_be_is_refused(url: str, named: str):
    with pytest.raises(StoreError, match=named):
        open_store(url)


async def test_a_database_that_cannot_be_reached_is_said():
    opened = open_store("postgresql://nobody:secret@127.0.0.1:1/none")
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        async with opened.read() as session:
            await session.execute(text("SELECT 1"))
    assert "secret" not in str(caught.value)
    await opened.close()


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ("database or disk is full", "full"),
        ("No space left on device", "full"),
        ("database disk image is malformed", "damaged"),
        ("file is not a database", "damaged"),
        ("unable to open database file", "cannot be opened"),
        ("database is locked", "locked"),
        ("attempt to write a readonly database", "cannot be written"),
        ("something else\nwith lines", "refused"),
    ],
)
def test_failures_in_words(said: str, means: str):
    error = OperationalError("SELECT", {}, sqlite3.OperationalError(said))
    words = explain(error)
    assert means in words
    assert "\n" not in words
