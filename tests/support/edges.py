"""Two whole edges, a router that forwards, an asset and clients in one simulation; only the controller's word
is made up.
"""

import asyncio
from types import SimpleNamespace
from typing import Any

from edge.edge import Edge
from overlay.control.messages import Assignments, HostedEntry, ListenerEntry
from overlay.errors import Code, TrustError
from overlay.identity.certificate import Leaf
from overlay.policy.grant import Grant
from overlay.wire.bodies import LocalKill
from overlay.wire.codec import Signed, decode
from tests.support.circuits import Plant as Circuits
from tests.support.circuits import Router
from tests.support.pki import NOW
from tests.support.simulation import Simulation

ASSET = "plc-b"
PORT = 502
LISTEN = 15_020


class Word:
    """The authority in force, as a test wants it."""

    def __init__(self) -> None:
        self.objection: tuple[Code, str] | None = None
        self.void: set[str] = set()
        self.withdrawals: dict[str, int] = {}
        self.kills: dict[str, int] = {}
        """Services, and until when."""

    def blocks(self, grant, now, *, circuit=b"", host=None, leaves=()):
        if self.objection is not None:
            return self.objection
        for leaf in leaves:
            if self.revoked(leaf):
                return Code.REVOKED, f"{leaf.identity.name} is revoked"
        if now < self.kills.get(grant.service, 0):
            return Code.KILLED, f"killed: service {grant.service}"
        if now >= self.withdrawals.get(grant.conduit, 1 << 62):
            return Code.WITHDRAWN, f"conduit {grant.conduit} was ended"
        return None

    def revoked(self, leaf: Leaf) -> bool:
        return leaf.identity.name in self.void

    def next_withdrawal(self, now: int) -> int | None:
        return min((at for at in self.withdrawals.values() if at > now), default=None)

    def next_restoring(self, now: int) -> int | None:
        return min((at for at in self.kills.values() if at > now), default=None)


class State:
    """What survives a restart."""

    def __init__(self, credentials: Any) -> None:
        self.local_kill: LocalKill | None = None
        self.authority = Word()
        self.leaf = credentials.leaf
        self.fabric = SimpleNamespace(map=None)
        self.token_routers = ("router-1:7440",)
        self.full = False

    async def keep_local_kill(self, kill: LocalKill | None) -> None:
        await asyncio.sleep(0.001)
        if self.full:
            raise OSError(28, "No space left on device")
        self.local_kill = kill


class Attacher:
    """Hears what routers would be told."""

    def __init__(self) -> None:
        self.down: tuple[str, ...] = ()
        self.told: list[tuple[str, ...]] = []

    def announce(self) -> None:
        self.told.append(self.down)


class Agent:
    """`NodeAgent`, as far as an edge asks it."""

    def __init__(self, plant: "Plant", credentials: Any, state: State, boot: int) -> None:
        self.plant = plant
        self.holdings = self
        self.state = state
        self.boot = boot
        self.connected = True
        self.name = credentials.leaf.identity.name
        self.signers = plant.circuits.pki.signers(plant.circuits.controller)
        self.events: list[tuple[str, str, dict]] = []
        self.binds = True
        self.has_room = True
        self.witnessing = SimpleNamespace(status=dict)
        self.attacher = Attacher()
        self.reach = SimpleNamespace(proxy=None)
        self.recorder = SimpleNamespace(waiting=lambda: (len(self.events), 0))
        self.credentials = lambda: credentials
        self.plant_now = self.certificate_now = plant.circuits.now

    def admit(self, leaf: Leaf) -> None:
        if self.state.authority.revoked(leaf):
            raise TrustError(f"{leaf.identity.name} is revoked")

    def refresh_binds(self) -> bool:
        return self.binds

    def fresh(self) -> bool:
        return self.binds

    def room(self) -> bool:
        return self.has_room

    def record(self, event, outcome, **fields) -> None:
        self.events.append((event.value, outcome.value, fields))

    def link_control(self, link, body) -> None: ...

    def link_changed(self, link, up) -> None: ...

    def router_names(self) -> tuple[str, ...]:
        return ("router-1",)

    def routers(self) -> dict[str, int]:
        return {"router-1": 1500, "router-2": 0}

    def link_errors(self) -> dict[str, str]:
        return {}

    def of(self, event: str, outcome: str | None = None) -> list[dict]:
        return [f for name, out, f in self.events if name == event and outcome in (None, out)]


class Client:
    """A program at a listener."""

    def __init__(self) -> None:
        self.got = bytearray()
        self.over: OSError | bool | None = False
        self.ended_at: float | None = None
        self.memory = memoryview(bytearray(65_536))
        self.connection: Any = None

    def buffer(self):
        return self.memory

    def received(self, count: int) -> None:
        self.got += self.memory[:count]

    def ended(self) -> None:
        self.ended_at = asyncio.get_running_loop().time()

    def writable(self) -> None: ...

    def lost(self, error) -> None:
        self.over = error if error is not None else True

    @property
    def gone(self) -> bool:
        return self.over is not False or self.ended_at is not None

    async def expect(self, data: bytes) -> None:
        for _ in range(2000):
            if len(self.got) >= len(data):
                break
            await asyncio.sleep(0.001)
        assert bytes(self.got) == data
        self.got.clear()


class Echo(Client):
    """The asset's side of a connection: sends back, and ends when the client does. It reads no further than it can send."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting = bytearray()

    def received(self, count: int) -> None:
        super().received(count)
        self._waiting += self.memory[:count]
        self.connection.pause()
        self.writable()

    def writable(self) -> None:
        del self._waiting[: self.connection.write((bytes(self._waiting),))]
        if not self._waiting:
            self.connection.resume()

    def ended(self) -> None:
        self.connection.end()


class Plant:
    """edge-a with a listener for hmi-a, edge-b before plc-b."""

    def __init__(self, sim: Simulation, bulk_lanes: int = 0) -> None:
        self.sim = sim
        self.circuits = Circuits(sim, routers=0)
        self.router = Router(self.circuits.pki.router("router-1"))
        self.router.bulk_lanes = bulk_lanes
        self.people = {"edge-a": self.circuits.a.credentials, "edge-b": self.circuits.b.credentials}
        self.states = {name: State(one) for name, one in self.people.items()}
        self.boots = dict.fromkeys(self.people, 0)
        self.asset = sim.host(ASSET)
        self.hmi = sim.host("hmi")
        self.assets: list[Echo] = []
        self.edges: dict[str, Any] = {}

    @property
    def a(self) -> Any:
        return self.edges["edge-a"]

    @property
    def b(self) -> Any:
        return self.edges["edge-b"]

    async def up(self) -> "Plant":
        for name in self.people:
            await self.start(name)
        await self.asset.world.net.listen("", PORT, self._dialed)
        return self

    async def start(self, name: str) -> Any:
        self.boots[name] += 1
        agent: Any = Agent(self, self.people[name], self.states[name], self.boots[name])
        edge = self.edges[name] = Edge(self.sim.host(name).world, agent)
        self.attach(name)
        entries = (ListenerEntry("plc-b.modbus", f"127.0.0.1:{LISTEN}", "hmi-a", 0),)
        hosted = (HostedEntry("plc-b.modbus", ASSET, ASSET, PORT, PORT + 8, 0),)
        edge.assigned(
            Assignments(
                1, b"", entries if name == "edge-a" else (), hosted if name == "edge-b" else ()
            )
        )
        await asyncio.sleep(0.01)
        return edge

    def attach(self, name: str) -> None:
        """The edge's links to the router that are not there."""
        endpoint, leaf = self.edges[name].endpoint, self.people[name].leaf
        if name not in self.router.links:
            self.router.attach(endpoint, leaf)
        for lane in range(1, self.router.bulk_lanes + 1):
            if (name, lane) not in self.router.lanes:
                self.router.attach(endpoint, leaf, lane=lane)

    async def stop(self, name: str) -> None:
        self.router.links[name].cut()
        await self.edges.pop(name).close()

    async def down(self) -> None:
        for name in list(self.edges):
            await self.edges.pop(name).close()
        await asyncio.sleep(0.1)

    def _dialed(self, connection) -> None:
        echo = Echo()
        echo.connection = connection
        self.assets.append(echo)
        connection.start(echo)

    def allow(self, **changes) -> Grant:
        """Grant and give it to edge-a."""
        signed = self.circuits.grant(**changes)
        grant = decode(Grant, decode(Signed, signed).body)
        self.a.granted([(grant, signed)], [])
        return grant

    async def dial(self, port: int = LISTEN) -> Client:
        client = Client()
        client.connection = await self.hmi.world.net.connect("edge-a", port)
        client.connection.start(client)
        return client

    async def poll(self, data: bytes = b"read holding registers") -> Client:
        client = await self.dial()
        client.connection.write((data,))
        await client.expect(data)
        return client


def story(test, *, seed: int = 1, bulk_lanes: int = 0):
    """Run a coroutine function in a plant."""
    sim = Simulation(seed=seed)

    async def run():
        plant = await Plant(sim, bulk_lanes).up()
        try:
            await test(plant)
        finally:
            await plant.down()

    sim.run(run())


__all__ = ["NOW", "Client", "Plant", "story"]
