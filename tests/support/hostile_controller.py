"""A hostile plant in virtual time, with a real controller's hub behind the routers that the test plays."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from controller.hub.hub import Hub
from edge.grants import Held
from overlay import limits
from overlay.aio.circuit_roles import Refused
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.tasks import spawn
from overlay.fabric.authority import Kill
from overlay.identity.certificate import Leaf, Role
from overlay.policy.grant import Grant
from overlay.wire.bodies import STREAM
from overlay.wire.codec import Signed, decode
from tests.support.honest import SERVICE, until
from tests.support.hostile import HostilePlant, changed
from tests.support.hub_actions import MemoryActions, NodeRow
from tests.support.pki import NOW, SECOND
from tests.support.simulation import Simulation

KILL = Kill(b"k" * 16, "service", SERVICE, "smoke", NOW, 0)
HOLD = 300


class Actions(MemoryActions):
    """Its conduit holds for `hold` seconds after the last refresh."""

    hold = 0

    async def grants_for(self, leaf: Leaf) -> Sequence[Grant]:
        put = []
        for grant in self.grants.get(leaf.identity.name, []):
            refresh_by = self.now() + int(limits.REFRESH_BY) * SECOND
            hold_until = refresh_by + self.hold * SECOND
            put.append(changed(grant, refresh_by=refresh_by, hold_until=hold_until))
        return put


class ControlledPlant(HostilePlant):
    """A hostile plant with a real controller, in virtual time."""

    def __init__(self, sim: Simulation, routers: int = 1, hold: int = HOLD) -> None:
        super().__init__(routers, machine=lambda name: sim.host(name).world)
        self.sim = sim
        self.actions = Actions(sim.host("controller").world, self.pki)
        self.actions.hold = hold
        self.actions.credentials = self.controller
        self.actions.signers = self.pki.signers(self.controller)
        self._stop = asyncio.Event()

    async def __aenter__(self) -> "ControlledPlant":
        for router in self.routers:
            await router.listener.listen("127.0.0.1", 0)
            self.actions.nodes[router.name] = NodeRow(Role.ROUTER, router.address, generation=1)
            router.listener.close()
        for name in self.edges:
            self.actions.nodes[name] = NodeRow(Role.EDGE, generation=1)
        self.actions.grants["edge-a"] = [decode(Grant, decode(Signed, self.grant()).body)]
        await super().__aenter__()
        for router in self.routers:
            self.actions.nodes[router.name].address = router.address
        for edge in self.edges.values():
            if edge is not self.a:
                self.actions.assignments[edge.name] = edge.assignments(SERVICE)
        self._hub = spawn(Hub(self.actions.world, self.actions, version="1").run(self._stop), "hub")
        await until(lambda: all(edge.agent.fresh() for edge in self.edges.values()), 30)
        await until(
            lambda: self.a.agent.holdings.grants and len(self.b.edge.hosting._entries) == 1, 30
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.controller_leaves()
        await super().__aexit__()

    async def controller_leaves(self) -> None:
        """The controller is gone."""
        self._stop.set()
        await self._hub

    async def call(self) -> CircuitStream:
        """As a listener of edge-a does, under the grant that it holds. Raises: Refused."""
        calling = self.a.edge.calling
        found = calling._grant(lambda judge: self.a.edge.book.pick("hmi-a", SERVICE, STREAM, judge))
        if not isinstance(found, Held):
            raise Refused(*found)
        stream = calling.open("hmi-a", SERVICE)
        assert stream is not None
        await stream.ready()
        return stream

    def kills(self) -> list[int]:
        """How many kills each edge has in force."""
        found = [edge.agent.state.authority.held for edge in self.edges.values()]
        return [0 if held is None else len(held.body.kills) for held in found]


def story(
    test: Callable[[ControlledPlant], Awaitable[None]], routers: int = 1, hold: int = HOLD
) -> None:
    """Run a test in such a plant."""
    sim = Simulation(seed=3)

    async def run() -> None:
        async with ControlledPlant(sim, routers, hold) as plant:
            await test(plant)

    sim.run(run())
