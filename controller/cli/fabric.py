"""`drain`, `trace`: what concerns the routers as a fabric."""

import click

from controller.cli import output
from controller.cli.words import client, command, group


def register(root: click.Group) -> None:
    """Add the commands to `root`."""
    drain = group(
        "drain",
        "Send a router's circuits elsewhere before it is worked on or removed.",
        "ferrule drain router router-1",
    )
    root.add_command(drain)
    command(drain, "router", "ferrule drain router router-1")(drain_router)
    command(root, "trace", "ferrule trace 8f2c61d04b7e4f0e9a3d5c7b1e2f4a68")(trace)


@click.argument("name")
@click.option("--undo", is_flag=True, help="It takes circuits again.")
def drain_router(name: str, *, undo: bool, as_json: bool) -> None:
    """Take no new circuits at a router and move those that it carries to other routers.

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

    Each node measures the links that it has about once a second; shown is what they said last, some seconds ago.
    """
    found = client().get("sessions", session, "trace")
    if as_json:
        output.as_document(found)
        return
    moved = f", moved {found['moves']} times" if found["moves"] else ""
    state = "live" if found["ended"] is None else "ended"
    who, service = output.clean(found["who"]), output.clean(found["service"])
    output.say(f"{who} > {service} at {output.clean(found['address'])}: {state}{moved}")
    for hop in found["hops"]:
        ends = f"{output.clean(hop['node'])} > {output.clean(hop['to'])}"
        output.say(f"  {ends}  {_milliseconds(hop['round_trip_ms'])}")
    output.say(f"  all hops  {_milliseconds(found['round_trip_ms'])}")


def _milliseconds(value: float | None) -> str:
    return "not measured yet" if value is None else f"{value:.2f} ms"
