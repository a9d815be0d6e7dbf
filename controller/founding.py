"""Making a plant (`ferrule-controller init`), and opening it again (`run`)."""

import errno
import os
import shutil
from pathlib import Path

import msgspec

from controller import pki
from controller.actions.accounts import check_password, hash_password
from controller.actions.actions import Actions
from controller.actions.core import read_plant
from controller.clock import PlantClock
from controller.settings import SETTINGS, Settings, read_settings
from controller.store.migrate import is_empty
from controller.store.store import FILE, Store, local_url, open_store, parse_url
from controller.store.tables import LogRow, NameRow, PlantRow, UserRow
from overlay.aio.world import World
from overlay.audit.merkle import EMPTY_ROOT
from overlay.errors import FerruleError, InputError
from overlay.identity.trust import sign_body
from overlay.policy.names import parse_name
from overlay.policy.times import time_zone
from overlay.wire.bodies import TreeHead

CONTROLLER = "controller"
"""The controller's own name unless it is told another."""


async def found(
    world: World,
    directory: Path,
    plant: str,
    admin: str,
    password: str,
    *,
    store: str = "",
    name: str = CONTROLLER,
    zone: str = "UTC",
) -> None:
    """Make a plant in a new folder: certificate authority, store, first admin. All of it or nothing.

    Raises:
        FerruleError: the folder exists, a name or the password cannot be used, the store holds a plant already or
            cannot be reached.
        OSError: the folder cannot be written.
    """
    plant_name, admin_name = parse_name(plant, "plant"), parse_name(admin, "admin")
    own = parse_name(name, "controller")
    if admin_name == own:
        raise InputError(f"the admin cannot be called {own}, which is the controller's own name")
    check_password(password)
    time_zone(zone)
    if store:
        parse_url(store)
    work = _prepare(directory)
    opened = open_store(store or local_url(work))
    try:
        await _check_empty(opened)
        try:
            await _fill(world, work, plant_name, admin_name, password, store, own, zone, opened)
            await opened.close()  # SQLite must not lose its file's name while it has it open
            _publish(work, directory)
        except BaseException:
            if store:
                await opened.clear()
            raise
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    finally:
        await opened.close()


def _prepare(directory: Path) -> Path:
    """A folder beside the one that shall be, which is filled first."""
    if directory.exists():
        raise FerruleError(
            f"{directory} exists already: choose a new folder, or start what is there with "
            f"ferrule-controller run --dir {directory}."
        )
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = directory.with_name(f".{directory.name}.new-{os.getpid()}")
    work.mkdir(mode=0o700)
    return work


def _publish(work: Path, directory: Path) -> None:
    """Give the filled folder its name; until then nothing is there."""
    if directory.exists():
        raise FerruleError(f"{directory} was made by another program meanwhile")
    work.rename(directory)
    _sync(directory.parent)


async def _fill(
    world: World,
    directory: Path,
    plant: str,
    admin: str,
    password: str,
    url: str,
    name: str,
    zone: str,
    store: Store,
) -> None:
    now = PlantClock(world.clock).now()
    authority = await pki.create(world, directory, plant, name, now)
    settings = Settings(plant=plant, store=url)
    await world.disk.replace(directory / SETTINGS, msgspec.json.encode(settings))
    await store.migrate()
    head = TreeHead(0, EMPTY_ROOT, now)
    credentials = authority.credentials
    signed = sign_body(head, credentials.key, credentials.anchor, credentials.chain)
    hashed = hash_password(world, password)
    async with store.write() as session:
        session.add(
            PlantRow(id=1, name=plant, root=authority.anchor.digest, time_zone=zone, created=now)
        )
        session.add(LogRow(id=1, size=0, frontier=b"", head=signed))
        session.add(NameRow(name=name, kind="controller"))
        session.add(NameRow(name=admin, kind="user"))
        await session.flush()
        session.add(UserRow(name=admin, role="admin", password=hashed, created=now))


async def _check_empty(store: Store) -> None:
    async with store.read() as session:
        if not await session.run_sync(lambda sync: is_empty(sync.connection())):
            raise FerruleError(
                "The store is not empty: give an empty database, or run the plant that is in it."
            )


async def reopen(world: World, directory: Path) -> tuple[Actions, Store]:
    """Open a plant's folder: migrated store and action layer, ready for `Actions.start`.

    Raises:
        FerruleError: the folder is not a controller's, damaged, does not fit its store, or the store cannot be opened.
        OSError: a file cannot be read.
    """
    settings = await read_settings(world, directory)
    if not settings.store and not _is_file(directory / FILE):
        raise FerruleError(
            f"{directory / FILE} is missing: restore the controller's folder from a backup."
        )
    store = open_store(settings.store or local_url(directory))
    try:
        plant, floor = await _open_store(store, settings, directory)
        now = PlantClock(world.clock, floor).now()
        authority = await pki.load(world, directory, now)
        if plant.root != authority.anchor.digest:
            raise FerruleError(
                f"The store belongs to another plant ({plant.name}) than the folder {directory}."
            )
        return Actions(world, store, authority, plant, floor), store
    except BaseException:
        await store.close()
        raise


async def _open_store(store: Store, settings: Settings, directory: Path) -> tuple[PlantRow, int]:
    """Check and migrate the store, and read the plant in it."""
    try:
        await store.check()
        await store.migrate()
        return await read_plant(store)
    except FerruleError as error:
        where = "the store" if settings.store else str(directory / FILE)
        raise FerruleError(f"{where}: {error}") from None


def _is_file(path: Path) -> bool:
    return path.is_file()


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def local_zone() -> str:
    """The machine's time zone by its IANA name; UTC where it has none that can be used."""
    try:
        target = os.readlink("/etc/localtime")
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.EINVAL}:
            raise
        return "UTC"
    name = target.partition("zoneinfo/")[2]
    try:
        time_zone(name or "UTC")
    except InputError:
        return "UTC"
    return name or "UTC"
