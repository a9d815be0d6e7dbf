"""`ferrule-edge`: the program around `edge.edge`."""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import click

from edge.doctor import examine
from edge.edge import Edge
from edge.folder import left_behind, subject, take_back
from edge.interception import Choices
from edge.kill import LocalSwitch
from edge.local_control import LocalControl, NotRunningError, ask
from edge.names.host_names import MODES as NAME_MODES
from edge.tun.ground import Denial
from overlay.aio.command import Settings, command, program, start
from overlay.aio.dialer import Reach
from overlay.aio.http_proxy import check_proxy
from overlay.aio.lifecycle import UsageError, collect_rarely, describe, run_program
from overlay.aio.node import NodeAgent
from overlay.aio.state import KeptState
from overlay.aio.system import System
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.errors import FerruleError
from overlay.identity.certificate import Role
from overlay.link.opening import MODES
from overlay.wire.timestamps import format_time

INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
LANES = ("on", "off")

_DIRECTORY = click.option(
    "--dir", "directory", metavar="DIR", required=True, type=click.Path(path_type=Path),
    help="The folder of the edge.",
)  # fmt: skip
_REASON = click.option("--reason", metavar="TEXT", default="", help="For the audit.")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


@program("ferrule-edge", "ferrule-edge status --dir /var/lib/ferrule-edge")
def main() -> None:
    """A Ferrule edge: stands before assets, offers and hosts services, and only ever dials out."""


@command(main, "ferrule-edge run --dir /var/lib/ferrule-edge --token edge-a.token")
@click.option("--dir", metavar="DIR", help="Where all its state is kept (made, 0700).")
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
    "--tun",
    metavar="NAME",
    help="Name of the interface that it makes where traffic is intercepted (ferrule0).",
)
@click.option(
    "--denied",
    type=click.Choice([one.value for one in Denial]),
    help="Intercepted traffic that is denied: reset (default), prohibit (ICMP), drop (silence).",
)
@click.option(
    "--names",
    type=click.Choice(list(NAME_MODES)),
    help="How this host comes to ask for names of intercepted assets: by systemd-resolved (resolved), by writing "
    "/etc/resolv.conf (resolv.conf), or not at all (none); auto (default) takes the first that works.",
)
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
    choices_of(settings)
    if "proxy" in settings:
        try:
            check_proxy(settings["proxy"])
        except FerruleError as error:
            raise UsageError(str(error)) from None


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
        )
        await _serve(edge, agent, directory, stop)
    finally:
        await agent.close()


async def _serve(edge: Edge, agent: NodeAgent, directory: Path, stop: asyncio.Event) -> None:
    control = LocalControl(directory, lambda command, reason: answer(edge, command, reason))
    ticking = None
    try:
        try:
            await control.start()
        except OSError as error:
            raise FerruleError(
                f"The control socket in {directory} cannot be made: {describe(error)}"
            ) from None
        agent.use(edge.endpoint, edge)
        ticking = spawn(_tick(edge), "enforcement")
        await agent.run(stop)
    finally:
        await cancel(ticking)
        await control.close()
        await edge.close()


async def _tick(edge: Edge) -> None:
    while True:
        await asyncio.sleep(1.0)
        if edge.agent.name:
            edge.enforcer.tick()


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


# --- local commands -------------------------------------------------------------------------------


@main.command(epilog="Example: ferrule-edge status --dir /var/lib/ferrule-edge")
@_DIRECTORY
@_JSON
def status(directory: Path, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """How the edge is, asked of itself; needs no controller."""
    _command(lambda: ask(directory, "status"), as_json)


@main.command(
    epilog='Example: ferrule-edge kill --dir /var/lib/ferrule-edge --reason "smoke in hall 3"'
)
@_DIRECTORY
@_REASON
@_JSON
def kill(directory: Path, reason: str, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Pull the local switch: cut all circuits of this edge and refuse new ones until `restore`.

    Needs no controller, survives a restart, and cannot be undone from outside. Also works while the edge is stopped.
    """
    _command(lambda: _or_on_disk(directory, "kill", reason), as_json)


@main.command(epilog="Example: ferrule-edge restore --dir /var/lib/ferrule-edge")
@_DIRECTORY
@_REASON
@_JSON
def restore(directory: Path, reason: str, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Release the local switch. Kills that the controller ordered stay."""
    _command(lambda: _or_on_disk(directory, "restore", reason), as_json)


@main.command(epilog="Example: ferrule-edge doctor --dir /var/lib/ferrule-edge --repair")
@_DIRECTORY
@click.option(
    "--repair",
    is_flag=True,
    help="Take back what a killed edge left on this host, while none runs.",
)
@click.option(
    "--tun", "interface", metavar="NAME", default=Choices.interface, show_default=True,
    help="The interface of the edge, where none runs that could be asked.",
)  # fmt: skip
@_JSON
def doctor(directory: Path, repair: bool, interface: str, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """What on this host keeps interception from working, and what to do about it. Exit code 1 when something does."""

    async def program(_: asyncio.Event) -> None:
        found = await examine(await subject(directory, interface))
        found.append(await left_behind(directory, repair=repair))
        if as_json:
            click.echo(json.dumps([one._asdict() for one in found], indent=2))
        else:
            for one in found:
                click.echo(f"{'ok     ' if one.ok else 'PROBLEM'} {one.check}: {one.text}")
        wrong = sum(not one.ok for one in found)
        if wrong:
            raise FerruleError(f"{wrong} of {len(found)} checks found a problem.")

    raise SystemExit(run_program(program))


def _command(work: Callable[[], Awaitable[dict[str, Any]]], as_json: bool) -> None:  # noqa: FBT001
    async def program(_: asyncio.Event) -> None:
        found = await work()
        click.echo(json.dumps(found, indent=2) if as_json else in_words(found))

    raise SystemExit(run_program(program))


async def _or_on_disk(directory: Path, command: str, reason: str) -> dict[str, Any]:
    """Ask the running edge; where none runs, change what it will find when it starts."""
    try:
        return await ask(directory, command, reason)
    except NotRunningError:
        pass
    if not directory.is_dir():  # noqa: ASYNC240 - a command, not a server
        raise FerruleError(f"{directory} is not the folder of an edge.")
    state = await KeptState.open(System(), directory)
    try:
        if not state.enrolled or state.leaf.identity.role is not Role.EDGE:
            raise FerruleError(f"{directory} is not the folder of an enrolled edge.")
        switch = LocalSwitch(state, state.now)
        if command == "kill":
            await switch.pull(reason)
        elif not await switch.release():
            raise FerruleError("The local kill switch is not pulled; there is nothing to restore.")
        pulled = switch.pulled
        return {
            "name": state.leaf.identity.name,
            "state": "stopped",
            "routers": [],
            "kill": None
            if pulled is None
            else {"reason": pulled.reason, "since": format_time(pulled.since)},
        }
    finally:
        await state.close()


def in_words(found: dict[str, Any]) -> str:
    """A status for people."""
    routers = ", ".join(found["routers"]) or "none"
    lines = [f"{found['name'] or 'not enrolled yet'}: {found['state']}; routers: {routers}"]
    switch = found["kill"]
    if switch is not None:
        lines.append(f"local kill switch: pulled since {switch['since']} ({switch['reason']})")
    else:
        lines.append("local kill switch: not pulled")
    lines += [
        f"ALARM: the audit log was forked or rewritten: {fork['reason']} (found {fork['found']})"
        for fork in (found.get("log") or {}).get("forks", ())
    ]
    if "circuits" in found:
        circuits = found["circuits"]
        lines.append(f"circuits: {circuits['hosting']} hosted, {circuits['calling']} called")
        if circuits.get("bulk"):
            lines.append(f"in bulk lanes: {circuits['bulk']}")
        if circuits.get("resumes"):
            lines.append(
                f"new paths since the start: {circuits['resumes']}; {circuits['resent_bytes']} bytes sent again, "
                f"{circuits['stalled']:.1f} s without a path in all"
            )
        if circuits["datagrams_dropped"]:
            lines.append(f"datagrams dropped since the start: {circuits['datagrams_dropped']}")
    lines += [
        f"listener {one['listen']}: {one['service']} as {one['who']}"
        for one in found.get("listeners", ())
    ]
    lines += [
        f"health of {one['service']} at {one['address']}: {one['state']}"
        + (f" ({one['reason']})" if one["reason"] else "")
        for one in found.get("health", ())
    ]
    caught, names = found.get("interception"), found.get("names")
    if caught:
        lines.append(f"interception: {caught['mode'] or 'none yet'} ({caught['why']})")
    if names:
        lines.append(f"names below {names['domain']}: by {names['mode']} ({names['why']})")
    lines += [f"problem: {text}" for text in found.get("problems", ())]
    return "\n".join(lines)
