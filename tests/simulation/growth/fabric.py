"""What travels in a plant of some size: the real hub, routers and node agents in virtual time, so that bytes, frames
and steps are exact and only CPU time depends on the machine; what the controller decides is made up (`MemoryActions`).
"""

import asyncio
import gc
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, NamedTuple
from unittest.mock import patch

from overlay.aio.link_sender import LinkSender
from overlay.aio.state import KeptState
from overlay.control.messages import Assignments, HostedEntry, ListenerEntry
from overlay.fabric.authority import FabricMap, Kill, RouterEntry
from overlay.identity.certificate import Role
from overlay.link.turns import Frame
from overlay.policy.grant import Grant
from overlay.wire.header import Kind
from tests.simulation.enrolled import quiet
from tests.simulation.growth.tables import kilo, milli
from tests.support.hub_actions import MemoryActions, NodeRow
from tests.support.pki import DAY, SECOND
from tests.support.simulated_network import SimulatedConnection, SimulatedNetwork
from tests.support.simulated_plant import DIR, PORT, SimulatedPlant
from tests.support.simulated_plant import Node as Edge
from tests.support.simulation import EPOCH, Host, Simulation

IDLE = 30.0
"""Seconds: half the life of an attachment, so that everything that comes again comes once."""
BEGIN = 3.0
SETTLE = 0.25
"""Seconds of virtual time in which a change has come to rest."""
PERIOD = 5.0
"""Everything but attachments comes again in this time."""
TELLING = frozenset({Kind.CONTROL, Kind.DATA})
_SHARED = (
    type, ModuleType, FunctionType, BuiltinFunctionType, asyncio.AbstractEventLoop,
    Simulation, SimulatedNetwork, SimulatedConnection, Host, MemoryActions,
)  # fmt: skip


class Cost(NamedTuple):
    """What something cost the plant. `at` are CPU seconds by kind of machine; `took` is virtual seconds."""

    frames: int
    sent: int
    controller_sent: int
    steps: int
    took: float
    at: dict[str, float]

    def beyond(self, nothing: "Cost") -> "Cost":
        """Without what the same time costs when nothing happens."""
        return Cost(
            self.frames - nothing.frames, self.sent - nothing.sent,
            self.controller_sent - nothing.controller_sent, self.steps - nothing.steps, self.took, self.at,
        )  # fmt: skip


class Plant(SimulatedPlant):
    """Edges and routers that were enrolled long ago. Each edge has a listener, a hosted service and a grant."""

    def __init__(self, sim: Simulation, edges: int, routers: int) -> None:
        super().__init__(sim)
        self.actions = RingActions(self.controller.world)
        self.router_names = [f"router-{number}" for number in range(routers)]
        self.edge_names = [f"edge-{number}" for number in range(edges)]
        self.frames = self.steps = 0
        self.sent: Counter[str] = Counter()
        self.at: defaultdict[str, float] = defaultdict(float)
        self._clock = time.process_time()
        sim.net.filter = self._travels
        sim.loop.on_step = self._step

    def _travels(self, source: str, _: str, data: bytes) -> bytes:
        self.sent[kind_of(source)] += len(data)
        return data

    def _step(self, host: Host) -> None:
        now = time.process_time()
        self.at[kind_of(host.name)] += now - self._clock
        self._clock = now
        self.steps += 1

    async def begin(self) -> None:
        """All connected."""
        for name in self.router_names:
            self.actions.nodes[name] = NodeRow(Role.ROUTER, f"{name}:{PORT}", generation=1)
            await self.sim.host(name).task(self._enrol(name, Role.ROUTER))
        for number, name in enumerate(self.edge_names):
            self.actions.nodes[name] = NodeRow(Role.EDGE, generation=1)
            self._assign(name, self.edge_names[number - 1])
            await self.sim.host(name).task(self._enrol(name, Role.EDGE))
        self.start_controller()
        for name in self.router_names:
            self.start_router(name)
        await asyncio.sleep(BEGIN)
        for name in self.edge_names:
            self.nodes[name] = Edge(self.sim.host(name))
            self.nodes[name].start(named=False)
            await asyncio.sleep(0.01)
        await self.until(lambda: all(one.connected for one in self.nodes.values()), 600)
        await asyncio.sleep(BEGIN)

    async def _enrol(self, name: str, role: Role) -> None:
        state = await KeptState.open(self.sim.host(name).world, DIR)
        addresses = tuple(f"{one}:{PORT}" for one in self.router_names)
        newcomer = await state.newcomer(self.actions.pki.anchor, addresses)
        times = {"start": EPOCH - DAY, "end": EPOCH + 30 * DAY}
        chain = self.actions.pki.chain(newcomer.key.public, role, name, **times)
        await state.enrol(newcomer, chain)
        await state.close()

    def _assign(self, name: str, other: str) -> None:
        service, own = f"plc-of-{other}.modbus", f"plc-of-{name}"
        self.actions.assignments[name] = Assignments(
            1, b"", (ListenerEntry(service, "0.0.0.0:15020", name, 0),),
            (HostedEntry(f"{own}.modbus", own, "192.0.2.1", 502, 502, 0),),
        )  # fmt: skip
        self.actions.grants[name] = [self.grant(name, other, 0)]

    def grant(self, name: str, other: str, number: int) -> Grant:
        """Number `number` of this edge."""
        asset = f"plc-of-{other}"
        return Grant(
            f"{name}/{number}".encode().ljust(16, b"-")[:16], f"c{number}", bytes(32), name, name,
            f"{asset}.modbus", asset, (other,), 0, 0, EPOCH - SECOND, 0, 0, 0, 0, (), (), 1, 1,
        )  # fmt: skip

    async def cost_of(
        self, change: Callable[[], None], arrived: Callable[[], bool], seconds: float = SETTLE
    ) -> Cost:
        """Of a change until it has `arrived` everywhere, and of the seconds after it."""
        before = self._counts()
        self.at.clear()
        self._clock = time.process_time()
        begun = self.sim.loop.time()
        change()
        took = await self.until(arrived, 600)
        at = defaultdict(float, self.at)
        await asyncio.sleep(max(0.0, begun + seconds - self.sim.loop.time()))
        frames, sent, by_controller, steps = (
            count - old for old, count in zip(before, self._counts(), strict=True)
        )
        return Cost(frames, sent, by_controller, steps, took, at)

    def _counts(self) -> tuple[int, int, int, int]:
        return self.frames, self.sent.total(), self.sent["controller"], self.steps

    async def net(self, change: Callable[[], None], arrived: Callable[[], bool]) -> Cost:
        """Of a change alone: what comes again and again comes at the same times before it and after it."""
        begun = self.sim.loop.time()
        nothing = await self.cost_of(lambda: None, lambda: True)
        await asyncio.sleep(begun + PERIOD - self.sim.loop.time())
        return (await self.cost_of(change, arrived)).beyond(nothing)

    # --- changes ------------------------------------------------------------------------------------

    async def kill(self) -> Cost:
        """An authority that says something else."""
        version = self.actions.version + 1
        kill = Kill(b"k" * 16, "service", "plc.modbus", "drill", self.actions.now(), 0)
        return await self.net(
            lambda: self.actions.kill(kill),
            lambda: all(
                one.agent.state.authority.version >= version for one in self.nodes.values()
            ),
        )

    async def conduit(self) -> Cost:
        """A grant more, for one edge."""
        name = self.edge_names[0]

        def allow() -> None:
            self.actions.grants[name].append(self.grant(name, self.edge_names[-1], 1))
            self.actions.publish("policy")

        return await self.net(allow, lambda: len(self.nodes[name].hooks.grants) == 2)

    async def router(self) -> Cost:
        """A router more in the map; it is never started."""
        version = self.actions.map_version + 1

        def add() -> None:
            self.actions.nodes["router-new"] = NodeRow(Role.ROUTER, f"router-new:{PORT}")
            self.actions.map_version = version
            self.actions.publish("map")

        def have() -> bool:
            maps = (one.agent.state.fabric.map for one in self.nodes.values())
            return all(held is not None and held.version >= version for held in maps)

        return await self.net(add, have)

    async def idle(self) -> Cost:
        """Nothing happens."""
        return await self.cost_of(lambda: None, lambda: True, IDLE)


class RingActions(MemoryActions):
    """The map says that each router dials the next two."""

    async def fabric_map(self) -> bytes:
        names = [name for name, node in self.nodes.items() if node.role is Role.ROUTER]
        entries = []
        for place, name in enumerate(names):
            after = {names[(place + step) % len(names)] for step in (1, 2)} - {name}
            entries.append(RouterEntry(name, self.nodes[name].address, tuple(sorted(after))))
        return self._sign(FabricMap(self.map_version, tuple(entries)))


class Fabric(NamedTuple):
    """What a plant of one size costs. Idle is for `IDLE` seconds; bytes of memory are at the controller."""

    edges: int
    routers: int
    idle: Cost
    idle_cpu: float
    """CPU seconds of the controller meanwhile."""
    kill: Cost
    conduit: Cost
    router: Cost
    map_size: int
    memory: int


def fabric(edges: int, routers: int) -> Fabric:
    """Run one such plant."""
    sim = Simulation(1)
    plant = Plant(sim, edges, routers)

    async def story() -> Fabric:
        await plant.begin()
        hub = plant.hub
        assert hub is not None
        memory = reachable(hub)
        idle = await plant.idle()
        idle_cpu = plant.at["controller"]
        size = len(await plant.actions.fabric_map())
        kill, conduit, router = await plant.kill(), await plant.conduit(), await plant.router()
        return Fabric(edges, routers, idle, idle_cpu, kill, conduit, router, size, memory)

    with quiet(), counting(plant):
        return sim.run(story())


@contextmanager
def counting(plant: Plant) -> Iterator[None]:
    """Frames that tell something; PING, PONG and CREDIT do not."""
    push, write_now = LinkSender.push, LinkSender._write_now

    def pushed(self: LinkSender, frame: Frame) -> int:
        plant.frames += frame.kind in TELLING
        return push(self, frame)

    def wrote(self: LinkSender, kind: Kind, *arguments: Any, **options: Any) -> None:
        plant.frames += kind in TELLING
        write_now(self, kind, *arguments, **options)

    with patch.object(LinkSender, "push", pushed), patch.object(LinkSender, "_write_now", wrote):
        yield


def reachable(thing: object) -> int:
    """Bytes of all Python objects that hang on this one; what the simulation stands for is left out."""
    seen, size, waiting = {id(thing)}, 0, [thing]
    while waiting:
        one = waiting.pop()
        size += sys.getsizeof(one)
        for other in gc.get_referents(one):
            if id(other) not in seen and not isinstance(other, _SHARED):
                seen.add(id(other))
                waiting.append(other)
    return size


def kind_of(machine: str) -> str:
    """Of a machine: controller, router or edge."""
    return machine.split("-", maxsplit=1)[0]


FABRIC = (
    "edges | routers | idle: kB/s in all | frames/s in all | kB/s of the controller | "
    "controller, CPU ms/s | kill: frames | kB | virtual ms | CPU ms at the controller | at all edges | at all routers | "
    "conduit: kB | CPU ms at the controller | router more: kB | map, bytes | controller, MB"
)


def fabric_row(one: Fabric) -> tuple[object, ...]:
    """Its line."""
    return (
        one.edges, one.routers, kilo(one.idle.sent / IDLE), round(one.idle.frames / IDLE),
        kilo(one.idle.controller_sent / IDLE), milli(one.idle_cpu / IDLE), one.kill.frames, kilo(one.kill.sent),
        milli(one.kill.took), *(milli(one.kill.at[kind]) for kind in ("controller", "edge", "router")),
        kilo(one.conduit.sent), milli(one.conduit.at["controller"]), kilo(one.router.sent),
        one.map_size, f"{one.memory / 1e6:.1f}",
    )  # fmt: skip
