"""A story of a simulated plant, told as the list of what was written to whom, when: `python -m tests.support.traced SEED`.

The same seed must give the same lines in every process, whatever order its sets have.
"""

import asyncio
import io
import sys
from typing import Any

from overlay.aio import logs
from overlay.fabric.authority import Kill
from tests.support.simulated_network import SimulatedConnection
from tests.support.simulated_plant import SimulatedPlant
from tests.support.simulation import Simulation

ROUTERS, EDGES = 3, 6


async def story(plant: SimulatedPlant) -> None:
    """Enrolment, news for all, routers that come and go, a controller that dies, a revocation."""
    sim, actions = plant.sim, plant.actions
    plant.start_controller()
    for number in range(ROUTERS):
        plant.start_router(f"router-{number}")
    edges = [plant.edge(f"edge-{number}") for number in range(EDGES)]
    await plant.until(lambda: all(edge.connected for edge in edges))
    for edge in edges:
        edge.record("something")
    actions.kill(Kill(b"k" * 16, "identity", "edge-0", "drill", 1, 0))
    actions.publish("policy", "map")
    sim.host("router-1").crash()
    await asyncio.sleep(7)
    plant.start_router("router-1")
    actions.revoke("edge-1")
    await asyncio.sleep(7)
    plant.controller.crash()
    await asyncio.sleep(3)
    plant.start_controller()
    await asyncio.sleep(20)
    plant.stop.set()
    await asyncio.sleep(5)


def trace(seed: int) -> list[str]:
    """What was written in the story under this seed, a line each."""
    lines: list[str] = []
    sim = Simulation(seed)
    write = SimulatedConnection.write

    def noted(self: SimulatedConnection, parts: Any) -> int:
        taken = write(self, parts)
        lines.append(f"{sim.loop.time():.6f} {self.host.name} > {self.other.host.name}")
        return taken

    SimulatedConnection.write = noted  # type: ignore[method-assign]
    try:
        sim.run(story(SimulatedPlant(sim)))
    finally:
        SimulatedConnection.write = write  # type: ignore[method-assign]
    return lines


if __name__ == "__main__":
    logs.setup("text", stream=io.StringIO())
    sys.stdout.write("\n".join(trace(int(sys.argv[1]))) + "\n")
