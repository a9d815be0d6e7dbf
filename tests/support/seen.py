"""What a plant shows of itself, asked as the command line asks but without starting a process each time."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controller.cli.client import Client
from controller.cli.home import FILE, Session
from deploy.demo.plant import Plant, until
from tests.support.traffic import Caller

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
def lone_session(plant: Plant, port: int, seconds: float = 30.0) -> Iterator[tuple[Caller, Json]]:
    """An open connection to the listener at `port`, and its session as it is listed: the only one there is."""
    idle(plant)
    with Caller(port, seconds) as caller:
        caller.echo()
        until(lambda: live(plant), 5, "the session to be listed")
        (session,) = live(plant)
        yield caller, session


def calm(plant: Plant) -> None:
    """Lift every kill and end every conduit."""
    asked = client(plant)
    for kill in asked.get("kills"):
        asked.post("restore", body={"level": kill["level"], "name": kill["name"]})
    for conduit in asked.get("conduits"):
        asked.delete("conduits", conduit["id"])
