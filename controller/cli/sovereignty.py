"""`kill`, `restore`, `revoke`, `sessions`: cutting off, lifting again, and seeing who is connected."""

import sys
from collections.abc import Callable

import click

from controller.cli import output
from controller.cli.client import Json
from controller.cli.failure import Misuse, not_yet
from controller.cli.words import client, command, for_option, given, group, reason_option

SESSION_COLUMNS = (
    "id", "who", "service", "address", "path", "started", "bytes_in", "bytes_out", "moves",
)  # fmt: skip
_TARGETS = {
    "identity": ("NAME", "An edge, user or asset.", "edge-a"),
    "service": ("NAME", "A service.", "plc-b.modbus"),
    "zone": ("NAME", "A zone with all that is in it.", "cell-3"),
}

yes_option = click.option("--yes", is_flag=True, help="Do not ask back; only `plant` does.")


def register(root: click.Group) -> None:
    """Add the commands to `root`."""
    kill = group(
        "kill",
        "Cut what runs and refuse what is new, until `ferrule restore`.",
        "ferrule kill identity edge-a --reason 'laptop stolen'",
    )
    restore = group(
        "restore",
        "Lift the kills of one target; others that cover it stay.",
        "ferrule restore identity edge-a --reason 'laptop found'",
    )
    root.add_command(kill)
    root.add_command(restore)
    command(kill, "session", "ferrule kill session 8f2c61 --reason drill")(kill_session)
    for level, (_, about, name) in _TARGETS.items():
        why = "--reason drill"
        command(kill, level, f"ferrule kill {level} {name} {why}")(_killer(level, about))
        command(restore, level, f"ferrule restore {level} {name} {why}")(_restorer(level, about))
    command(kill, "plant", "ferrule kill plant --reason 'intruder in cell 3' --yes")(kill_plant)
    command(restore, "plant", "ferrule restore plant --reason 'drill over'")(restore_plant)
    command(root, "revoke", "ferrule revoke edge edge-a --reason stolen")(revoke)
    command(root, "sessions", "ferrule sessions --history")(sessions)


def _killer(level: str, about: str) -> Callable[..., None]:
    @click.argument("name")
    @reason_option
    @for_option
    @yes_option
    def kill(name: str, reason: str | None, for_: str | None, *, yes: bool, as_json: bool) -> None:
        del yes  # only the plant asks back
        _kill(level, name, reason, for_, as_json=as_json)

    kill.__doc__ = f"{about} Its running circuits are cut, new ones refused."
    return kill


def _restorer(level: str, about: str) -> Callable[..., None]:
    @click.argument("name")
    @reason_option
    def restore(name: str, reason: str | None, *, as_json: bool) -> None:
        _restore(level, name, reason, as_json=as_json)

    restore.__doc__ = f"{about} Lifts every kill of exactly this target."
    return restore


@reason_option
@for_option
@yes_option
def kill_plant(reason: str | None, for_: str | None, *, yes: bool, as_json: bool) -> None:
    """The whole plant: every circuit is cut, every new one refused. Asks back."""
    if not yes:
        if not sys.stdin.isatty():
            raise Misuse("this cuts every connection of the plant: say --yes, no terminal to ask")
        click.confirm("This cuts every connection of the plant. Do it?", abort=True, err=True)
    _kill("plant", "", reason, for_, as_json=as_json)


@reason_option
def restore_plant(reason: str | None, *, as_json: bool) -> None:
    """The whole plant. Kills of single identities, services and zones stay."""
    _restore("plant", "", reason, as_json=as_json)


@click.argument("id_", metavar="ID")
@reason_option
@yes_option
def kill_session(id_: str, reason: str | None, *, yes: bool, as_json: bool) -> None:
    """One session; its conduit stays, so the client may connect again.

    ID is the one that `ferrule sessions` shows, or its first characters (4 or more) where they fit one only.
    """
    del yes  # only the plant asks back
    found = client().post("sessions", "kill", body=given({"id": id_, "reason": reason}))
    if as_json:
        output.as_document(found)
    else:
        who, service = output.clean(found["who"]), output.clean(found["service"])
        output.say(f"cut session {output.clean(found['id'])}: {who} > {service}")


def _kill(
    level: str, name: str, reason: str | None, duration: str | None, *, as_json: bool
) -> None:
    body = given({"level": level, "name": name, "reason": reason, "for": duration})
    found = client().post("kills", body=body)
    if as_json:
        output.as_document(found)
        return
    end = (
        "until it is restored"
        if found["until"] is None
        else f"until {output.moment(found['until'])}"
    )
    output.say(f"killed {_target(level, found['name'])}, {end} (kill {output.clean(found['id'])})")


def _restore(level: str, name: str, reason: str | None, *, as_json: bool) -> None:
    body = given({"level": level, "name": name, "reason": reason})
    found = client().post("restore", body=body)
    if as_json:
        output.as_document(found)
    else:
        output.say(output.clean(found["text"]))


def _target(level: str, name: str) -> str:
    return "the plant" if level == "plant" else f"{level} {output.clean(name)}"


@click.argument("kind", metavar="router|edge")
@click.argument("name")
@click.option("--reason", required=True, metavar="TEXT", help="Why, for the audit.")
def revoke(kind: str, name: str, reason: str, *, as_json: bool) -> None:
    """Void all certificates of a router or an edge, for ever.

    Only a fresh token brings the name back.
    """
    if kind == "user":
        raise not_yet("users")
    if kind not in ("router", "edge"):
        raise Misuse(f"{kind!r} has no certificate: revoke a router or an edge")
    found = client().post("revoke", body={"kind": kind, "name": name, "reason": reason})
    if as_json:
        output.as_document(found)
    else:
        output.say(
            f"revoked {found['kind']} {output.clean(found['name'])}:"
            f" its certificates up to generation {found['generation']} are void"
        )


@click.option("--history", is_flag=True, help="The ended ones, too.")
@click.option("--follow", is_flag=True, help="Go on with each that begins, moves or ends.")
def sessions(*, history: bool, follow: bool, as_json: bool) -> None:
    """List live sessions, oldest first. With --follow and --json: JSON lines."""
    if follow and history:
        raise Misuse("--follow and --history exclude each other")
    if follow:
        _follow(as_json=as_json)
        return
    found = client().get("sessions", history=history or None)
    if as_json:
        output.as_document(found)
        return
    columns = (*SESSION_COLUMNS, "ended", "end_reason") if history else SESSION_COLUMNS
    output.table(found, columns, "no sessions" if history else "no live sessions")


def _follow(*, as_json: bool) -> None:
    for session in client().follow("sessions", "follow"):
        if as_json:
            output.as_line(session)
        else:
            _line(session)


def _line(session: Json) -> None:
    cell = output.cell
    what = f"{cell(session, 'who')} > {cell(session, 'service')} by {cell(session, 'path')}"
    if session["ended"] is None:
        output.now(f"{cell(session, 'started')}  {cell(session, 'id')}  live   {what}")
    else:
        reason = cell(session, "end_reason")
        output.now(f"{cell(session, 'ended')}  {cell(session, 'id')}  ended  {what}: {reason}")
