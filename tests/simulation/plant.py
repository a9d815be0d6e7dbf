"""Controller, routers, edges, assets and programs in one simulation: the real programs' parts on simulated machines.

Enrolling costs most of a run, so it is done once in a process: every plant begins on copies of the same disks.
"""

import asyncio
import gc
import io
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from cryptography.x509 import load_der_x509_certificate

import router.program
from controller.hub import updates
from controller.hub.hub import Hub
from edge.edge import Edge
from overlay.aio import logs
from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.node import NodeAgent
from overlay.aio.tasks import cancel, spawn
from overlay.control.messages import Assignments, GrantUpdate, HostedEntry, ListenerEntry
from overlay.errors import FerruleError
from overlay.fabric.authority import Kill, Withdrawal
from overlay.identity.certificate import Leaf, Role
from overlay.identity.trust import sign_body
from overlay.policy.grant import Grant
from router.router import Router
from tests.simulation.invariants import Invariants
from tests.simulation.traffic import Asset, Client
from tests.support.hub_actions import MemoryActions
from tests.support.pki import SECOND, Pki
from tests.support.simulated_plant import DIR, PORT, TOKEN, SimulatedPlant
from tests.support.simulation import Host, Simulation, current_host

ROUTERS = ("router-1", "router-2")
EDGES = ("edge-a", "edge-b", "edge-c")
ASSETS = {"plc-b": "edge-b", "plc-c": "edge-c"}
"""Each asset, and the edge that hosts it."""
PEOPLE = "hmi"
ASSET_PORT = 502
REFRESH = 20.0
"""Seconds after which a grant wants to be refreshed: short, so that a run sees it."""
HOLD = 15.0
"""Seconds that a grant holds beyond that while the controller is away."""
SIGNATURE = 71
"""Bytes of most ECDSA signatures."""
LISTENERS = {
    "edge-a": (("plc-b.modbus", 15_001), ("plc-c.modbus", 15_002)),
    "edge-c": (("plc-b.modbus", 15_003),),
}


class Conduit(NamedTuple):
    """`via` may reach `service` until `end` (plant time in microseconds; 0: for ever)."""

    name: str
    via: str
    service: str
    end: int = 0


class Actions(MemoryActions):
    """Grants follow from conduits; remembers what was in force under each version of the authority."""

    def __init__(self, world: Any, pki: Pki | None = None) -> None:
        super().__init__(world, pki)
        self.conduits: dict[str, Conduit] = {}
        self.kills_at: dict[int, tuple[Kill, ...]] = {self.version: ()}
        self.withdrawn_at: dict[int, tuple[Withdrawal, ...]] = {self.version: ()}

    def copy_of(self, other: MemoryActions) -> None:
        """Go on with the nodes, tokens and log of another plant of the same keys."""
        self.credentials, self.boot = other.credentials, other.boot
        self.signers = self.pki.signers(self.credentials)
        for name, row in other.nodes.items():
            self.nodes[name] = type(row)(row.role, row.address, row.generation)
        self.version, self.map_version = other.version + 1, other.map_version + 1
        self.rewrite(other.leaves)
        self._known = dict(other._known)
        self.changed()

    def changed(self) -> None:
        self.version += 1
        self.kills_at[self.version] = self.kills
        self.withdrawn_at[self.version] = self.withdrawn
        self.publish("authority", "policy")

    def set_kills(self, kills: tuple[Kill, ...]) -> None:
        self.kills = kills
        self.changed()

    def allow(self, conduit: Conduit) -> None:
        self.conduits[conduit.name] = conduit
        self.publish("policy")

    def withdraw(self, name: str) -> None:
        del self.conduits[name]
        self.withdrawn = (*self.withdrawn, Withdrawal(name, self.now()))
        self.changed()

    async def grants_for(self, leaf: Leaf) -> GrantUpdate:
        self._look()
        now, via = self.now(), leaf.identity.name
        put = []
        for conduit in self.conduits.values():
            if conduit.via != via or 0 < conduit.end <= now:
                continue
            refresh_by = now + int(REFRESH * SECOND)
            hold_until = refresh_by + int(HOLD * SECOND)
            if conduit.end:
                refresh_by, hold_until = min(refresh_by, conduit.end), min(hold_until, conduit.end)
            asset = conduit.service.split(".")[0]
            grant = Grant(
                conduit.name.encode().ljust(16, b"-"), conduit.name, leaf.key_id, via, via, conduit.service,
                asset, (ASSETS[asset],), 0, 0, now - SECOND, refresh_by, hold_until, conduit.end, 0, (), (), 1,
                leaf.generation,
            )  # fmt: skip
            put.append(sign_body(grant, self.credentials.key, self.pki.anchor))
        return GrantUpdate(full=True, put=tuple(put))


class Enrolled(NamedTuple):
    """Disks of a plant that is enrolled."""

    actions: MemoryActions
    disks: dict[str, dict[Path, bytes]]


@contextmanager
def quiet() -> Iterator[None]:
    """What programs log is not the trace; and garbage is not collected in the middle of a run."""
    logs.setup("text", stream=io.StringIO())
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@cache
def enrolled() -> Enrolled:
    """Enrol once. Certificates are drawn again until all have one length, so that no seed depends on luck."""
    sim = Simulation(0)
    plant = SimulatedPlant(sim)
    plant.actions = MemoryActions(plant.controller.world, EvenPki())

    for name in ("controller", *ROUTERS, *EDGES):  # long before what happens afterwards
        sim.host(name).world.clock.skew = -3600 * SECOND

    async def story() -> None:
        plant.start_controller()
        for name in ROUTERS:
            plant.start_router(name)
        edges = [plant.edge(name) for name in EDGES]
        await plant.until(lambda: all(edge.connected for edge in edges))
        await asyncio.sleep(3)
        for edge in edges:
            edge.stop.set()
        await asyncio.sleep(5)

    with quiet():
        sim.run(story())
    names = (*ROUTERS, *EDGES)
    return Enrolled(plant.actions, {name: dict(sim.host(name).world.disk.files) for name in names})


class EvenPki(Pki):
    """Certificates for one name all have the same length: an ECDSA signature has one to three bytes more or less."""

    def __init__(self) -> None:
        super().__init__()
        while not (_even(self.root) and _even(self.issuing)):
            super().__init__()

    def chain(self, *args: Any, **options: Any) -> tuple[bytes, bytes]:
        while True:
            leaf, issuing = super().chain(*args, **options)
            if len(load_der_x509_certificate(leaf).signature) == SIGNATURE:
                return leaf, issuing


def _even(der: bytes) -> bool:
    certificate = load_der_x509_certificate(der)
    return len(certificate.signature) == SIGNATURE and certificate.serial_number.bit_length() == 128


class EdgeMachine:
    """One edge and what runs on it; `agent` and `edge` are None while it is down or begins."""

    def __init__(self, plant: "WholePlant", name: str) -> None:
        self.plant = plant
        self.name = name
        self.host = plant.sim.host(name)
        self.agent: NodeAgent | None = None
        self.edge: Edge | None = None

    def start(self) -> None:
        self.agent = self.edge = None
        self.host.start(self._run())

    async def _run(self) -> None:
        """As `edge.program.serve`, without the socket for local commands."""
        agent = None
        while agent is None:
            try:
                agent = await NodeAgent.open(
                    self.host.world, DIR, role=Role.EDGE, version="1", token=TOKEN
                )
            except FerruleError as error:  # its disk is full; systemd starts it again
                self.plant.note(self.name, f"did not start: {error}")
                await asyncio.sleep(1.0)
        record = agent.recorder.record

        def recorded(event: Any, outcome: Any, **fields: Any) -> None:
            self.plant.recorded(self.name, event, outcome, fields)
            record(event, outcome, **fields)

        agent.recorder.record = recorded  # type: ignore[method-assign]
        edge = Edge(self.host.world, agent, lanes=self.plant.lanes)
        agent.use(edge.endpoint, edge)
        self.agent, self.edge = agent, edge
        ticking = spawn(self._tick(edge), "enforcement")
        try:
            await agent.run(asyncio.Event())
        finally:
            await cancel(ticking)
            await edge.close()
            await agent.close()

    async def _tick(self, edge: Edge) -> None:
        while True:
            await asyncio.sleep(1.0)
            if edge.agent.name:
                edge.enforcer.tick()

    def streams(self) -> list[CircuitDriver]:
        """Circuits for programs that have not ended."""
        if self.edge is None:
            return []
        return [one for one in self.edge.endpoint.streams() if one.grant is not None]


class WholePlant:
    """The plant under one seed. `violated` is where whoever sees something wrong says so; only the first counts."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.rng = random.Random(sim.rng.random())
        self.trace: list[str] = []
        self.wrong = ""
        self.kind = ""
        self.broken = sim.loop.create_future()
        self.served: dict[int, Asset] = {}
        self.clients: list[Client] = []
        self._numbers = itertools.count(1)
        self.allowed: list[tuple[str, str]] = []
        """(edge, circuit) that was recorded as opened."""
        self.lanes = self.rng.random() < 0.5
        self.died: set[str] = set()
        self.end = 0.0
        self.calm = False
        """No faults any more, and nobody is slow on purpose."""
        kept = enrolled()
        self.controller = sim.host("controller")
        self.actions = Actions(self.controller.world, kept.actions.pki)
        self.actions.copy_of(kept.actions)
        self.hub: Hub | None = None
        self.routers: dict[str, Router] = {}
        self.edges = {name: EdgeMachine(self, name) for name in EDGES}
        self.invariants = Invariants(self)
        for name, files in kept.disks.items():
            sim.host(name).world.disk.files.update(files)
        for name in EDGES:
            self.actions.assignments[name] = Assignments(
                2,
                b"",
                tuple(
                    ListenerEntry(service, f"0.0.0.0:{port}", name, 0)
                    for service, port in LISTENERS.get(name, ())
                ),
                tuple(
                    HostedEntry(f"{asset}.modbus", asset, asset, ASSET_PORT, ASSET_PORT, 0)
                    for asset, edge in ASSETS.items()
                    if edge == name
                ),
            )
        for number, (via, service) in enumerate(self.uses()):
            self.actions.allow(Conduit(f"c{number}", via, service))

    @staticmethod
    def uses() -> Iterator[tuple[str, str]]:
        """(edge, service) of each listener."""
        for via, services in LISTENERS.items():
            for service, _ in services:
                yield via, service

    # --- telling ------------------------------------------------------------------------------------

    def note(self, where: str, what: str) -> None:
        """A line of the trace."""
        self.trace.append(f"{self.sim.loop.time():10.4f}  {where:12} {what}")

    def violated(self, kind: str, what: str) -> None:
        """An invariant does not hold."""
        if not self.wrong:
            self.kind, self.wrong = kind, what
            self.note("✗ " + kind, what)
            if not self.broken.done():
                self.broken.set_result(None)

    def recorded(self, node: str, event: Any, outcome: Any, fields: dict[str, Any]) -> None:
        """An audit event was made."""
        said = {
            key: fields[key] for key in ("who", "service", "reason", "circuit") if fields.get(key)
        }
        if "circuit" in said:
            said["circuit"] = said["circuit"][:6]
        words = " ".join(f"{key}={value}" for key, value in said.items())
        self.note(node, f"{event.value} {outcome.value} {words}")
        if (event.value, outcome.value) == ("circuit.open", "allowed"):
            self.allowed.append((node, fields["circuit"]))

    # --- machines -----------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start what runs on a machine."""
        self.note(name, "starts")
        host = self.sim.host(name)
        if name == "controller":
            host.start(self._hub())
        elif name in ROUTERS:
            host.start(self._router(host))
        elif name in EDGES:
            self.edges[name].start()
        elif name in ASSETS:
            host.start(self._asset(host))

    async def _hub(self) -> None:
        self.actions.boot += 1
        for row in self.actions.nodes.values():
            row.connected = 0
        self.hub = Hub(self.controller.world, self.actions, version="1")
        await self.hub.run(asyncio.Event())

    async def _router(self, host: Host) -> None:
        settings = {"dir": str(DIR), "listen": f"{host.name}:{PORT}"}
        while True:
            try:
                lanes = 1 if self.lanes else 0
                await router.program.serve(host.world, settings, asyncio.Event(), bulk_lanes=lanes)
                return
            except FerruleError as error:
                self.note(host.name, f"did not start: {error}")
                await asyncio.sleep(1.0)

    async def _asset(self, host: Host) -> None:
        def dialed(connection: Any) -> None:
            connection.start(Asset(self, connection, random.Random(self.rng.random())))

        await host.world.net.listen("", ASSET_PORT, dialed)
        await asyncio.Event().wait()

    def crash(self, name: str) -> None:
        """Power lost."""
        self.died.add(name)
        if name in self.edges:
            self.edges[name].agent = self.edges[name].edge = None
        self.routers.pop(name, None)
        self.sim.host(name).crash()

    def release_switch(self, machine: EdgeMachine) -> None:
        """Somebody pushes the switch of this edge back."""
        edge = machine.edge
        if edge is None or edge.switch.pulled is None:
            return

        async def release() -> None:
            while edge.switch.pulled is not None:
                try:
                    await edge.release("drill over")
                except FerruleError as error:
                    self.note(machine.name, f"the switch: {error}")
                    await asyncio.sleep(1.0)

        machine.host.start(release())

    async def dial(self, via: str, port: int, up: int, down: int) -> Client | None:
        """A program connects and talks. None: nobody listened."""
        number = next(self._numbers)
        people = self.sim.host(PEOPLE)

        async def run() -> Client | None:
            try:
                connection = await people.world.net.connect(via, port)
            except OSError:
                return None
            client = Client(self, connection, random.Random(self.rng.random()))
            connection.start(client)
            client.begin(number, up, down)
            self.clients.append(client)
            self.note(f"client {client.number}", f"dials {via}:{port}, {up} bytes up, {down} down")
            return client

        return await people.task(run())

    def check_delivery(self, stream: CircuitDriver) -> None:
        """Bytes go to a program."""
        host = current_host()
        if host is not None and host.name in self.edges:
            self.invariants.delivery(self.edges[host.name], stream)

    @property
    def connected(self) -> bool:
        """All edges have their controller."""
        return all(one.agent is not None and one.agent.connected for one in self.edges.values())


@contextmanager
def watched(plant: Callable[[], WholePlant]) -> Iterator[None]:
    """Grants are refreshed soon, routers can be found, and each delivery is looked at."""

    class Seen(Router):
        def __init__(self, world: Any, agent: NodeAgent, *rest: Any) -> None:
            super().__init__(world, agent, *rest)
            plant().routers[agent.name] = self

    deliver = CircuitDriver._deliver

    def delivered(self: CircuitDriver, data: Any) -> None:
        if self.grant is not None:
            plant().check_delivery(self)
        deliver(self, data)

    with ExitStack() as stack:
        stack.enter_context(patch.object(CircuitDriver, "_deliver", delivered))
        refresh = int(REFRESH * SECOND / 2)
        stack.enter_context(patch.object(updates, "REFRESH_AFTER", refresh))
        stack.enter_context(patch.object(router.program, "Router", Seen))
        yield
