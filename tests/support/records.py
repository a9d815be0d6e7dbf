"""The audit log as tests look at it: attempts that were recorded, and whether any event is missing or there twice."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from deploy.demo.plant import Plant
from overlay.audit.record import event_of
from overlay.audit.spool_file import unpack
from tests.support.seen import client

Json = dict[str, Any]

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def search(plant: Plant, **filters: str | int) -> list[Json]:
    """What `ferrule audit search` finds with these filters."""
    query: dict[str, Any] = dict(filters)
    records: list[Json] = client(plant).get("audit", "search", **query)
    return records


def attempts(plant: Plant, service: str, outcome: str) -> list[Json]:
    """The recorded attempts to open a service."""
    found = search(plant, service=service, outcome=outcome)
    return [record for record in found if record["event"] == "circuit.open"]


def tally(records: list[Json]) -> int:
    """How many attempts the records stand for: a rate limit may have merged several."""
    return sum(record["count"] for record in records)


def on_disk(plant: Plant, node: str, service: str, outcome: str) -> int:
    """How many attempts to open a service a node has written to its spool and not yet seen recorded."""
    return sum(
        event.count
        for path in Path(plant.path(node)).glob("spool-*")
        for event in (event_of(stored.signed) for stored in unpack(path.read_bytes()).events)
        if (event.service, event.outcome.value) == (service, outcome)
    )


def export(plant: Plant, name: str = "export.jsonl") -> list[Json]:
    """Export the log, check that the export verifies offline, and return its records without the head."""
    path = plant.path(name)
    Path(path).unlink(missing_ok=True)
    plant.ferrule("audit", "export", path)
    plant.ferrule("audit", "verify", "--file", path)
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    assert set(lines[-1]) == {"head"}
    return lines[:-1]


def assert_whole(records: list[Json], machines: dict[str, int] | None = None) -> dict[str, int]:
    """Every node's events are there exactly once, from the first; returns how many each node has.

    `machines` says how many machines a node has had, where one was replaced: each counts from 1.
    """
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for record in records:
        numbers[record["node"]].append(record["number"])
    for node, found in numbers.items():
        wanted: list[int] = []
        for place, number in enumerate(found):
            if number == 1 or not wanted:
                wanted = list(range(1 - place, len(found) - place + 1))
            assert number == wanted[place], f"{node}: {number} missing, twice or out of order"
        assert found.count(1) <= (machines or {}).get(node, 1), f"{node} began again"
    assert [record["seq"] for record in records] == list(range(1, len(records) + 1))
    return {node: len(found) for node, found in numbers.items()}
