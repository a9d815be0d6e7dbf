"""The real router in process, on real sockets, between real edges and a hostile one that the test plays."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any, Self

from overlay.aio.dialer import dial_link
from overlay.aio.endpoint import Endpoint
from overlay.aio.link_driver import LinkDriver
from overlay.aio.link_listener import LinkListener
from overlay.aio.node import NodeAgent
from overlay.aio.state import KeptState
from overlay.aio.tasks import cancel, spawn
from overlay.audit.event import EventName, Outcome
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials
from overlay.link.turns import Frame
from overlay.wire.bodies import Attach, Attachment, Open, OpenIntent, Refusal
from overlay.wire.codec import decode, encode
from overlay.wire.header import Kind
from router.program import _no_grants
from router.router import Router
from tests.support.honest import FOLDER, SECURITY, SERVICE, Notes, until
from tests.support.hostile import MINUTE, HostilePlant
from tests.support.links import Notes as LinkNotes


class HonestRouter:
    """What `router.program.serve` composes, with a recorder that the test reads."""

    def __init__(self, plant: HostilePlant, name: str, bulk_lanes: int = 0) -> None:
        self.plant = plant
        self.name = name
        self.bulk_lanes = bulk_lanes
        self.world = plant.machine(name)
        self.recorder = Notes()

    async def start(self, credentials: Credentials) -> None:
        """Enrol it, and run it until `stop`."""
        world = self.world
        await world.disk.replace(FOLDER / "pending.pem", credentials.key.to_pem())
        state = await KeptState.open(world, FOLDER)
        await state.enrol(await state.newcomer(self.plant.pki.anchor, ()), credentials.chain)
        await state.close()
        agent = self.agent = await NodeAgent.open(world, FOLDER, role=Role.ROUTER, version="1")
        agent.recorder = self.recorder
        self.endpoint = Endpoint(
            world, agent.credentials, agent.signers, agent.plant_now, _no_grants, agent.boot,
            certificate_now=agent.certificate_now, admit=agent.holdings.admit, on_link=agent.link_changed,
        )  # fmt: skip
        self.router = Router(world, agent, self.endpoint, "1")
        self.listener = LinkListener(
            world, agent.credentials, self.router, agent.certificate_now,
            refuse=self.router.refuse_link, failed=self.router.handshake_failed,
            lanes=range(self.bulk_lanes + 1), bulk_lanes=self.bulk_lanes,
        )  # fmt: skip
        agent.use(self.endpoint, self.router)
        await self.listener.listen("127.0.0.1", 0)
        self._stop = asyncio.Event()
        self._housekeeping = spawn(self.router.run(), "router housekeeping")
        self._running = spawn(agent.run(self._stop), "router")
        await until(lambda: agent.holdings.hooks is not None)
        agent.holdings.offer(self.plant.authority())

    @property
    def address(self) -> str:
        host, port = self.listener.local
        return f"{host}:{port}"

    @property
    def links(self) -> Mapping[str, LinkDriver]:
        return self.router.links.express

    async def stop(self) -> None:
        self._stop.set()
        await self._running
        await cancel(self._housekeeping)
        self.listener.close()
        await self.router.leave()
        self.endpoint.close()
        await self.agent.close()
        for link in list(self.listener.links):
            link.close()
            await link.wait_closed()

    @property
    def security(self) -> list[tuple[str, dict[str, Any]]]:
        """(kind, fields) of its security events."""
        return [(n.value.split(".")[1], f) for n, _, f in self.recorder.notes if n in SECURITY]

    def noticed(self) -> Counter[str]:
        """How many security events of each kind."""
        return Counter(kind for kind, _ in self.security)

    @property
    def denied(self) -> list[dict[str, Any]]:
        """Attempts that it recorded as denied."""
        return [
            fields
            for name, outcome, fields in self.recorder.notes
            if name is EventName.CIRCUIT_OPEN and outcome is Outcome.DENIED
        ]


class HostileEdge:
    """An edge with a real certificate and a real link, that sends what the test says."""

    def __init__(self, plant: HostilePlant, credentials: Credentials) -> None:
        assert credentials.leaf is not None
        self.plant = plant
        self.name = credentials.leaf.identity.name
        self.credentials = credentials
        self.notes = LinkNotes()
        self._counter = 0

    async def dial(self, router: HonestRouter) -> Self:
        """Link up, attached."""
        self.link = await dial_link(
            router.world, *router.listener.local, self.credentials, self.notes, now=self.plant.now
        )
        self.link.send_control(Attach((self.attachment(router.name),)))
        await until(lambda: self.name in router.links)
        return self

    def attachment(self, *routers: str, **changes: Any) -> bytes:
        """Signed by this edge."""
        self._counter += 1
        body: dict[str, Any] = {
            "node": self.name, "routers": tuple((router, 1) for router in routers), "boot": 1,
            "counter": self._counter, "until": self.plant.now() + MINUTE,
        }  # fmt: skip
        return self.plant.sign(Attachment(**(body | changes)), self.credentials)

    def put(self, kind: Kind, number: int, payload: bytes = b"", flags: int = 0) -> None:
        """Onto the wire, whatever the link's own state says."""
        self.link._sender.push(Frame(kind, flags, len(payload), number, 0, payload))

    def opening(self, grant: bytes, path: tuple[str, ...] | None = None, **changes: Any) -> bytes:
        """An OPEN."""
        intent: dict[str, Any] = {
            "circuit": self.plant.b.world.entropy.bytes(16), "association": b"a" * 16, "number": 0,
            "service": SERVICE, "integrity": 0, "transport": 0, "random": b"r" * 32, "grant": grant,
        }  # fmt: skip
        body = OpenIntent(**(intent | changes))
        return encode(
            Open(encode(body), b"flight", b"", (), (self.name,) if path is None else path)
        )

    def open(self, grant: bytes, path: tuple[str, ...] | None = None, **changes: Any) -> int:
        """Say OPEN; the hop's number."""
        number = self.link.next_circuit()
        self.link.send(Kind.OPEN, number, self.opening(grant, path, **changes))
        return number

    def got(self, kind: Kind) -> list[tuple[int, bytes]]:
        """(circuit, payload) of frames that came."""
        return [(number, data) for one, number, _, data in self.notes.frames if one is kind]

    async def refusal(self, number: int) -> Refusal:
        """What an OPEN got."""
        await until(lambda: any(one == number for one, _ in self.got(Kind.REFUSE)))
        return next(decode(Refusal, data) for one, data in self.got(Kind.REFUSE) if one == number)

    async def close(self) -> None:
        self.link.close()
        await self.link.wait_closed()


class HonestRouterPlant(HostilePlant):
    """The real router; edge-b and edge-c are real, edge-a is in the test's hands (`hostile`)."""

    def __init__(self) -> None:
        super().__init__(0, ("edge-b", "edge-c"))
        self.real = HonestRouter(self, "router-1")
        self.routers = [self.real]  # type: ignore[list-item]
        self.keys["edge-a"] = self.pki.edge("edge-a")
        self.hostile = HostileEdge(self, self.keys["edge-a"])

    async def __aenter__(self) -> Self:
        await self.real.start(self.pki.router("router-1"))
        await self.asset.start(self.b.world)
        for name, edge in self.edges.items():
            await edge.enrol(self.keys[name])
            await edge.start()
        self.b.host(SERVICE)
        await self.hostile.dial(self.real)
        await until(lambda: len(self.real.links) == 3)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.hostile.close()
        for edge in self.edges.values():
            await edge.stop()
        await self.real.stop()
        await self.asset.close()
