"""`drain`, `trace`: what concerns the routers as a fabric."""

import click

from controller.cli import output
from controller.cli.words import client, command, group


def register(root: click.Group) -> None:
    """Add the commands to `root`."""
    drain = group(
        "drain",
        "Send a router's circuits elsewhere, to work on it or remove it.",
        "ferrule drain router router-1",
    )
    root.add_command(drain)
    command(drain, "router", "ferrule drain router router-1")(drain_router)
    command(root, "trace", "ferrule trace 8f2c61")(trace)


@click.argument("name")
@click.option("--undo", is_flag=True, help="It takes circuits again.")
def drain_router(name: str, *, undo: bool, as_json: bool) -> None:
    """Let a router take nothing new, and move what it carries to others.

    Nothing is closed: what has no other way stays. Afterwards the router can be stopped, updated or removed
    (`ferrule rm router NAME`); it drains, also after a restart, until `--undo`.
    """
    wanted = "false" if undo else "true"
    found = client().patch("routers", name, body={"changes": {"draining": wanted}})
    if as_json:
        output.as_document(found)
        return
    shown = output.clean(found["name"])
    output.say(
        f"router {shown} takes circuits again"
        if undo
        else f"router {shown} drains: see `ferrule sessions` for what still passes it"
    )


@click.argument("session", metavar="SESSION")
def trace(session: str, *, as_json: bool) -> None:
    """The path of a session, hop by hop, with round trips.

    SESSION is its id, or the first characters of it (4 or more) where they fit one only.
    The nodes on it measure its links now. Who does not answer within 2 s is shown with what it said last.
    """
    found = client().get("sessions", session, "trace")
    if as_json:
        output.as_document(found)
        return
    moved = f", moved {_times(found['moves'])}" if found["moves"] else ""
    state = "live" if found["ended"] is None else "ended"
    who, service = output.clean(found["who"]), output.clean(found["service"])
    output.say(f"{who} > {service} at {output.clean(found['address'])}: {state}{moved}")
    for hop in found["hops"]:
        ends = f"{output.clean(hop['node'])} > {output.clean(hop['to'])}"
        age = f" ({hop['age']:.1f} s ago)" if hop["age"] else ""
        output.say(f"  {ends}  {_milliseconds(hop['round_trip_ms'])}{age}")
    output.say(f"  all hops  {_milliseconds(found['round_trip_ms'])}")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _milliseconds(value: float | None) -> str:
    return "not measured yet" if value is None else f"{value:.2f} ms"
