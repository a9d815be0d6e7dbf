"""Endpoints joined by routers that speak real frames over links without sockets: for tests of circuits and of hostile routers."""

import asyncio
import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any

from overlay.aio.endpoint import Endpoint
from overlay.aio.incoming import Incoming
from overlay.aio.tasks import spawn
from overlay.errors import Code, DecodeError
from overlay.identity.certificate import Leaf
from overlay.identity.trust import Credentials, sign_body
from overlay.link.link import DELIVER, HEALTH, Link, Up
from overlay.policy.grant import Grant
from overlay.policy.grant_check import check_grant
from overlay.wire.bodies import Hello, Open, OpenIntent, Refusal, Resume, ResumeIntent
from overlay.wire.codec import Signed, decode, encode
from overlay.wire.header import Flag, Header, Kind
from tests.support.pki import DAY, NOW, Pki
from tests.support.simulation import Simulation

LATENCY = 0.001
LINK_ID = b"i" * 16
MINUTE = 60_000_000
KINDS_OF_STREAM = (Kind.DATA, Kind.DATAGRAM, Kind.CHECKPOINT, Kind.CLOSE)


class WireLink:
    """One end of a link: the link's real state machine, and frames that travel by timer instead of by socket."""

    other: "WireLink"

    def __init__(
        self, owner, peer: Leaf | None, *, dialer: bool, newcomer: bool = False, lane: int = 0
    ) -> None:
        self.owner = owner
        self.peer = peer
        self.dialer = dialer
        self.newcomer = newcomer
        self.over = False
        self.end: Any = (Code.NORMAL, "")
        self.found = False
        self.frozen = False
        self.avoided = False
        self.total_backlog = 0
        self.load = 0
        self.loop = asyncio.get_running_loop()
        self.lane = lane
        self.mode = "header"
        self.bytes_in = self.bytes_out = 0
        self.state = Link(
            dialer=dialer, newcomer=newcomer, link_id=LINK_ID, now=self.loop.time(), lane=lane
        )
        self.latency = LATENCY
        self.rate = 0.0
        self._free_at = 0.0
        self._told = None
        self._queued: dict[int, int] = {}
        self._wire: deque[tuple[Header, bytes]] = deque()

    @property
    def name(self) -> str:
        return "" if self.peer is None else self.peer.identity.name

    @property
    def going_away(self) -> bool:
        return self.state.going_away

    @property
    def sound(self) -> bool:
        return not self.over and self.state.sound and not self.avoided

    @property
    def suspect(self) -> bool:
        return self.state.liveness.suspect

    @property
    def round_trip(self) -> float:
        """What PING would measure."""
        return 2 * self.latency

    @property
    def hello(self) -> Hello:
        assert self.state.hello is not None
        return self.state.hello

    def goodbye(self, code: Code, reason: str) -> None:
        self.loop.call_later(2 * self.latency, self.cut, code)

    def backlog(self, circuit: int) -> int:
        return self._queued.get(circuit, 0)

    def next_circuit(self) -> int:
        return self.state.next_circuit()

    def is_open(self, circuit: int) -> bool:
        return not self.over and self.state.is_open(circuit)

    def stirs(self, told) -> None:
        self._told = told

    def send(self, kind, circuit, payload=b"", *, flags=0, sequence=0, kept=False) -> bool:
        if self.over or not self.state.may_send(kind, circuit, flags):
            return False
        if self._told is not None:
            self._told()
        if not isinstance(payload, bytes | bytearray | memoryview):
            payload = b"".join(payload)
        self.put(Header(kind, flags, len(payload), circuit, sequence), bytes(payload))
        return True

    def send_datagram(
        self, circuit, payload, *, flags=0, sequence=0, kept=False, more=False
    ) -> int:
        sent = self.send(Kind.DATAGRAM, circuit, payload, flags=flags, sequence=sequence, kept=kept)
        return not sent

    def reset(self, circuit, code, reason="", *, discard=False) -> bool:
        return self.send(Kind.RESET, circuit, encode(Refusal(code, reason)))

    def put(self, header: Header, payload: bytes) -> None:
        """Onto the wire, whatever the state says."""
        assert header.length == len(payload)
        self.bytes_out += len(payload)
        when = self.loop.time() + self.latency
        if self.rate and header.kind in KINDS_OF_STREAM:
            size = len(payload)
            self._free_at = max(self._free_at, self.loop.time()) + size / self.rate
            when = self._free_at + self.latency
            self._queued[header.circuit] = self.backlog(header.circuit) + size
            self.total_backlog += size
            self.loop.call_at(self._free_at, self._left, header.circuit, size)
        self._wire.append((header, payload))
        self.loop.call_at(when, self._deliver)  # timers of one moment have no order, the wire has

    def _deliver(self) -> None:
        self.other.arrive(*self._wire.popleft())

    def _left(self, circuit: int, size: int) -> None:
        self._queued[circuit] -= size
        self.total_backlog -= size
        if not self.over:
            self.owner.room(self, circuit)

    def arrive(self, header: Header, payload: bytes) -> None:
        if self.over or self.frozen:
            return
        self.bytes_in += len(payload)
        outcome: Any = self.state.receive(header, memoryview(payload), self.loop.time())
        if outcome is DELIVER:
            self.owner.frame(self, header, memoryview(payload))
        elif isinstance(outcome, Up):
            self.owner.link_up(self)
        elif outcome is HEALTH:
            self.owner.health(self)
        elif outcome is not None:
            self.owner.control(self, outcome.body)
        self.speak()

    def speak(self) -> None:
        frames, self.state.outbox[:] = list(self.state.outbox), []
        for frame in frames:
            self.put(
                Header(frame.kind, frame.flags, len(frame.payload), frame.circuit, frame.sequence),
                _joined(frame.payload),
            )

    def cut(self, code: Code = Code.PATH_LOST) -> None:
        """Both ends are gone."""
        for end in (self, self.other):
            if not end.over:
                end.over = True
                self.loop.call_soon(end.owner.link_down, end, code, "cut")


def _joined(payload: Any) -> bytes:
    return (
        bytes(payload) if isinstance(payload, bytes | bytearray | memoryview) else b"".join(payload)
    )


def connect(
    here,
    there,
    here_leaf: Leaf | None,
    there_leaf: Leaf | None,
    *,
    newcomer: bool = False,
    lane: int = 0,
    bulk_lanes: int = 0,
):
    """A link from `here` (dialer) to `there`, which has so many bulk lanes; the two ends."""
    a = WireLink(here, there_leaf, dialer=True, newcomer=newcomer, lane=lane)
    b = WireLink(there, here_leaf, dialer=False, newcomer=newcomer, lane=lane)
    a.other, b.other = b, a
    for end in (a, b):
        end.state.start(Hello(LINK_ID, lane, 1, "test", bulk_lanes))
        end.speak()
    return a, b


Meddling = Callable[["Router", WireLink, Header, bytes], list[tuple[Header, bytes]] | None]


class Router:
    """Forwards as a router does. `meddle` sees each frame that passes and may return others in its place."""

    def __init__(self, credentials: Any) -> None:
        self.credentials = credentials
        self.name = credentials.leaf.identity.name
        self.links: dict[str, Any] = {}
        self.lanes: dict[tuple[str, int], Any] = {}
        self.bulk_lanes = 0
        self.down: set[str] = set()
        """Hosts whose assets are down, as it has heard (F-11)."""
        self.table: dict[tuple[Any, int], tuple[Any, int]] = {}
        self.lasts: set[tuple[Any, int]] = set()
        """Hops from which the last frame came (L-38)."""
        self.meddle: Any = None
        self.seen: list[tuple[Any, Header, bytes]] = []

    def attach(self, endpoint, leaf: Leaf | None, *, newcomer: bool = False, lane: int = 0) -> Any:
        """The endpoint dials this router, or one of its bulk lanes; the router's end of the link."""
        owner = endpoint.lanes.bulk if lane else endpoint
        _, mine = connect(
            owner, self, leaf, self.credentials.leaf,
            newcomer=newcomer, lane=lane, bulk_lanes=self.bulk_lanes,
        )  # fmt: skip
        if lane and leaf is not None:
            self.lanes[leaf.identity.name, lane] = mine
            return mine
        self.links["" if leaf is None else leaf.identity.name] = mine
        return mine

    def link_up(self, link) -> None: ...

    def control(self, link, body) -> None: ...

    def room(self, link, circuit) -> None: ...

    def health(self, link) -> None: ...

    def link_down(self, link, code, reason) -> None:
        for name, one in list(self.links.items()):
            if one is link:
                del self.links[name]
        for key in [key for key, one in self.lanes.items() if one is link]:
            del self.lanes[key]
        for hop, onward in list(self.table.items()):
            if hop[0] is link and hop in self.table:
                self.table.pop(hop)
                self.table.pop(onward, None)
                onward[0].send(
                    Kind.RESET, onward[1], encode(Refusal(Code.PATH_LOST, "next hop is gone"))
                )

    def frame(self, link, header, payload) -> None:
        self.seen.append((link, header, bytes(payload)))
        frames = [(header, bytes(payload))]
        if self.meddle is not None:
            other = self.meddle(self, link, header, bytes(payload))
            frames = frames if other is None else other
        for one, body in frames:
            self.forward(link, one, body)

    def forward(self, link, header, payload: bytes) -> None:
        hop = (link, header.circuit)
        if header.kind in (Kind.OPEN, Kind.RESUME) and hop not in self.table:
            self.admit(link, header, payload)
            return
        onward = self.table.get(hop)
        if onward is None:
            return
        if header.kind in (Kind.RESET, Kind.REFUSE):
            self.table.pop(hop)
            self.table.pop(onward, None)
        onward[0].send(
            header.kind, onward[1], payload, flags=header.flags, sequence=header.sequence
        )
        if header.flags & Flag.LAST:
            self.lasts.add(hop)
            if onward in self.lasts:
                self.lasts -= {hop, onward}
                self.table.pop(hop)
                self.table.pop(onward, None)

    def admit(self, link, header, payload: bytes) -> None:
        kind: Any = Open if header.kind is Kind.OPEN else Resume
        try:
            body = decode(kind, payload)
            of: Any = OpenIntent if kind is Open else ResumeIntent
            intent = decode(of, body.intent)
        except DecodeError:
            link.send(
                Kind.REFUSE, header.circuit, encode(Refusal(Code.PROTOCOL, "does not decode"))
            )
            return
        hosts = (
            [intent.host] if intent.host else ["controller"] if intent.service == "_control" else []
        )
        if not hosts:
            hosts = sorted(
                decode(Grant, decode(Signed, intent.grant).body).hosts,
                key=lambda name: name in self.down,
            )
        if kind is Resume and body.path[:1] == (intent.host,):  # the host asks (C-64)
            hosts = [decode(Grant, decode(Signed, intent.grant).body).via]
        links = self.links
        if link.lane:
            links = {name: one for (name, lane), one in self.lanes.items() if lane == link.lane}
        onward = next((links[name] for name in hosts if name in links), None)
        if onward is None:
            link.send(
                Kind.REFUSE, header.circuit, encode(Refusal(Code.NO_ROUTE, "nobody hosts it here"))
            )
            return
        number = onward.next_circuit()
        self.table[(link, header.circuit)] = (onward, number)
        self.table[(onward, number)] = (link, header.circuit)
        parts = (
            (body.intent, body.flight, body.early) if kind is Open else (body.intent, body.sealed)
        )
        onward.send(
            header.kind,
            number,
            encode(kind(*parts, (), (*body.path, self.name))),
            sequence=header.sequence,
        )


class NoAuthority:
    """Nothing is void."""

    def __init__(self) -> None:
        self.objection: Any = None
        self.killed: set[bytes] = set()

    def blocks(self, grant, now, *, circuit=b"", host=None):
        if circuit in self.killed:
            return Code.KILLED, f"killed: circuit {circuit.hex()}"
        return self.objection


class Node:
    """An endpoint with credentials, and a service that a test can see through."""

    def __init__(self, plant: "Plant", name: str, credentials: Credentials, boot: int = 1) -> None:
        self.plant = plant
        self.name = name
        self.credentials = credentials
        self.authority = NoAuthority()
        self.revoked: set[str] = set()
        self.security: list[tuple[Code, str]] = []
        self.declined: list = []
        self.incoming: list[Any] = []
        self.hosted: list[Any] = []
        self.tasks: list[Any] = []
        self.serve: Callable[[Incoming], None] = self.accept
        self.host = plant.sim.host(f"{name}-{boot}")
        self.endpoint = Endpoint(
            self.host.world, lambda: self.credentials, plant.pki.signers(plant.controller), plant.now,
            self.check, boot, admit=self.admit,
        )  # fmt: skip
        self.endpoint.on_incoming = self._incoming
        self.endpoint.on_security = lambda code, reason, *_: self.security.append((code, reason))
        self.endpoint.on_declined = self.declined.append

    @property
    def leaf(self) -> Leaf | None:
        return self.credentials.leaf

    def admit(self, leaf: Leaf) -> None:
        from overlay.errors import TrustError

        if leaf.identity.name in self.revoked:
            raise TrustError(f"{leaf.identity.name} is revoked")

    def check(self, grant, **rest):
        return check_grant(
            grant, now=self.plant.now(), fresh=False, authority=self.authority, **rest
        )

    def _incoming(self, incoming: Incoming) -> None:
        self.incoming.append(incoming)
        self.serve(incoming)

    def accept(self, incoming: Incoming) -> None:
        self.tasks.append(spawn(self._accept(incoming), "accept"))

    async def _accept(self, incoming: Incoming) -> None:
        self.hosted.append(await incoming.accept())

    def echo(self, incoming: Incoming) -> None:
        """Send back all that comes, and half-close when the caller does."""

        async def run() -> None:
            stream = await incoming.accept()
            self.hosted.append(stream)
            try:
                while data := await stream.read():
                    await stream.write(data)
            except ConnectionResetError:
                return
            stream.end()

        self.tasks.append(spawn(run(), "echo"))


class Plant:
    """Edge-a calls, edge-b hosts `plc-b.modbus`; a controller signs; routers as many as a test wants."""

    def __init__(self, sim: Simulation, routers: int = 1) -> None:
        self.sim = sim
        self.pki = Pki()
        self.controller = self.pki.controller()
        self.a: Any = Node(self, "edge-a", self.pki.edge("edge-a"))
        self.b: Any = Node(self, "edge-b", self.pki.edge("edge-b"))
        self.routers: list[Any] = [
            Router(self.pki.router(f"router-{n}")) for n in range(1, routers + 1)
        ]
        for router in self.routers:
            for node in (self.a, self.b):
                router.attach(node.endpoint, node.leaf)

    @property
    def router(self) -> Any:
        return self.routers[0]

    def now(self) -> int:
        return NOW + int(self.sim.loop.time() * 1e6)

    def grant(self, **changes) -> bytes:
        """A signed grant for edge-a to dial plc-b.modbus at edge-b; `signer`, `caller` replace who signs and who may call."""
        signer = changes.pop("signer", self.controller)
        caller = changes.pop("caller", self.a.credentials)
        service = changes.get("service", "plc-b.modbus")
        body = {
            "id": hashlib.sha256(repr(sorted(changes.items())).encode()).digest()[:16],
            "conduit": "c-1", "caller_key": caller.key.key_id, "who": "hmi-a", "via": caller.leaf.identity.name,
            "service": service, "asset": service.split(".")[0], "hosts": ("edge-b",), "transport": 0, "integrity": 0,
            "not_before": NOW - MINUTE, "refresh_by": NOW + 10 * MINUTE, "hold_until": NOW + DAY, "end": 0,
            "max_session": 0, "who_zones": (), "asset_zones": (), "epoch": 1,
            "generation": caller.leaf.generation,
        }  # fmt: skip
        return sign_body(Grant(**(body | changes)), signer.key, self.pki.anchor)

    async def up(self) -> None:
        """Until the links are up."""
        await asyncio.sleep(0.01)
