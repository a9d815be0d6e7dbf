"""`ferrule-controller`: makes a plant, and runs its controller. The composition root of the package."""

import asyncio
from collections.abc import Callable
from importlib.metadata import version as version_of
from pathlib import Path

import click

from controller.pki import read as read_pki
from controller.settings import read_settings
from overlay.aio.command import Settings, command, program, start
from overlay.aio.lifecycle import UsageError, spare_modules
from overlay.aio.logs import get_logger
from overlay.aio.options import parse_listen
from overlay.aio.system import System
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.errors import FerruleError, InputError

DEFAULT_API = "127.0.0.1:8440"
MAX_PASSWORD_FILE = 4096

_log = get_logger("controller")


@program("ferrule-controller", "ferrule-controller run --dir /var/lib/ferrule-controller")
def main() -> None:
    """A plant's Ferrule controller: certificate authority, policy, kill switches, audit log, API."""


@command(
    main,
    "ferrule-controller init --dir /var/lib/ferrule-controller --plant mill "
    "--admin ada --admin-password-file password",
)
@click.option("--dir", metavar="DIR", help="A new folder for all that it keeps. Needed.")
@click.option("--plant", metavar="NAME", help="The plant's name, in every certificate. Needed.")
@click.option("--admin", metavar="NAME", help="The first person who may do everything. Needed.")
@click.option(
    "--admin-password-file",
    metavar="FILE",
    help="Its first line is their password: 12 characters or more. Needed.",
)
@click.option("--store", metavar="URL", help="PostgreSQL instead of the database in DIR.")
@click.option("--name", metavar="NAME", help="This controller's own name (default: controller).")
@click.option("--time-zone", metavar="ZONE", help="Of the plant (default: this machine's).")
def init(**given: str | None) -> None:
    """Make a plant: certificate authority, store and the first admin."""
    needed = ("dir", "plant", "admin", "admin-password-file")
    start(given, needed, lambda _: None, lambda settings, _: make(System(), settings))


@command(main, "ferrule-controller run --dir /var/lib/ferrule-controller --api 127.0.0.1:8440")
@click.option("--dir", metavar="DIR", help="The folder that `init` made. Needed.")
@click.option("--api", metavar="HOST:PORT", help=f"Where the API listens (default {DEFAULT_API}).")
def run(**given: str | None) -> None:
    """Run until SIGTERM."""
    start(given, ("dir",), _api_of, _run)


def _api_of(settings: Settings) -> tuple[str, int]:
    return parse_listen(settings.get("api", DEFAULT_API), "--api")


async def _run(settings: Settings, stop: asyncio.Event) -> None:
    await serve(System(), Path(settings["dir"]), *_api_of(settings), stop, imported=spare_modules)


# --- init ---------------------------------------------------------------------------------------------


async def make(world: World, settings: Settings) -> None:
    """Make the plant.

    Raises:
        UsageError: an option that cannot be. FerruleError, OSError: it cannot be made; then nothing is left behind.
    """
    from controller import founding

    directory = Path(settings["dir"])
    password = await read_password(world, Path(settings["admin-password-file"]))
    try:
        await founding.found(
            world,
            directory,
            settings["plant"],
            settings["admin"],
            password,
            store=settings.get("store", ""),
            name=settings.get("name", founding.CONTROLLER),
            zone=settings.get("time-zone") or founding.local_zone(),
        )
    except InputError as error:
        raise UsageError(_sentence(str(error))) from None
    click.echo(
        f"Plant {settings['plant'].lower()} is made in {directory}. "
        f"Back this folder up, and start it: ferrule-controller run --dir {directory}"
    )


async def read_password(world: World, path: Path) -> str:
    """The first line of a password file.

    Raises:
        UsageError: there is none, or it is not text.
    """
    data = await world.disk.read(path)
    if data is None:
        raise UsageError(f"The password file {path} does not exist.")
    if len(data) > MAX_PASSWORD_FILE:
        raise UsageError(f"The password file {path} is larger than {MAX_PASSWORD_FILE} bytes.")
    try:
        return data.decode().partition("\n")[0].rstrip("\r")
    except UnicodeDecodeError:
        raise UsageError(f"The password file {path} is not text in UTF-8.") from None


# --- run ----------------------------------------------------------------------------------------------


async def serve(
    world: World,
    directory: Path,
    host: str,
    port: int,
    stop: asyncio.Event,
    *,
    imported: Callable[[], None] = lambda: None,
) -> None:
    """Run the controller in `directory` until `stop`; `imported` is called once all modules are there.

    Raises:
        FerruleError, OSError: it cannot start; the text says what to do.
    """
    await read_settings(world, directory)
    try:
        release = world.disk.lock(directory)
    except BlockingIOError:
        raise FerruleError(f"Another controller runs in {directory}: end it first.") from None
    try:
        await read_pki(world, directory)
        await _serve(world, directory, host, port, stop, imported)
    finally:
        release()


async def _serve(
    world: World,
    directory: Path,
    host: str,
    port: int,
    stop: asyncio.Event,
    imported: Callable[[], None],
) -> None:
    # These take a second to import: whatever is wrong with the folder was said before.
    from controller.api.routes import ROUTES
    from controller.api.server import ApiServer
    from controller.api.service import Service
    from controller.founding import reopen
    from controller.housekeeping import keep_time
    from controller.hub.hub import Hub
    from controller.tls import ApiTls

    imported()
    version = version_of("ferrule")
    actions, store = await reopen(world, directory)
    try:
        tls = ApiTls(world, actions, directory, host)
        await tls.refresh()
        api = ApiServer(Service(actions, ROUTES), tls.context)
        try:
            await api.start(host, port)
        except OSError as error:
            raise FerruleError(
                f"The API cannot listen on {host}:{port} ({error.strerror}): "
                "end what uses it, or choose another --api."
            ) from None
        housekeeping = None
        try:
            await actions.start(version)
            _log.info("controller.started", plant=actions.plant, api=f"{host}:{api.address[1]}")
            housekeeping = spawn(keep_time(actions, tls.refresh), "housekeeping")
            hub = Hub(world, actions, version=version)
            actions.measure = hub.measure
            await hub.run(stop)
            if not stop.is_set():
                raise FerruleError("The hub ended by itself: see the log.")
        finally:
            await api.close()
            await cancel(housekeeping)
        await actions.stop()
        _log.info("controller.stopped")
    finally:
        await store.close()


def _sentence(text: str) -> str:
    """A message about what was typed as a sentence of its own."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")
