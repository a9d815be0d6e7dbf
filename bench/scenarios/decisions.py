"""How many policy decisions a second one core makes, over a plant of realistic size; no network in it.

`python -m bench.scenarios.decisions SECONDS` prints one JSON document; the benchmark runs it as a process of its own.
"""

import gc
import json
import random
import subprocess
import sys
import time

from bench.candidates.base import Candidate
from bench.errors import BenchError
from bench.load import Generator
from bench.scenarios.scenario import OURS, Measured, Scenario
from overlay.policy.evaluate import carrying, matching
from overlay.policy.model import Asset, Conduit, Edge, Plant, Service, Zone

SEED = 62443
LINES, CELLS, ASSETS_PER_CELL = 10, 8, 25
PROTOCOLS = {"modbus": 502, "opcua": 4840, "ssh": 22}
SINGLE_CONDUITS = 1_000
NOW = 1_800_000_000_000_000
HOUR = 3_600_000_000


def make_plant(dice: random.Random) -> Plant:
    """10 lines of 8 cells with 25 assets each behind one edge a cell, 6,000 services, about 1,300 conduits."""
    zones, edges, assets, services, conduits = [Zone("plant-zone")], [], [], [], []
    for line in range(LINES):
        zones.append(Zone(f"line-{line}", "plant-zone"))
        for cell in range(CELLS):
            zone, edge = f"cell-{line}-{cell}", f"edge-{line}-{cell}"
            zones.append(Zone(zone, f"line-{line}"))
            edges.append(Edge(edge, zone))
            for number in range(ASSETS_PER_CELL):
                name = f"plc-{line}-{cell}-{number}"
                tags = ("hmi",) if number == 0 else ()
                assets.append(Asset(name, (edge,), "10.0.0.1", zone, tags))
                services += [Service(name, word, port, port) for word, port in PROTOCOLS.items()]
            # the HMI of a cell polls its cell, the line's historian reads it all, engineers come and go
            conduits.append(Conduit(f"poll-{zone}", f"plc-{line}-{cell}-0", zone, "modbus"))
            conduits.append(Conduit(f"read-{zone}", f"line-{line}", zone, "opcua"))
    for number in range(SINGLE_CONDUITS):
        who, to = dice.choice(assets), dice.choice(assets)
        ends = NOW + dice.choice((-HOUR, HOUR, 0)) if dice.random() < 0.5 else 0
        protocol = dice.choice(list(PROTOCOLS))
        conduits.append(Conduit(f"one-{number}", who.name, to.name, protocol, ends=max(ends, 0)))
    conduits.append(Conduit("screens", "tag:hmi", "plant-zone", "opcua"))
    return Plant(
        zones=tuple(zones),
        edges=tuple(edges),
        assets=tuple(assets),
        services=tuple(services),
        conduits=tuple(conduits),
    )


def decide(seconds: float) -> dict[str, float]:
    """Ask whether somebody may reach something, pairs drawn beforehand; half of them within one cell."""
    dice = random.Random(SEED)
    plant = make_plant(dice)
    pairs = []
    for _ in range(20_000):
        who = dice.choice(plant.assets)
        near = dice.random() < 0.5
        to = (
            f"{who.name.rsplit('-', 1)[0]}-{dice.randrange(ASSETS_PER_CELL)}"
            if near
            else dice.choice(plant.assets).name
        )
        service = plant.service[f"{to}.{dice.choice(list(PROTOCOLS))}"]
        pairs.append((plant.principals[who.name], service))
    for caller, service in pairs[:2000]:
        carrying(matching(plant, caller, service), NOW)
    gc.collect()
    gc.disable()
    took: list[int] = []
    allowed = 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for caller, service in pairs[:1000]:
            start = time.perf_counter_ns()
            allowed += carrying(matching(plant, caller, service), NOW) is not None
            took.append(time.perf_counter_ns() - start)
        pairs = pairs[1000:] + pairs[:1000]
    took.sort()
    return {
        "decisions_per_s": len(took) / (sum(took) / 1e9),
        "decision_p99_us": took[len(took) * 99 // 100] / 1e3,
        "allowed": allowed / len(took),
    }


def measure(generator: Generator, candidate: Candidate, seconds: float) -> Measured:
    """In a process of its own."""
    del generator, candidate
    done = subprocess.run(
        [sys.executable, "-m", "bench.scenarios.decisions", str(seconds)],
        check=False,
        capture_output=True,
        text=True,
        timeout=seconds + 60,
        start_new_session=True,
    )
    if done.returncode:
        raise BenchError(done.stderr.strip()[-300:])
    figures = json.loads(done.stdout)
    return Measured({name: figures[name] for name in ("decisions_per_s", "decision_p99_us")})


SCENARIOS = (
    Scenario(
        "decisions",
        "policy decisions over a plant of 2,000 assets and 1,161 conduits, one core",
        measure,
        OURS,
        extra=1.0,
    ),
)

if __name__ == "__main__":
    print(json.dumps(decide(float(sys.argv[1]))))
