"""`ferrule-edge run`: puts an edge together and runs it. The composition root of the package."""

import asyncio
import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import click

from edge.doctor.folder import take_back
from edge.edge import Edge
from edge.interception import Choices
from edge.local_control import LocalControl
from edge.machine.hearing import Hearing
from edge.machine.netlink import News
from edge.metrics import families
from edge.names.host_names import MODES as NAME_MODES
from edge.program import main
from edge.tun.ground import Denial
from overlay import limits
from overlay.aio.command import METRICS, Settings, command, start
from overlay.aio.dialer import Reach
from overlay.aio.http_proxy import check_proxy
from overlay.aio.lifecycle import UsageError, collect_rarely, describe
from overlay.aio.node import NodeAgent
from overlay.aio.options import listen_at, parse_listen
from overlay.aio.status_server import StatusServer
from overlay.aio.system import System
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.errors import FerruleError
from overlay.identity.certificate import Role
from overlay.link.opening import MODES

INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
LANES = ("on", "off")
MIB = 1024 * 1024
CIRCUIT_MEMORY = (16, 65_536)
"""MiB: one circuit reaches its largest window with the least."""


@command(main, "ferrule-edge run --dir /var/lib/ferrule-edge --token edge-a.token")
@click.option("--dir", metavar="DIR", help="Where all its state is kept (made, 0700). Needed.")
@click.option("--token", metavar="FILE", help="Enrol first, when DIR is new; ignored afterwards.")
@click.option("--proxy", metavar="URL", help="Reach routers through this HTTP proxy (CONNECT).")
@click.option(
    "--records",
    type=click.Choice(list(MODES)),
    help="Record mode of its links: header (default, fastest), full (payload sealed again on each hop), "
    "tls (plain TLS, for middleboxes that insist).",
)
@click.option(
    "--lanes",
    type=click.Choice(LANES),
    help="Whether circuits that move much use connections of their own (bulk lanes), so that polls need not wait: on "
    "(default, where routers have them) or off.",
)
@click.option(
    "--circuit-memory",
    metavar="MIB",
    help="What all its circuits together may hold beyond a first window each: windows that have grown, bytes that "
    f"programs have not read yet, frames kept to be sent again ({limits.CIRCUIT_MEMORY // MIB}).",
)
@click.option(
    "--tun",
    metavar="NAME",
    help="Name of the interface that it makes where traffic is intercepted by TUN (ferrule0).",
)
@click.option(
    "--denied",
    type=click.Choice([one.value for one in Denial]),
    help="Traffic intercepted by TUN that is denied: reset (default), prohibit (ICMP), drop (silence).",
)
@click.option(
    "--names",
    type=click.Choice(list(NAME_MODES)),
    help="How this host comes to ask for names of intercepted assets: by systemd-resolved (resolved), by writing "
    "/etc/resolv.conf (resolv.conf), or not at all (none); auto (default) takes the first that works.",
)
@METRICS
def run(**given: str | None) -> None:
    """Run until SIGTERM; enrol first when DIR is new."""
    start(given, ("dir",), _check, _serve_real)


async def _serve_real(settings: Settings, stop: asyncio.Event) -> None:
    collect_rarely()
    await serve(System(), settings, stop)


def _check(settings: Settings) -> None:
    if settings.get("records", "header") not in MODES:
        raise UsageError(f"records must be one of {', '.join(MODES)}.")
    if settings.get("lanes", LANES[0]) not in LANES:
        raise UsageError(f"lanes must be one of {', '.join(LANES)}.")
    circuit_memory_of(settings)
    choices_of(settings)
    if "metrics" in settings:
        parse_listen(settings["metrics"], "--metrics")
    if "proxy" in settings:
        try:
            check_proxy(settings["proxy"])
        except FerruleError as error:
            raise UsageError(str(error)) from None


def circuit_memory_of(settings: Settings) -> int:
    """How many bytes its circuits may hold. Raises: UsageError: not a number that can be."""
    text = settings.get("circuit-memory", str(limits.CIRCUIT_MEMORY // MIB))
    least, most = CIRCUIT_MEMORY
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and least <= int(text) <= most):
        raise UsageError(
            f"circuit-memory must be a number of MiB from {least} to {most}, not {text!r}."
        )
    return int(text) * MIB


def choices_of(settings: Settings) -> Choices:
    """How this machine intercepts. Raises: UsageError."""
    name = settings.get("tun", Choices.interface)
    denied = settings.get("denied", "reset")
    if not INTERFACE.fullmatch(name):
        raise UsageError("tun must be the name of an interface: 1 to 15 letters, digits, -, _ or .")
    if denied not in list(Denial):
        raise UsageError(f"denied must be one of {', '.join(Denial)}.")
    names = settings.get("names", Choices.names)
    if names not in NAME_MODES:
        raise UsageError(f"names must be one of {', '.join(NAME_MODES)}.")
    return Choices(name, Denial(denied), names)


async def serve(world: World, settings: Settings, stop: asyncio.Event) -> None:
    """Run an edge until `stop` is set.

    Raises:
        FerruleError: DIR or token cannot be used; one sentence says why.
    """
    token = settings.get("token")
    directory = Path(settings["dir"])
    agent = await NodeAgent.open(
        world,
        directory,
        role=Role.EDGE,
        version=version_of("ferrule"),
        token=None if token is None else Path(token),
        reach=Reach(settings.get("proxy"), settings.get("records", "header")),
    )
    try:
        changes = await take_back(world, directory)
        edge = Edge(
            world,
            agent,
            choices_of(settings),
            changes,
            lanes=settings.get("lanes", LANES[0]) == LANES[0],
            circuit_memory=circuit_memory_of(settings),
        )
        await _serve(world, settings, stop, agent, edge)
    finally:
        await agent.close()


async def _serve(
    world: World, settings: Settings, stop: asyncio.Event, agent: NodeAgent, edge: Edge
) -> None:
    directory = Path(settings["dir"])
    # Numbers only: the rest of `status` is for who may use the control socket.
    metrics = StatusServer(world, lambda: families(edge.status()))
    control = LocalControl(directory, lambda command, reason: answer(edge, command, reason))
    underlay = Hearing("underlay", News, agent.uplinks.network_changed)
    ticking = None
    try:
        try:
            await control.start()
        except OSError as error:
            raise FerruleError(
                f"The control socket in {directory} cannot be made: {describe(error)}"
            ) from None
        if "metrics" in settings:
            await listen_at(metrics.listen, settings["metrics"], "--metrics")
        agent.use(edge.endpoint, edge)
        ticking = spawn(edge.enforce(), "enforcement")
        underlay.start()
        await agent.run(stop)
    finally:
        underlay.close()
        await cancel(ticking)
        metrics.close()
        await control.close()
        await edge.close()


async def answer(edge: Edge, command: str, reason: str) -> dict[str, Any]:
    """What the running edge says to a local command. Raises: FerruleError: it is refused."""
    if command == "kill":
        await edge.pull(reason)
    elif command == "restore":
        if not await edge.release(reason):
            raise FerruleError("The local kill switch is not pulled; there is nothing to restore.")
    elif command != "status":
        raise FerruleError(f"There is no command {command!r}.")
    return edge.status()
