"""All tables, or some sizes of them: an option without numbers leaves its table out. All sizes take 5 to 10 minutes of CPU
(two cores: half of that) and 1 GB; how far it is goes to standard error."""

import argparse
import asyncio
import itertools
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.simulation.growth.decisions import DECIDED, decided, decided_row
from tests.simulation.growth.fabric import FABRIC, fabric, fabric_row
from tests.simulation.growth.tables import lines
from tests.support.progress import Part, done_in_turn

Row = tuple[object, ...]

EDGES = (10, 30, 100, 300, 1000)
ROUTERS = (1, 2, 5, 10, 20, 50)
WITH_EDGES, WITH_ROUTERS = 20, 2
"""What the other number is while one grows."""


def plant(edges: int, routers: int) -> Part[Row]:
    """It takes as long as it has links."""
    name = f"{edges} edges, {routers} routers"
    return Part(name, edges * routers, in_fabric, (edges, routers))


def store(edges: int, folder: str) -> Part[Row]:
    """A third of an edge about as long as a link of a plant."""
    return Part(f"{edges} edges in a store", edges / 3, in_store, (edges, folder))


def in_fabric(edges: int, routers: int) -> Row:
    """Its line."""
    return fabric_row(fabric(edges, routers))


def in_store(edges: int, folder: str) -> Row:
    """Its line. What a process makes once, it keeps in the folder of its first store."""
    return decided_row(asyncio.run(decided(edges, Path(folder, str(edges)))))


def show(head: str, rows: Iterable[Row]) -> None:
    """Print a table while it is made."""
    for line in lines(head, rows):
        print(line, flush=True)
    print(flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.growth", description=__doc__)
    parser.add_argument("--edges", type=int, nargs="*", default=EDGES, help="plants with 2 routers")
    parser.add_argument(
        "--routers", type=int, nargs="*", default=ROUTERS, help="plants with 20 edges"
    )
    parser.add_argument("--decisions", type=int, nargs="*", default=EDGES, help="edges in a store")
    parser.add_argument("--jobs", type=int, help="processes at once; default: one for each core")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tables = (
            (FABRIC, [plant(edges, WITH_ROUTERS) for edges in given.edges]),
            (FABRIC, [plant(WITH_EDGES, routers) for routers in given.routers]),
            (DECIDED, [store(edges, folder) for edges in given.decisions]),
        )
        found = done_in_turn([part for _, parts in tables for part in parts], given.jobs)
        for head, parts in tables:
            if parts:
                show(head, itertools.islice(found, len(parts)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
