"""Controller hub, routers and bare nodes in one simulation: real programs' parts, virtual time, an action layer in memory."""

import asyncio
from collections.abc import Callable, Iterable
from pathlib import Path

from controller.hub.hub import Hub
from overlay.aio.endpoint import Endpoint
from overlay.aio.node import NodeAgent
from overlay.audit.event import EventName, Outcome
from overlay.control.messages import Assignments
from overlay.errors import Code, FerruleError
from overlay.fabric.authority import Authority, FabricMap
from overlay.identity.certificate import Role
from overlay.policy.grant import Grant
from router.program import serve
from tests.support.hub_actions import MemoryActions
from tests.support.simulation import Host, Simulation

DIR = Path("/state")
TOKEN = Path("/token")
PORT = 8441


class Hooks:
    """`NodeHooks` that remember what they were told."""

    def __init__(self) -> None:
        self.authorities: list[Authority] = []
        self.renewed: list[Authority] = []
        self.maps: list[FabricMap] = []
        self.assignments: list[Assignments] = []
        self.grants: dict[bytes, Grant] = {}
        self.circuits: list[tuple[bytes, int, int]] = []

    def authority_changed(self, authority: Authority) -> None:
        self.authorities.append(authority)

    def authority_renewed(self, authority: Authority) -> None:
        self.renewed.append(authority)

    def map_changed(self, fabric: FabricMap) -> None:
        self.maps.append(fabric)

    def assigned(self, assignments: Assignments) -> None:
        self.assignments.append(assignments)

    def granted(self, put: list[tuple[Grant, bytes]], gone: list[Grant]) -> None:
        for grant, _ in put:
            self.grants[grant.id] = grant
        for grant in gone:
            del self.grants[grant.id]

    def live(self) -> Iterable[tuple[bytes, int, int]]:
        return self.circuits


class Node:
    """An edge that does nothing but being a node."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.hooks = Hooks()
        self._agent: NodeAgent | None = None
        self.endpoint: Endpoint | None = None
        self.error: FerruleError | None = None
        self.stop = asyncio.Event()
        self.over = False

    def start(self, token: str | None = None, *, named: bool = True) -> None:
        if token is not None:
            self.host.world.disk.files[TOKEN] = token.encode()
        self.hooks, self.stop, self.over, self.error = Hooks(), asyncio.Event(), False, None
        self._agent = None
        self.host.start(self._run(TOKEN if named else None))

    async def _run(self, token: Path | None) -> None:
        try:
            agent = self._agent = await NodeAgent.open(
                self.host.world, DIR, role=Role.EDGE, version="1", token=token
            )
            try:
                self.endpoint = Endpoint(
                    self.host.world, agent.credentials, agent.signers, agent.plant_now, _nothing,
                    agent.boot, admit=agent.holdings.admit, on_control=agent.link_control,
                    on_link=agent.link_changed, certificate_now=agent.certificate_now,
                )  # fmt: skip
                agent.use(self.endpoint, self.hooks)
                await agent.run(self.stop)
            finally:
                await agent.close()
        except FerruleError as error:
            self.error = error
        finally:
            self.over = True

    def record(self, reason: str) -> None:
        """Have the node record an event, in a turn of its own."""
        self.host.call(self._record, reason)

    def _record(self, reason: str) -> None:
        if self._agent is not None:
            self._agent.record(EventName.CIRCUIT_CLOSE, Outcome.DONE, reason=reason)

    @property
    def connected(self) -> bool:
        return self._agent is not None and self._agent.connected

    @property
    def enrolled(self) -> bool:
        return self._agent is not None and self._agent.state.enrolled

    @property
    def agent(self) -> NodeAgent:
        assert self._agent is not None
        return self._agent


def _nothing(*_: object, **__: object) -> tuple[Code, str]:
    return Code.NO_GRANT, "nothing here"


class SimulatedPlant:
    """One controller host; routers and edges as asked for."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.controller = sim.host("controller")
        self.actions = MemoryActions(self.controller.world)
        self.hub: Hub | None = None
        self.nodes: dict[str, Node] = {}
        self.stop = asyncio.Event()

    def start_controller(self) -> None:
        self.stop = asyncio.Event()
        self.controller.start(self._hub())

    async def _hub(self) -> None:
        self.actions.boot += 1
        self.hub = Hub(self.controller.world, self.actions, version="1")
        await self.hub.run(self.stop)

    def start_router(self, name: str, *, listen: bool = True) -> Host:
        """Add it where it is new, and run it."""
        host = self.sim.host(name)
        if name not in self.actions.nodes:
            host.world.disk.files[TOKEN] = self.actions.add_router(name, f"{name}:{PORT}").encode()
        settings = {"dir": str(DIR), "listen": f"{name}:{PORT}", "token": str(TOKEN)}
        host.start(serve(host.world, settings, asyncio.Event()))
        return host

    def edge(self, name: str) -> Node:
        """A node that is added, and started with its token."""
        node = self.nodes[name] = Node(self.sim.host(name))
        node.start(self.actions.add_edge(name))
        return node

    async def until(self, holds: Callable[[], bool], seconds: float = 60.0) -> float:
        """Wait for a condition; how long it took."""
        begin = self.sim.loop.time()
        while not holds():
            assert self.sim.loop.time() - begin < seconds, f"not within {seconds} s"
            await asyncio.sleep(0.01)
        return self.sim.loop.time() - begin
