"""Controller, routers, edges, assets and programs in one simulation: the real programs' parts on simulated machines."""

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import router.program
from controller.hub import updates
from controller.hub.hub import Hub
from edge.edge import Edge
from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.node import NodeAgent
from overlay.circuit.signatures import Verifying
from overlay.errors import FerruleError
from router.router import Router
from tests.simulation.audit import Ledger
from tests.simulation.enrolled import enrolled
from tests.simulation.invariants import Invariants
from tests.simulation.machines import EdgeMachine
from tests.simulation.policy import (
    ASSET_PORT,
    ASSETS,
    EDGES,
    LISTENERS,
    LIVES,
    PEOPLE,
    TIMES,
    Actions,
    Conduit,
    assignments,
    uses,
)
from tests.simulation.shape import drawn
from tests.simulation.traffic import Asset, Client, Telemetry, echo_datagrams
from tests.support.pki import SECOND
from tests.support.simulated_plant import DIR, PORT
from tests.support.simulation import Host, Simulation, current_host

HONEST = {"security.clock", "security.refused"}
"""Alarms about what happens in a plant in which nobody attacks: a clock was set; a grant ended on its way."""


class WholePlant:
    """The plant under one seed. `violated` is where whoever sees something wrong says so; only the first counts."""

    def __init__(self, sim: Simulation, form: str = "") -> None:
        self.sim = sim
        self.rng = random.Random(sim.rng.random())
        self.trace: list[str] = []
        self.wrong = ""
        self.kind = ""
        self.broken = sim.loop.create_future()
        self.served: dict[int, Asset] = {}
        self.clients: list[Client] = []
        self._numbers = itertools.count(1)
        self.ledger = Ledger()
        self.agents: dict[str, NodeAgent] = {}
        """Of edges and routers whose programs run."""
        self.lanes = self.rng.random() < 0.5
        self.datagrams: Telemetry | None = None
        self.end = 0.0
        self.calm = False
        """No faults any more, and nobody is slow on purpose."""
        self.hurries = False
        """Nor does anybody say much any more."""
        self.ageing = self.rng.random() < 0.4
        """Certificates want to be renewed while people work."""
        self.stops: dict[str, asyncio.Event] = {}
        """To each program that runs: set when it is to end."""
        self.ended: dict[str, asyncio.Event] = {}
        self.behind: dict[str, float] = {}
        """Until when a machine may not have written all, since its disk was full."""
        self.shape = drawn(self.rng, form)
        self.crossed: dict[bytes, int] = {}
        """Of each circuit that brought something to an asset, how many routers were on its path."""
        kept = enrolled(ageing=self.ageing)
        self.controller = sim.host("controller")
        self.actions = Actions(self.controller.world, kept.actions.pki)
        self.actions.copy_of(kept.actions, self.shape.dials)
        self.actions.times = self.rng.choice(TIMES)
        if self.ageing:
            self.actions.life = self.rng.choice(LIVES)
        self.hub: Hub | None = None
        self.routers: dict[str, Router] = {}
        self.edges = {name: EdgeMachine(self, name) for name in EDGES}
        self.invariants = Invariants(self)
        for name in (*self.shape.routers, *EDGES):
            sim.host(name).world.disk.files.update(kept.disks[name])
        for name in EDGES:
            self._walls(name)
            self.actions.assignments[name] = assignments(name)
        for number, (via, service) in enumerate(uses()):
            strict = int(self.rng.random() < 0.3)
            self.actions.allow(Conduit(f"c{number}", via, service, integrity=strict))

    # --- telling ------------------------------------------------------------------------------------

    def note(self, where: str, what: str) -> None:
        """A line of the trace."""
        self.trace.append(f"{self.sim.loop.now:10.4f}  {where:12} {what}")

    def violated(self, kind: str, what: str) -> None:
        """An invariant does not hold."""
        if not self.wrong:
            self.kind, self.wrong = kind, what
            self.note("✗ " + kind, what)
            if not self.broken.done():
                self.broken.set_result(None)

    def watch(self, name: str, agent: NodeAgent) -> None:
        """See what a program puts into its audit."""
        record = agent.recorder.record

        def recorded(event: Any, outcome: Any, **fields: Any) -> None:
            self.recorded(name, event, outcome, fields)
            record(event, outcome, **fields)

        agent.recorder.record = recorded  # type: ignore[method-assign]
        self.agents[name] = agent

    def recorded(self, node: str, event: Any, outcome: Any, fields: dict[str, Any]) -> None:
        """An audit event was made."""
        self.ledger.said(node, event.value, outcome.value, fields)
        said = {
            key: fields[key] for key in ("who", "service", "reason", "circuit") if fields.get(key)
        }
        if "circuit" in said:
            said["circuit"] = said["circuit"][:6]
        words = " ".join(f"{key}={value}" for key, value in said.items())
        self.note(node, f"{event.value} {outcome.value} {words}")
        honest = HONEST | {"security.fork"} if self.actions.lost else HONEST
        if event.value.startswith("security.") and event.value not in honest:
            self.violated("no false alarm", f"{node} records {event.value}: {fields.get('reason')}")

    def _walls(self, name: str) -> None:
        reached = self.shape.reaches.get(name, self.shape.routers)
        self.sim.net.walls |= {(name, one) for one in self.shape.routers if one not in reached}

    def begun(self) -> None:
        """All routers know the map: now the controller may be kept from some."""
        self._walls("controller")
        net = self.sim.net
        for one in list(net.connections):
            if (one.host.name, one.other.host.name) in net.walls:
                net.reset(one)

    # --- machines -----------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start what runs on a machine."""
        self.note(name, "starts")
        host, stop = self.sim.host(name), asyncio.Event()
        if name == "controller":
            program = self._hub()
        elif name in self.shape.routers:
            program = self._router(host, stop)
        elif name in EDGES:
            program = self.edges[name].start(stop)
        else:
            program = self._asset(host)
        self.stops[name], self.ended[name] = stop, asyncio.Event()
        host.start(self._until_its_end(name, program))

    async def _until_its_end(self, name: str, program: Coroutine[Any, Any, None]) -> None:
        await program
        self.note(name, "has ended")
        self.agents.pop(name, None)
        self.routers.pop(name, None)
        lost = self.ledger.stopped(name)
        if lost and self.behind.get(name, 0.0) < self.sim.loop.now:
            self.violated("audit", f"{name} ended, and left unwritten: {lost}")
        self.ended[name].set()

    def stop(self, name: str) -> None:
        """SIGTERM for an edge or a router."""
        self.sim.host(name).call(self.stops[name].set)

    def start_again(self, name: str) -> None:
        """Once it has ended."""

        async def again() -> None:
            await self.ended[name].wait()
            self.start(name)

        self.sim.host(name).start(again())

    async def _hub(self) -> None:
        self.actions.boot += 1
        for row in self.actions.nodes.values():
            row.connected = 0
        self.hub = Hub(self.controller.world, self.actions, version="1")
        await self.hub.run(asyncio.Event())

    async def _router(self, host: Host, stop: asyncio.Event) -> None:
        settings = {"dir": str(DIR), "listen": f"{host.name}:{PORT}"}
        while True:
            try:
                lanes = 1 if self.lanes else 0
                await router.program.serve(host.world, settings, stop, bulk_lanes=lanes)
                return
            except FerruleError as error:
                self.note(host.name, f"did not start: {error}")
                await asyncio.sleep(1.0)

    async def _asset(self, host: Host) -> None:
        def dialed(connection: Any) -> None:
            connection.start(Asset(self, connection, random.Random(self.rng.random())))

        await host.world.net.listen("", ASSET_PORT, dialed)
        if host.name == "plc-b":
            await echo_datagrams(host.world.net, ASSET_PORT)
        await asyncio.Event().wait()

    def crash(self, name: str) -> None:
        """Power lost."""
        self.ledger.lossy.add(name)
        self.agents.pop(name, None)
        self.ledger.stopped(name)
        if name in self.edges:
            self.edges[name].agent = self.edges[name].edge = None
        self.routers.pop(name, None)
        self.sim.host(name).crash()

    def release_switch(self, machine: EdgeMachine) -> None:
        """Somebody pushes the switch of this edge back."""

        async def release(edge: Edge) -> None:
            try:
                await edge.release("drill over")
            except FerruleError as error:
                self.note(machine.name, f"the switch: {error}")

        async def until_it_is() -> None:
            while (edge := machine.edge) is None or edge.switch.pulled is not None:
                if edge is not None and machine.commanded:
                    machine.command(release(edge))
                await asyncio.sleep(1.0)

        machine.host.start(until_it_is())

    async def dial(
        self, via: str, port: int, up: int, down: int, stays: float = 0.0
    ) -> Client | None:
        """A program connects, talks, and ends so many seconds after that at the earliest. None: nobody listened."""
        number = next(self._numbers)
        people = self.sim.host(PEOPLE)

        async def run() -> Client | None:
            try:
                connection = await people.world.net.connect(via, port)
            except OSError:
                return None
            client = Client(self, connection, random.Random(self.rng.random()))
            client.service = next(name for name, at in LISTENERS[via] if at == port)
            connection.start(client)
            client.begin(number, up, down, stays)
            self.clients.append(client)
            self.note(f"client {client.number}", f"dials {via}:{port}, {up} bytes up, {down} down")
            return client

        return await people.task(run())

    def hurry(self) -> None:
        """Programs say little more, in conversations of which both ends know now or later."""
        self.hurries = True
        for client in self.clients:
            self._shorten(client)

    def met(self, asset: Asset) -> None:
        """A conversation has come to an asset."""
        if asset.number in self.served:
            self.violated("exactly once", f"conversation {asset.number} came twice")
        self.served[asset.number] = asset
        for client in self.clients if self.hurries else ():
            if client.number == asset.number:
                self._shorten(client)

    def _shorten(self, client: Client) -> None:
        asset = self.served.get(client.number)
        if asset is not None and not client.outcome and not asset.outcome:
            client.shorten(asset)
            asset.shorten(client)

    def check_delivery(self, stream: CircuitDriver) -> None:
        """Bytes go to a program."""
        host = current_host()
        if host is not None and host.name in self.edges:
            self.invariants.delivery(self.edges[host.name], stream)

    @property
    def revoked(self) -> frozenset[str]:
        """Edges that do not belong to the plant any more."""
        return frozenset(one.name for one in self.actions.revoked)

    @staticmethod
    def host_of(service: str) -> str:
        """The edge that hosts it."""
        return ASSETS[service.split(".", maxsplit=1)[0]]

    def works(self, via: str, service: str) -> bool:
        """Whether neither end is revoked."""
        return not {via, self.host_of(service)} & self.revoked

    @property
    def machines(self) -> tuple[str, ...]:
        """All but that of people."""
        return ("controller", *self.shape.routers, *EDGES, *ASSETS)

    @property
    def members(self) -> list[EdgeMachine]:
        """Edges that are not revoked."""
        return [one for one in self.edges.values() if one.name not in self.revoked]

    @property
    def mapped(self) -> bool:
        """Every router knows whom to dial."""
        maps = [self.agents[name].state.fabric.map for name in self.shape.routers]
        return all(one is not None and one.version >= self.actions.map_version for one in maps)

    @property
    def connected(self) -> bool:
        """All of them have their controller."""
        return all(one.agent is not None and one.agent.connected for one in self.members)


@contextmanager
def watched(plant: Callable[[], WholePlant]) -> Iterator[None]:
    """Grants are refreshed soon, routers can be found, and each delivery is looked at."""

    class Seen(Router):
        def __init__(self, world: Any, agent: NodeAgent, *rest: Any) -> None:
            super().__init__(world, agent, *rest)
            plant().routers[agent.name] = self
            plant().watch(agent.name, agent)

    deliver, verify = CircuitDriver.deliver, Verifying.frame

    def delivered(self: CircuitDriver, data: Any) -> None:
        if self.grant is not None:
            plant().check_delivery(self)
        deliver(self, data)

    def verified(self: Verifying, *arguments: Any) -> None:
        verify(self, *arguments)
        plant().invariants.verified.add((self.circuit, self.direction))

    with ExitStack() as stack:
        stack.enter_context(patch.object(CircuitDriver, "deliver", delivered))
        refresh = int(plant().actions.times[0] * SECOND / 2)
        stack.enter_context(patch.object(updates, "REFRESH_AFTER", refresh))
        stack.enter_context(patch.object(Verifying, "frame", verified))
        stack.enter_context(patch.object(router.program, "Router", Seen))
        yield
