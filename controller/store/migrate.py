"""Migrations: alembic, run by the program itself; nobody types alembic commands on a plant."""

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text

from controller.store.tables import Base
from overlay.errors import FerruleError


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", "controller:store/migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def revision_of(connection: Connection) -> str | None:
    """The revision that the database is at; None for an empty one."""
    return MigrationContext.configure(connection).get_current_revision()


def is_empty(connection: Connection) -> bool:
    """Whether the database holds no table at all, ours or another's."""
    return not inspect(connection).get_table_names()


def clear(connection: Connection) -> None:
    """Drop all of our tables."""
    Base.metadata.drop_all(connection)
    connection.execute(text("DROP TABLE IF EXISTS alembic_version"))


def upgrade(connection: Connection) -> None:
    """Bring the database to the newest revision, inside the caller's transaction.

    Raises:
        FerruleError: the database has a revision that this version does not know.
    """
    config = _config(connection)
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    current = revision_of(connection)
    if current is not None and current not in known:
        raise FerruleError(
            f"The store was written by a newer version (revision {current}): install that version."
        )
    command.upgrade(config, "head")
