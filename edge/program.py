"""`ferrule-edge`: its commands. What only `run` needs is in `edge.running`, which is loaded for `run` alone: the local
commands, with which somebody pulls a switch, begin in a fraction of the time.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from edge.local_control import NotRunningError, ask
from overlay.aio.command import epilog, program
from overlay.aio.lifecycle import run_program
from overlay.errors import FerruleError

_DIRECTORY = click.option(
    "--dir", "directory", metavar="DIR", required=True,
    type=click.Path(path_type=Path, readable=False),  # whose it is says `ask`
    help="The folder of the edge.",
)  # fmt: skip
_REASON = click.option("--reason", metavar="TEXT", default="", help="For the audit.")
_JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document.")


@program("ferrule-edge", "ferrule-edge status --dir /var/lib/ferrule-edge", later="edge.running")
def main() -> None:
    """A Ferrule edge: stands before assets, offers and hosts services, and only ever dials out."""


@main.command(epilog=epilog("ferrule-edge status --dir /var/lib/ferrule-edge"))
@_DIRECTORY
@_JSON
def status(directory: Path, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """How the edge is, asked of itself; needs no controller."""
    _command(lambda: ask(directory, "status"), as_json)


@main.command(
    epilog=epilog('ferrule-edge kill --dir /var/lib/ferrule-edge --reason "smoke in hall 3"')
)
@_DIRECTORY
@_REASON
@_JSON
def kill(directory: Path, reason: str, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Pull the local switch: cut and refuse everything here.

    All circuits of this edge, until `restore`. Needs no controller, survives a restart, and cannot be undone from
    outside. Also works while the edge is stopped.
    """
    _command(lambda: _or_on_disk(directory, "kill", reason), as_json)


@main.command(epilog=epilog("ferrule-edge restore --dir /var/lib/ferrule-edge"))
@_DIRECTORY
@_REASON
@_JSON
def restore(directory: Path, reason: str, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """Release the local switch. Kills that the controller ordered stay."""
    _command(lambda: _or_on_disk(directory, "restore", reason), as_json)


@main.command(epilog=epilog("ferrule-edge doctor --dir /var/lib/ferrule-edge --repair"))
@_DIRECTORY
@click.option(
    "--repair",
    is_flag=True,
    help="Take back what a killed edge left on this host, while none runs.",
)
@click.option(
    "--tun", "interface", metavar="NAME",
    help="The interface of the edge, where none runs that could be asked (ferrule0).",
)  # fmt: skip
@_JSON
def doctor(directory: Path, repair: bool, interface: str | None, as_json: bool) -> None:  # noqa: FBT001 - click's way
    """What on this host keeps interception from working.

    And what to do about it. The exit code is 1 when something does; what cannot be judged is said.
    """
    from edge.doctor.examining import examine
    from edge.doctor.folder import left_behind, subject
    from edge.interception import Choices

    async def program(_: asyncio.Event) -> None:
        found = await examine(await subject(directory, interface or Choices.interface))
        found.append(await left_behind(directory, repair=repair))
        if as_json:
            click.echo(json.dumps([one._asdict() for one in found], indent=2))
        else:
            for one in found:
                click.echo(f"{_JUDGEMENTS[one.ok]} {one.check}: {one.text}")
        wrong = sum(one.ok is False for one in found)
        if wrong:
            raise FerruleError(f"{wrong} of {len(found)} checks found a problem.")

    raise SystemExit(run_program(program))


_JUDGEMENTS = {True: "ok     ", False: "PROBLEM", None: "UNKNOWN"}


def _command(work: Callable[[], Awaitable[dict[str, Any]]], as_json: bool) -> None:  # noqa: FBT001
    async def program(_: asyncio.Event) -> None:
        found = await work()
        click.echo(json.dumps(found, indent=2) if as_json else in_words(found))

    raise SystemExit(run_program(program))


async def _or_on_disk(directory: Path, command: str, reason: str) -> dict[str, Any]:
    """Ask the running edge; where none runs, change what it will find when it starts."""
    from edge.kill import LocalSwitch
    from overlay.aio.state import KeptState
    from overlay.aio.system import System
    from overlay.identity.certificate import Role
    from overlay.wire.timestamps import format_time

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
        if circuits.get("late_paths"):
            lines.append(
                f"paths that came after their callers had given them up: {circuits['late_paths']}"
            )
        if circuits.get("denied") or circuits.get("failed"):
            lines.append(
                f"attempts since the start: {circuits['denied']} denied, {circuits['failed']} failed"
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
        at = " and ".join(names["at"])
        lines.append(
            f"names below {names['domain']}: " + (f"answered at {at}" if at else "not answered")
        )
        if names["mode"]:
            lines.append(f"this host asks for them by: {names['mode']} ({names['why']})")
    lines += [f"problem: {text}" for text in found.get("problems", ())]
    return "\n".join(lines)
