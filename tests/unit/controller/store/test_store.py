"""Transactions, migrations, and what is said of a store that fails."""

import sqlite3
from pathlib import Path

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
