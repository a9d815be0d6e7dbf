"""A plant on loopback whose routers are played by the test: real TLS links, real edges, and in between whoever lies.

The edges are the program's own parts (`edge.edge.Edge` with its agent), the assets and applications are real sockets.
Disks are in memory, and the clock can be moved ahead, so that a restart or an hour costs nothing.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Self

from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.link_driver import LinkDriver
from overlay.aio.link_listener import LinkListener
from overlay.aio.system import System
from overlay.aio.world import World
from overlay.circuit.caller import RANDOM_SIZE, CallerOpening, Wish
from overlay.circuit.circuit import Circuit
from overlay.errors import Code, DecodeError
from overlay.fabric.authority import Authority, FabricMap, RouterEntry
from overlay.identity.trust import Credentials, sign_body
from overlay.link.turns import Frame
from overlay.policy.grant import Grant
from overlay.wire.bodies import (
    LinkControl,
    Open,
    OpenIntent,
    Publish,
    Refusal,
    Resume,
    ResumeIntent,
)
from overlay.wire.codec import decode, encode
from overlay.wire.header import Header, Kind
from tests.support import circuits
from tests.support.honest import (
    DATAGRAM_SERVICE,
    OTHER_SERVICE,
    SERVICE,
    STRICT_SERVICE,
    Asset,
    Clock,
    HonestEdge,
    Machine,
    until,
)
from tests.support.pki import DAY, NOW, Pki

MINUTE = 60_000_000


class HostileRouter(circuits.Router):
    """Holds real links as a router does, and does with frames what the test says (`meddle`, `put`).

    `seen` holds what came, without the edges' own attempts to reach a controller, which are refused while there is none.
    """

    def __init__(self, world: World, credentials: Credentials, now: Callable[[], int]) -> None:
        super().__init__(credentials)
        self.meddle_control: Callable[..., Any] | None = None
        """As `meddle`, for control circuits."""
        self.floods = False
        """Passes authorities and maps on to all, as it should."""
        self.controls: list[tuple[LinkDriver, LinkControl]] = []
        self.plant_now = now
        self.listener = LinkListener(world, lambda: credentials, self, now)
        self._quiet: set[tuple[LinkDriver, int]] = set()

    @property
    def address(self) -> str:
        host, port = self.listener.local
        return f"{host}:{port}"

    def link_up(self, link: LinkDriver) -> None:
        self.links[link.name] = link

    def control(self, link: LinkDriver, body: LinkControl) -> None:
        self.controls.append((link, body))
        if self.floods and isinstance(body, Publish):
            for other in self.links.values():
                if other is not link:
                    other.send_control(body)

    def frame(self, link: LinkDriver, header: Header, payload: memoryview) -> None:
        hop = (link, header.circuit)
        if header.kind is Kind.OPEN and intent_of(payload).service == "_control":
            self._quiet.add(hop)
        if hop in self._quiet or self.table.get(hop) in self._quiet:
            frames = None
            if self.meddle_control is not None:
                frames = self.meddle_control(self, link, header, bytes(payload))
            for one, data in [(header, bytes(payload))] if frames is None else frames:
                self.forward(link, one, data)
        else:
            super().frame(link, header, payload)

    def put(self, link: LinkDriver, header: Header, payload: bytes) -> None:
        """Onto the wire, whatever the link's own state says."""
        parts = (header.kind, header.flags, len(payload), header.circuit, header.sequence)
        link._sender.push(Frame(*parts, payload))

    def open(
        self, link: LinkDriver, payload: bytes, kind: Kind = Kind.OPEN, sequence: int = 0
    ) -> int:
        """Say OPEN or RESUME with this payload; the hop's number."""
        number = link.next_circuit()
        link.send(kind, number, payload, sequence=sequence)
        return number

    def hop(self, name: str) -> tuple[LinkDriver, int]:
        """The newest hop of a circuit that passes here, on the link of this node."""
        return [hop for hop in self.hops() if hop[0].name == name][-1]

    def hops(self) -> list[tuple[LinkDriver, int]]:
        """All hops of circuits that pass here."""
        return [hop for hop in self.table if hop not in self._quiet]

    def passed(self, kind: Kind, source: str) -> list[tuple[Header, bytes]]:
        """Frames of a kind that came from this node."""
        return [(h, p) for link, h, p in self.seen if h.kind is kind and link.name == source]

    def refusals(self, source: str) -> list[Refusal]:
        """What a node refused in clear."""
        return [decode(Refusal, p) for _, p in self.passed(Kind.REFUSE, source)]

    async def close(self) -> None:
        self.listener.close()
        for link in list(self.listener.links):
            link.close()
            await link.wait_closed()


class HostilePlant:
    """`async with HostilePlant() as plant`: edge-a calls, edge-b hosts, `routers` hostile ones between them."""

    def __init__(
        self,
        routers: int = 1,
        edges: tuple[str, ...] = ("edge-a", "edge-b"),
        machine: Callable[[str], World] | None = None,
    ) -> None:
        self.clock = Clock()
        self.machine = machine or (lambda _: Machine(self.clock))
        self.pki = Pki()
        self.controller = self.pki.controller()
        self.version = 1
        self.asset = Asset()
        self.edges = {name: HonestEdge(self, name) for name in edges}
        self.keys = {name: self.pki.edge(name) for name in edges}
        names = [f"router-{number}" for number in range(1, routers + 1)]
        self.routers = [
            HostileRouter(self.machine(name), self.pki.router(name), self.now) for name in names
        ]

    async def __aenter__(self) -> Self:
        await self.asset.start(self.b.world)
        for router in self.routers:
            await router.listener.listen("127.0.0.1", 0)
        for name, edge in self.edges.items():
            await edge.enrol(self.keys[name])
            await edge.start()
            if name != "edge-a":
                edge.host(SERVICE, STRICT_SERVICE, DATAGRAM_SERVICE, OTHER_SERVICE)
        return self

    async def __aexit__(self, *_: object) -> None:
        for edge in self.edges.values():
            await edge.stop()
        for router in self.routers:
            await router.close()
        await self.asset.close()

    @property
    def a(self) -> HonestEdge:
        return self.edges["edge-a"]

    @property
    def b(self) -> HonestEdge:
        return self.edges["edge-b"]

    @property
    def router(self) -> HostileRouter:
        return self.routers[0]

    def now(self) -> int:
        """Plant time."""
        return self.b.world.clock.wall()

    # --- what the controller signs ------------------------------------------------------------------

    def sign(self, body: Any, by: Credentials | None = None) -> bytes:
        """Signed by the controller, its chain beside it."""
        signer = self.controller if by is None else by
        return sign_body(body, signer.key, self.pki.anchor, signer.chain)

    def map(self, version: int = 1) -> bytes:
        """The signed map with all routers."""
        return self.sign(
            FabricMap(version, tuple(RouterEntry(r.name, r.address) for r in self.routers))
        )

    def authority(self, version: int | None = None, **lists: Any) -> bytes:
        """A signed authority."""
        number = self.version if version is None else version
        found = (lists.get("kills", ()), lists.get("revoked", ()), lists.get("withdrawn", ()))
        return self.sign(Authority(number, self.now(), *found))

    def grant(self, **changes: Any) -> bytes:
        """A signed grant for edge-a to dial plc-b.modbus at edge-b; `signer` and `caller` replace who signs and who may call."""
        signer = changes.pop("signer", self.controller)
        caller = changes.pop("caller", self.keys["edge-a"])
        service = changes.get("service", SERVICE)
        body = {
            "id": service.encode().ljust(16, b"-")[:16], "conduit": "c1", "caller_key": caller.key.key_id,
            "who": "hmi-a", "via": caller.leaf.identity.name, "service": service, "asset": "plc-b",
            "hosts": ("edge-b",), "transport": int(service == DATAGRAM_SERVICE),
            "integrity": int(service == STRICT_SERVICE), "not_before": NOW - MINUTE,
            "refresh_by": NOW + 10 * MINUTE, "hold_until": NOW + DAY, "end": 0, "max_session": 0,
            "who_zones": (), "asset_zones": (), "epoch": 1, "generation": caller.leaf.generation,
        }  # fmt: skip
        return sign_body(Grant(**(body | changes)), signer.key, self.pki.anchor)


def intent_of(payload: bytes | memoryview) -> OpenIntent:
    """The intent in an OPEN; an empty one where there is none."""
    try:
        return decode(OpenIntent, decode(Open, payload).intent)
    except DecodeError:
        return OpenIntent(bytes(16), bytes(16), 0, "?", 0, 0, bytes(32), b"")


def changed(body: Any, **changes: Any) -> Any:
    """The same body with other values in some fields."""
    return type(body)(*(changes.get(name, getattr(body, name)) for name in body.__struct_fields__))


def reworded(payload: bytes, **changes: Any) -> bytes:
    """An OPEN (or RESUME) whose intent says something else."""
    kinds: tuple[tuple[Any, Any], ...] = ((Open, OpenIntent), (Resume, ResumeIntent))
    for kind, inner in kinds:
        with contextlib.suppress(DecodeError):
            body = decode(kind, payload)
            intent = decode(inner, body.intent)
            return encode(changed(body, intent=encode(changed(intent, **changes))))
    raise AssertionError("neither an OPEN nor a RESUME")


class Impostor:
    """Opens a circuit to `target` over a hostile router's own link, with credentials of the test's choice."""

    def __init__(self, router: HostileRouter, target: str, credentials: Credentials) -> None:
        self.router = router
        self.link = router.links[target]
        self.credentials = credentials
        self.circuit: Circuit | None = None
        self.number = 0

    async def open(
        self,
        grant: bytes,
        service: str = SERVICE,
        *,
        enrol: bool = False,
        path: tuple[str, ...] = ("edge-a",),
    ) -> Kind:
        """What the host said at last: READY, or a REFUSE of either kind."""
        wish = Wish(service, grant, ("edge-b", "edge-c"), 0, 0, 0, enrol)
        random = System().entropy.bytes(RANDOM_SIZE)
        now = self.router.plant_now()
        opening = CallerOpening(wish, self.credentials, random, plant_now=now, admit=lambda _: None)
        self.number = self.router.open(self.link, opening.payload((), path))
        header, payload = await self.answer()
        if header.kind is Kind.ACCEPT:
            self.circuit, _, _ = opening.accept(payload, 0.0)
            self.say()
            header, payload = await self.answer(2)
        return header.kind

    def say(self) -> None:
        """Send what the circuit has to send."""
        assert self.circuit is not None
        for kind, flags, sequence, payload in self.circuit.take():
            data = bytes(payload)
            self.router.put(self.link, Header(kind, flags, len(data), self.number, sequence), data)

    def answers(self) -> list[tuple[Header, bytes]]:
        """All that came back on the hop."""
        return [
            (h, p)
            for one, h, p in self.router.seen
            if one is self.link and h.circuit == self.number
        ]

    async def answer(self, number: int = 1) -> tuple[Header, bytes]:
        """The answer of this number."""
        await until(lambda: len(self.answers()) >= number)
        return self.answers()[number - 1]


def refusal(code: Code, reason: str = "because I say so") -> bytes:
    """The payload of a REFUSE or RESET in clear."""
    return encode(Refusal(code, reason))


async def echoed(stream: CircuitStream, data: bytes) -> bool:
    """Whether the asset answers over this circuit."""
    async with asyncio.timeout(30):
        await stream.write(data)
        got = b""
        while len(got) < len(data):
            part = await stream.read()
            if not part:
                return False
            got += part
    return got == data
