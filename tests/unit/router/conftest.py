"""Stories of routers in a simulation."""

import pytest

from tests.support.fabrics import Fabric
from tests.support.simulation import Simulation


@pytest.fixture
def story(monkeypatch):
    """Runs `await tell(fabric)` in a simulation with one router, r1."""

    def run(tell, seed: int = 0, routers: tuple[str, ...] = ("r1",)):
        sim = Simulation(seed)
        fabric = Fabric(sim, monkeypatch)

        async def told():
            for name in routers:
                await fabric.router(name)
            return await tell(fabric)

        return sim.run(told())

    return run
