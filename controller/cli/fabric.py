"""`drain`: what concerns the routers as a fabric."""

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
