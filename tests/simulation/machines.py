"""An edge of the simulated plant: the real program's parts on a simulated machine."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from edge.edge import Edge
from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.node import NodeAgent
from overlay.aio.tasks import cancel, spawn
from overlay.errors import FerruleError
from overlay.identity.certificate import Role
from tests.support.simulated_plant import DIR, TOKEN

if TYPE_CHECKING:
    from tests.simulation.plant import WholePlant


class EdgeMachine:
    """One edge and what runs on it; `agent` and `edge` are None while it is down or begins."""

    def __init__(self, plant: "WholePlant", name: str) -> None:
        self.plant = plant
        self.name = name
        self.host = plant.sim.host(name)
        self.agent: NodeAgent | None = None
        self.edge: Edge | None = None
        self._commands: set[asyncio.Task[Any]] | None = None
        """Those under way; None while nobody takes any."""

    @property
    def commanded(self) -> bool:
        """It takes local commands."""
        return self._commands is not None

    def command(self, work: Coroutine[Any, Any, Any]) -> None:
        """A local command, which an edge that is told to stop ends first."""
        commands = self._commands
        assert commands is not None
        task = self.host.task(work)
        commands.add(task)
        task.add_done_callback(commands.discard)

    def start(self, stop: asyncio.Event) -> Coroutine[Any, Any, None]:
        """What runs until `stop`."""
        self.agent = self.edge = self._commands = None
        return self._run(stop)

    async def _run(self, stop: asyncio.Event) -> None:
        """As `edge.running.serve`, without the socket for local commands."""
        agent = None
        while agent is None:
            try:
                agent = await NodeAgent.open(
                    self.host.world, DIR, role=Role.EDGE, version="1", token=TOKEN
                )
            except FerruleError as error:  # its disk is full; systemd starts it again
                self.plant.note(self.name, f"did not start: {error}")
                await asyncio.sleep(1.0)
        self.plant.watch(self.name, agent)
        edge = Edge(self.host.world, agent, lanes=self.plant.lanes)
        agent.use(edge.endpoint, edge)
        self.agent, self.edge, self._commands = agent, edge, set()
        ticking = spawn(self._tick(edge), "enforcement")
        try:
            await agent.run(stop)
        finally:
            await cancel(ticking)
            commands, self._commands = self._commands, None
            if commands:
                await asyncio.wait(commands)
            await edge.close()
            await agent.close()
            self.agent = self.edge = None

    async def _tick(self, edge: Edge) -> None:
        while True:
            await asyncio.sleep(1.0)
            if edge.agent.name:
                edge.enforcer.tick()

    def streams(self) -> list[CircuitDriver]:
        """Circuits for programs that have not ended; a question about one (C-62) shows its grant, and carries nothing."""
        if self.edge is None:
            return []
        return [
            one
            for one in self.edge.endpoint.streams()
            if one.grant is not None and one.service[:1] != "_"
        ]
