"""The store: SQLite (default) or PostgreSQL behind SQLAlchemy, one writer at a time, migrations at start."""

import asyncio
import functools
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from overlay.aio.tasks import finish
from overlay.errors import FerruleError

READERS = 4
BUSY_SECONDS = 5.0
FILE = "store.sqlite"
FAILURES = (SQLAlchemyError, OSError, sqlite3.Error)


class StoreError(FerruleError):
    """The store cannot be opened, read or written now; the text says why and what to do."""


class Store:
    """Transactions on the database.

    `read()` sees one state of the store. `write()` is exclusive in this process and, by the lock that SQLite or the
    first statement of the writer takes, among processes; it commits at its end or changes nothing.
    """

    def __init__(self, reader: AsyncEngine, writer: AsyncEngine) -> None:
        self._reader = reader
        self._writer = writer
        self._turn = asyncio.Lock()

    @property
    def sqlite(self) -> bool:
        """Whether this is the embedded database."""
        return self._writer.dialect.name == "sqlite"

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """A read-only transaction.

        Raises:
            StoreError: the database is away or damaged.
        """
        try:
            async with AsyncSession(self._reader, expire_on_commit=False) as session:
                yield session
        except FAILURES as error:
            raise StoreError(explain(error)) from error

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncSession]:
        """The one write transaction; on any exception from its body nothing was changed.

        Whoever is cancelled here leaves no open transaction behind: commit, rollback and closing go on to their end.

        Raises:
            StoreError: the database is away, damaged or full; nothing was changed.
        """
        async with self._turn:
            session = AsyncSession(self._writer, expire_on_commit=False)
            try:
                yield session
            except BaseException as error:
                with suppress(StoreError):  # what the body raises says more
                    await finish(_end(session, commit=False), "store rollback")
                if isinstance(error, FAILURES):
                    raise StoreError(explain(error)) from error
                raise
            await finish(_end(session, commit=True), "store commit")

    async def migrate(self) -> None:
        """Bring the tables to this version's state; a store of a newer version is refused.

        Raises:
            StoreError: as `write`, or the store was written by a newer version.
        """
        from controller.store.migrate import upgrade

        async with self._turn:
            try:
                async with self._writer.begin() as connection:
                    await connection.run_sync(upgrade)
            except FAILURES as error:
                raise StoreError(explain(error)) from error

    async def clear(self) -> None:
        """Take out all tables that `migrate` made: for a plant whose making failed.

        Raises:
            StoreError: as `write`.
        """
        from controller.store.migrate import clear

        async with self._turn:
            try:
                async with self._writer.begin() as connection:
                    await connection.run_sync(clear)
            except FAILURES as error:
                raise StoreError(explain(error)) from error

    async def check(self) -> None:
        """Look for damage that the embedded database can find by itself; a server looks after its own.

        Raises:
            StoreError: it is damaged, or cannot be read.
        """
        if not self.sqlite:
            return
        async with AsyncExitStack() as readers:
            # All connections are made now: one that is cancelled while it is made may never be closed.
            sessions = [await readers.enter_async_context(self.read()) for _ in range(READERS)]
            for session in sessions:
                await session.execute(text("SELECT 1"))
            checked = await sessions[0].execute(text("PRAGMA quick_check(3)"))
            found = checked.scalars().all()
        if list(found) != ["ok"]:
            raise StoreError(
                f"The store is damaged ({found[0]}): restore the controller's folder from a backup."
            )

    async def close(self) -> None:
        """Close all connections."""
        await self._reader.dispose()
        await self._writer.dispose()


async def _end(session: AsyncSession, *, commit: bool) -> None:
    try:
        try:
            await (session.commit() if commit else session.rollback())
        finally:
            await session.close()
    except FAILURES as error:
        raise StoreError(explain(error)) from error


class _Connection(sqlite3.Connection):
    """One whose closing ends its transaction: with a statement that was cancelled half way SQLite keeps the lock."""

    def close(self) -> None:
        # Who was cancelled twice closes twice; closed it has no transaction that could be asked for.
        with suppress(sqlite3.ProgrammingError):
            if self.in_transaction:
                self.rollback()
        super().close()


def local_url(directory: Path) -> str:
    """The URL of the embedded database in the controller's folder."""
    return f"sqlite+aiosqlite:///{directory / FILE}"


def parse_url(given: str) -> URL:
    """The URL with its asynchronous driver.

    Raises:
        StoreError: not a URL, or another database than SQLite and PostgreSQL, or its driver is not installed.
    """
    try:
        url = make_url(given)
    except ArgumentError:
        raise StoreError(
            "The store's URL must look like postgresql://USER:PASSWORD@HOST/DATABASE."
        ) from None
    kind = url.get_backend_name()
    if kind == "sqlite":
        return url.set(drivername="sqlite+aiosqlite")
    if kind in {"postgresql", "postgres"}:
        try:
            import asyncpg  # noqa: F401 - only whether it is there
        except ImportError:
            raise StoreError(
                "PostgreSQL needs the extra `ferrule[postgres]` to be installed."
            ) from None
        return url.set(drivername="postgresql+asyncpg")
    raise StoreError(f"The store can be sqlite or postgresql, not {kind}.")


def open_store(url: str | URL) -> Store:
    """Make the engines; the first use connects.

    Raises:
        StoreError: the URL is not one (see `parse_url`).
    """
    parsed = parse_url(url) if isinstance(url, str) else url
    if parsed.get_backend_name() == "sqlite":
        return Store(
            _sqlite(parsed, writer=False, pool=READERS), _sqlite(parsed, writer=True, pool=1)
        )
    connect = {"timeout": BUSY_SECONDS, "command_timeout": 30.0}
    return Store(
        create_async_engine(
            parsed,
            pool_size=READERS,
            pool_pre_ping=True,
            connect_args=connect,
            isolation_level="REPEATABLE READ",
        ),
        create_async_engine(parsed, pool_size=1, pool_pre_ping=True, connect_args=connect),
    )


def _sqlite(url: URL, *, writer: bool, pool: int) -> AsyncEngine:
    connect = {"timeout": BUSY_SECONDS, "factory": _Connection}
    engine = create_async_engine(url, pool_size=pool, max_overflow=0, connect_args=connect)

    @event.listens_for(engine.sync_engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves, below
        # A close that is cancelled stops the thread, and its own end stops it again: nobody would answer that.
        thread = connection.driver_connection
        thread.stop = functools.cache(thread.stop)
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        if writer:
            cursor.execute("PRAGMA journal_mode = WAL")
            cursor.execute("PRAGMA synchronous = FULL")
        else:
            cursor.execute("PRAGMA query_only = ON")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writer else "BEGIN")

    return engine


def explain(error: BaseException) -> str:
    """One sentence for people about a failure of the database; never a password."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = str(cause)
    if "disk is full" in said or "No space left" in said:
        return "The disk that holds the store is full: make room; nothing was changed."
    if "malformed" in said or "not a database" in said:
        return "The store is damaged: restore the controller's folder from a backup."
    if "unable to open database file" in said:
        return "The store's file cannot be opened: check that it exists and its permissions."
    if "locked" in said:
        return "The store is locked by another program: end it and try again."
    if "readonly" in said or "read-only" in said:
        return "The store cannot be written: check its permissions and the file system."
    if isinstance(cause, OSError | TimeoutError) or "connect" in said.lower():
        return f"The database cannot be reached: {said or type(cause).__name__}."
    return f"The database refused ({type(cause).__name__}): {said.splitlines()[0] if said else ''}"
