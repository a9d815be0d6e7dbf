"""Routers as programs on simulated hosts, a controller that publishes to them, and edges that speak raw frames."""

import asyncio
from pathlib import Path
from typing import Any

from overlay.aio.dialer import dial_link
from overlay.aio.link_driver import LinkDriver
from overlay.aio.recorder import Recorder
from overlay.aio.state import KeptState
from overlay.fabric.authority import Authority, FabricMap, RouterEntry
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials, sign_body
from overlay.policy.grant import Grant
from overlay.wire.bodies import (
    EXPRESS,
    Attach,
    Attachment,
    Open,
    OpenIntent,
    Publish,
    Refusal,
    Resume,
    ResumeIntent,
)
from overlay.wire.codec import decode, encode
from overlay.wire.header import Kind
from router.program import serve
from tests.support.links import Notes
from tests.support.pki import DAY, Pki
from tests.support.simulation import EPOCH, Simulation

FOLDER = Path("/state")
PORT = 8441
STATUS = 9464
MINUTE = 60_000_000
SERVICE = "plc-b.modbus"


class Fabric:
    """A plant's fabric: call `router` and `peer`, then let virtual time pass."""

    def __init__(self, sim: Simulation, monkeypatch) -> None:
        self.sim = sim
        self.pki = Pki(start=EPOCH - DAY)
        self.controller = self.node(Role.CONTROLLER, "controller")
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.version = 0
        self.stops: dict[str, asyncio.Event] = {}
        self._counter = 0
        fabric = self

        def record(recorder: Recorder, event, outcome, **fields) -> None:
            fabric.events.append((event.value, outcome.value, fields))

        monkeypatch.setattr(Recorder, "record", record)

    def now(self) -> int:
        """Plant time, microseconds."""
        return EPOCH + round(self.sim.loop.time() * 1_000_000)

    def node(self, role: Role, name: str, **options: Any) -> Credentials:
        """Credentials that are valid in the simulation's time."""
        options = {"start": EPOCH - DAY, "end": EPOCH + 30 * DAY} | options
        return self.pki.node(role, name, **options)

    async def router(self, name: str, *, restart: bool = False, bulk_lanes: int = 0) -> None:
        """Enrol and start a router."""
        host = self.sim.host(name)

        async def enrol() -> None:
            state = await KeptState.open(host.world, FOLDER)
            newcomer = await state.newcomer(self.pki.anchor, ())
            chain = self.pki.chain(
                newcomer.key.public, Role.ROUTER, name, start=EPOCH - DAY, end=EPOCH + 30 * DAY
            )
            await state.enrol(newcomer, chain)
            await state.close()

        if not restart:
            await host.task(enrol())
        settings = {
            "dir": str(FOLDER),
            "listen": f"0.0.0.0:{PORT}",
            "metrics": f"127.0.0.1:{STATUS}",
        }

        async def program() -> None:
            self.stops[name] = asyncio.Event()
            await serve(host.world, settings, self.stops[name], bulk_lanes=bulk_lanes)

        host.start(program())
        await asyncio.sleep(0.5)

    async def peer(
        self,
        name: str,
        router: str,
        *,
        role: Role = Role.EDGE,
        attached: bool = True,
        **options: Any,
    ) -> "Peer":
        """A node with a link to a router."""
        credentials = options.pop("credentials", None) or self.node(role, name)
        host = self.sim.host(options.pop("host", name))
        notes = Notes()
        link = await host.task(
            dial_link(host.world, router, PORT, credentials, notes, now=self.now, **options)
        )
        peer = Peer(self, name, credentials, link, notes)
        if attached and not link.newcomer and link.lane == EXPRESS:
            peer.attach(router)
        await asyncio.sleep(0.1)
        return peer

    def grant(self, **changes: Any) -> bytes:
        """A signed grant from edge-a to plc-b.modbus on edge-b."""
        caller = self.pki.key(changes.get("via", "edge-a"))
        now = self.now()
        body: dict[str, Any] = {
            "id": b"g" * 16, "conduit": "c1", "caller_key": caller.key_id, "who": "hmi-a", "via": "edge-a",
            "service": SERVICE, "asset": "plc-b", "hosts": ("edge-b",), "transport": 0, "integrity": 0,
            "not_before": now - MINUTE, "refresh_by": now + 10 * MINUTE, "hold_until": now + 60 * MINUTE,
            "end": 0, "max_session": 0, "who_zones": ("office",), "asset_zones": ("cell",), "epoch": 1,
            "generation": 1,
        }  # fmt: skip
        signer = changes.pop("signer", self.controller)
        return sign_body(Grant(**(body | changes)), signer.key, self.pki.anchor, signer.chain)

    def authority(self, **lists: Any) -> bytes:
        """A newer signed authority."""
        self.version += 1
        body = Authority(
            self.version, self.now(), lists.get("kills", ()), lists.get("revoked", ()),
            lists.get("withdrawn", ()),
        )  # fmt: skip
        return sign_body(body, self.controller.key, self.pki.anchor, self.controller.chain)

    def map(self, *draining: str, **dials: tuple[str, ...]) -> bytes:
        """A newer signed map; `r1=("r2",)`: r1 dials r2."""
        self.version += 1
        entries = tuple(
            RouterEntry(name, f"{name}:{PORT}", whom, name in draining)
            for name, whom in sorted(dials.items())
        )
        body = FabricMap(self.version, entries)
        return sign_body(body, self.controller.key, self.pki.anchor, self.controller.chain)

    def recorded(self, event: str, outcome: str | None = None) -> list[dict[str, Any]]:
        """Fields of the events of this name."""
        return [f for e, o, f in self.events if e == event and outcome in {None, o}]


class Peer:
    """A node at the end of one link, played by the test."""

    def __init__(
        self, fabric: Fabric, name: str, credentials: Credentials, link: LinkDriver, notes: Notes
    ) -> None:
        self.fabric = fabric
        self.name = name
        self.credentials = credentials
        self.link = link
        self.notes = notes
        self._counter = 0

    def attachment(self, *routers: str, **changes: Any) -> bytes:
        """This node's signed attachment."""
        self._counter += 1
        body: dict[str, Any] = {
            "node": self.name, "routers": tuple((r, 1000) for r in routers), "boot": 1,
            "counter": self._counter, "until": self.fabric.now() + MINUTE,
        }  # fmt: skip
        return sign_body(
            Attachment(**(body | changes)), self.credentials.key, self.fabric.pki.anchor,
            self.credentials.chain,
        )  # fmt: skip

    def attach(self, *routers: str) -> None:
        self.link.send_control(Attach((self.attachment(*routers),)))

    def publish(self, signed: bytes) -> None:
        self.link.send_control(Publish(signed))

    def open(
        self,
        grant: bytes = b"",
        *,
        service: str = SERVICE,
        path: tuple[str, ...] | None = None,
        **changes: Any,
    ) -> int:
        """Say OPEN; the circuit's number."""
        intent: dict[str, Any] = {
            "circuit": b"c" * 16, "association": b"a" * 16, "number": 0, "service": service,
            "integrity": 0, "transport": 0, "random": b"r" * 32, "grant": grant,
        }  # fmt: skip
        body = Open(
            encode(OpenIntent(**(intent | changes))), b"flight", b"early", (),
            (self.name,) if path is None else path,
        )  # fmt: skip
        number = self.link.next_circuit()
        self.link.send(Kind.OPEN, number, encode(body))
        return number

    def resume(self, grant: bytes, *, host: str = "edge-b", **changes: Any) -> int:
        """Say RESUME; the circuit's number."""
        intent: dict[str, Any] = {
            "circuit": b"c" * 16, "association": b"a" * 16, "number": 0, "host": host,
            "service": SERVICE, "grant": grant,
        }  # fmt: skip
        body = Resume(encode(ResumeIntent(**(intent | changes))), b"sealed", (), (self.name,))
        number = self.link.next_circuit()
        self.link.send(Kind.RESUME, number, encode(body))
        return number

    def got(self, kind: Kind) -> list[tuple[int, bytes]]:
        """(circuit, payload) of the frames of this kind that came."""
        return [(frame[1], frame[3]) for frame in self.notes.frames if frame[0] is kind]

    def opened(self, caller: str = "") -> tuple[int, Open]:
        """The last OPEN that came, of this caller: to a controller routers speak, too, in their own time."""
        opens = [(number, decode(Open, payload)) for number, payload in self.got(Kind.OPEN)]
        return [one for one in opens if not caller or one[1].path[0] == caller][-1]

    def refusals(self, kind: Kind = Kind.REFUSE) -> list[tuple[int, Refusal]]:
        """What REFUSE (or RESET) said, by circuit."""
        return [(number, decode(Refusal, payload)) for number, payload in self.got(kind)]

    def last_code(self, kind: Kind = Kind.REFUSE) -> int:
        return self.refusals(kind)[-1][1].code
