"""What a plant shows of itself, asked as the command line asks but without starting a process each time."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controller.cli.client import Client
from controller.cli.failure import Failure
from controller.cli.home import FILE, Session
from deploy.demo.plant import Plant, until
from tests.support.traffic import Caller, Echo

Json = dict[str, Any]


def client(plant: Plant) -> Client:
    """With the login that the plant's operator has."""
    kept = json.loads((Path(plant.environment["FERRULE_HOME"]) / FILE).read_text())
    return Client(Session(**kept))


def live(plant: Plant) -> list[Json]:
    """The live sessions, oldest first."""
    found: list[Json] = client(plant).get("sessions")
    return found


def idle(plant: Plant) -> None:
    """Wait until what earlier tests had open has ended, and is seen to have."""
    until(lambda: not live(plant), 10, "earlier sessions to end")


@contextlib.contextmanager
def lone_session(
    plant: Plant, port: int, asset: Echo, seconds: float = 30.0
) -> Iterator[tuple[Caller, Json]]:
    """An open connection to the listener at `port`, and its session as it is listed: the only one there is.

    The record of an earlier connection may still be on its way. So it is waited for as many sessions as the asset has
    seen connections: then the new one is among them, and the others end.
    """
    with Caller(port, seconds) as caller:
        caller.echo()
        until(lambda: _known(plant, asset) and len(live(plant)) == 1, 10, "the session alone")
        (session,) = live(plant)
        yield caller, session


def _known(plant: Plant, asset: Echo) -> bool:
    ever = client(plant).get("sessions", history=True)
    return sum(each["address"].endswith(f":{asset.port}") for each in ever) >= asset.connections


def calm(plant: Plant) -> None:
    """Lift every kill and end every conduit; one whose time is over meanwhile needs no help."""
    asked = client(plant)
    for kill in asked.get("kills"):
        with contextlib.suppress(Failure):
            asked.post("restore", body={"level": kill["level"], "name": kill["name"]})
    for conduit in asked.get("conduits"):
        with contextlib.suppress(Failure):
            asked.delete("conduits", conduit["id"])
