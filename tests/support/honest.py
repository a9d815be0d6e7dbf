"""What is honest in a hostile plant: machines with a clock that can be moved, real edges in process, a device on a real socket."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from edge.edge import Edge
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.node import NodeAgent
from overlay.aio.recorder import Recorder
from overlay.aio.state import KeptState
from overlay.aio.system import System
from overlay.aio.tasks import spawn
from overlay.aio.world import Connection, World
from overlay.audit.event import EventName, Outcome
from overlay.control.messages import Assignments, HostedEntry
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials
from overlay.wire.bodies import STREAM
from tests.support.pki import NOW, Pki
from tests.support.simulated_disk import SimulatedDisk

FOLDER = Path("/state")
SERVICE = "plc-b.modbus"
STRICT_SERVICE, DATAGRAM_SERVICE, OTHER_SERVICE = "plc-b.strict", "plc-b.udp", "plc-b.web"
SECURITY = frozenset({EventName.SECURITY_TAMPER, EventName.SECURITY_REFUSED})


class Surroundings(Protocol):
    """The plant as an edge needs it."""

    pki: Pki
    asset: "Asset"

    @property
    def routers(self) -> Sequence[Any]: ...

    def machine(self, name: str) -> World: ...

    def map(self) -> bytes: ...

    def authority(self) -> bytes: ...

    def grant(self, **changes: Any) -> bytes: ...


class Clock:
    """The machine's clocks, begun at `NOW`; `ahead` (seconds) moves both on without anybody waiting."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.ahead = 0.0

    def boot(self) -> float:
        return 1000.0 + time.monotonic() - self._began + self.ahead

    def wall(self) -> int:
        return NOW + int((self.boot() - 1000.0) * 1e6)

    def cpu(self) -> float:
        return 0.0


class Machine:
    """`World`: real network and randomness, a disk that lives as long as the test."""

    def __init__(self, clock: Clock) -> None:
        system = System()
        self.net = system.net
        self.loops = system.loops
        self.entropy = system.entropy
        self.clock = clock
        self.disk = SimulatedDisk(random.Random(0))
        self.disk.latency = 0.0


class Notes(Recorder):
    """The node's recorder, which also remembers for the test what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list[tuple[EventName, Outcome, dict[str, Any]]] = []

    def record(self, event: EventName, outcome: Outcome, **fields: str | int) -> None:
        self.notes.append((event, outcome, fields))
        super().record(event, outcome, **fields)


class Connected:
    """One connection to the asset (`Receiver`)."""

    def __init__(self, asset: "Asset", connection: Connection) -> None:
        self._asset = asset
        self._connection = connection
        self._memory = memoryview(bytearray(65_536))
        self._unsent = b""
        self.told = bytearray()
        connection.start(self)

    def buffer(self) -> memoryview:
        return self._memory

    def received(self, count: int) -> None:
        self.told += self._memory[:count]
        if self._asset.echoes:
            self.write(bytes(self._memory[:count]))

    def write(self, data: bytes) -> None:
        self._unsent += data
        self.writable()

    def write_eof(self) -> None:
        self._connection.end()

    def writable(self) -> None:
        self._unsent = self._unsent[self._connection.write([self._unsent]) :]

    def ended(self) -> None:
        self._connection.close()

    def lost(self, error: OSError | None) -> None: ...

    def close(self) -> None:
        self._connection.close()


class Asset:
    """A device behind an edge. It echoes; `told` is what each connection said to it."""

    def __init__(self) -> None:
        self.connections: list[Connected] = []
        self.echoes = True

    @property
    def told(self) -> list[bytearray]:
        return [one.told for one in self.connections]

    async def start(self, world: World) -> None:
        self._listener = await world.net.listen("127.0.0.1", 0, self._accepted)
        self.port = self._listener.local[1]

    def _accepted(self, connection: Connection) -> None:
        self.connections.append(Connected(self, connection))

    async def close(self) -> None:
        self._listener.close()
        for one in self.connections:
            one.close()
        await asyncio.sleep(0)


class HonestEdge:
    """A real edge: agent and program parts, links to the routers of the map, services that are real sockets."""

    def __init__(self, plant: Surroundings, name: str) -> None:
        self.plant = plant
        self.name = name
        self.world = plant.machine(name)
        self.recorder = Notes()

    async def enrol(self, credentials: Credentials) -> None:
        """Put an identity on its disk."""
        await self.world.disk.replace(FOLDER / "pending.pem", credentials.key.to_pem())
        state = await KeptState.open(self.world, FOLDER)
        newcomer = await state.newcomer(self.plant.pki.anchor, ())
        await state.enrol(newcomer, credentials.chain)
        await state.close()

    async def start(self) -> None:
        """Run it until `stop`."""
        self.recorder = Notes()
        agent = self.agent = await NodeAgent.open(self.world, FOLDER, role=Role.EDGE, version="1")
        agent.recorder = self.recorder
        self.edge = Edge(self.world, agent)
        self.endpoint = self.edge.endpoint
        agent.use(self.endpoint, self.edge)
        agent.holdings.offer(self.plant.map())
        agent.holdings.offer(self.plant.authority())
        self._stop = asyncio.Event()
        self._running = spawn(agent.run(self._stop), f"edge {self.name}")
        await until(lambda: len(agent.router_names()) == len(self.plant.routers))
        await until(lambda: all(self.name in router.links for router in self.plant.routers))

    def assignments(self, *services: str) -> Assignments:
        """To host these at the plant's asset."""
        port = self.plant.asset.port
        entries = tuple(
            HostedEntry(
                service, "plc-b", "127.0.0.1", port, port + 5, int(service == DATAGRAM_SERVICE)
            )
            for service in services
        )
        return Assignments(1, b"", (), entries)

    def host(self, *services: str) -> None:
        """Host these at the plant's asset."""
        self.edge.assigned(self.assignments(*services))

    async def stop(self, *, crash: bool = False) -> None:
        """End it. `crash`: without a word to anybody: the links break."""
        self._stop.set()
        if crash:
            self._break_links()
        await self._running
        if crash:
            self._break_links()  # it may have dialled once more before it heard
        await self.edge.close()
        await self.agent.close()
        for link in self.agent.links:
            link.close()
            await link.wait_closed()

    def _break_links(self) -> None:
        for link in self.agent.links:
            link.close()

    async def restart(self) -> None:
        """Crash it and start it again from its disk."""
        services = tuple(self.edge.hosting._entries)
        await self.stop(crash=True)
        await until(lambda: all(self.name not in router.links for router in self.plant.routers))
        await self.start()
        self.host(*services)

    # --- what it has noticed ------------------------------------------------------------------------

    def events(self, *names: EventName) -> list[tuple[EventName, Outcome, dict[str, Any]]]:
        """What its recorder was given."""
        return [note for note in self.recorder.notes if note[0] in names]

    @property
    def security(self) -> list[tuple[str, str]]:
        """(kind, reason) of its security events, in order."""
        return [
            (name.value.split(".")[1], fields["reason"])
            for name, _, fields in self.events(*SECURITY)
        ]

    def noticed(self) -> Counter[str]:
        """How many security events of each kind."""
        return Counter(kind for kind, _ in self.security)

    @property
    def denied(self) -> list[str]:
        """Reasons of attempts that it recorded as denied."""
        return [
            f["reason"]
            for _, outcome, f in self.events(EventName.CIRCUIT_OPEN)
            if outcome is Outcome.DENIED
        ]

    @property
    def carried(self) -> int:
        """Circuits that it has carried to an asset."""
        opened = self.events(EventName.CIRCUIT_OPEN)
        return sum(outcome is Outcome.ALLOWED for _, outcome, _ in opened)

    def circuits(self) -> list[CircuitStream]:
        """Its circuits that have not ended, without `_control`."""
        found = [one for one in self.endpoint.streams() if one.service != "_control"]
        return [one for one in found if isinstance(one, CircuitStream)]

    async def call(self, grant: bytes) -> CircuitStream:
        """As a listener of this edge does, with a grant put in its hand."""
        body = self.endpoint.verified(grant)
        self.edge.book.put([(body, grant)])
        calling = self.edge.calling
        opened = calling.open if body.transport == STREAM else calling.flow
        stream = opened(body.who, body.service)
        assert stream is not None, self.denied
        async with asyncio.timeout(15):
            await stream.ready()
        return stream

    async def dial(
        self, service: str = SERVICE, grant: bytes = b"", **options: Any
    ) -> CircuitStream:
        """As a program of this edge does."""
        async with asyncio.timeout(10):
            return await self.endpoint.dial(
                service, grant or self.plant.grant(service=service), **options
            )


async def until(holds: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it does not come.
    """
    async with asyncio.timeout(seconds):
        while not holds():  # noqa: ASYNC110 - sockets tell nobody
            await asyncio.sleep(0.002)
