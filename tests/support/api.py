"""An API server on loopback with stand-in actions, for tests of what happens before and around the actions."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

from controller import pki
from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.actions import Actions
from controller.actions.changes import Changes, Subscription
from controller.actions.errors import Conflict, NotAuthenticated, NotFound, TooMany
from controller.api.routes import ROUTES
from controller.api.server import ApiServer
from controller.api.service import Service
from overlay.aio.system import System

TOKEN = "a-token-that-holds"


def record(seq: int) -> t.AuditRecord:
    return t.AuditRecord(
        seq=seq, time="2026-01-31T17:00:00.000000Z", event="object.add", outcome="done", who="ada",
        via="", asset="", service="", address="", conduit="", reason=f"record {seq}",
        node="controller-1", count=1, hash="00" * 32,
    )  # fmt: skip


def session(name: str, *, ended: str | None = None, path: tuple[str, ...] = ("r1",)) -> t.Session:
    return t.Session(
        id=name, who="hmi-a", via="edge-a", asset="plc-b", service="plc-b.modbus", address="",
        path=path, conduit="c1", started="2026-01-31T17:00:00.000000Z", ended=ended,
        end_reason=ended and "done", bytes_in=0, bytes_out=0, key_exchange="X25519MLKEM768",
        integrity="normal",
    )  # fmt: skip


class FakeActions:
    """Only as much behaviour as the tests of the API need; every call is counted."""

    def __init__(self) -> None:
        self.people = {TOKEN: t.Actor(name="ada", role="admin")}
        self.calls: list[str] = []
        self.changes = Changes()
        self.records = [record(1), record(2)]
        self.live: list[t.Session] = []
        self.past: list[t.Session] = []
        self.connected = False
        self.stuck = asyncio.Event()
        self.logins = 0

    def subscribe(self) -> Subscription:
        return self.changes.subscribe()

    async def session(self, token: str) -> t.Actor:
        if token not in self.people:
            raise NotAuthenticated("there is no such login")
        return self.people[token]

    async def login(self, request: r.Login, source: str) -> t.LoggedIn:
        self.logins += 1
        self.calls.append(f"login from {source}")
        if request.user == "locked":
            raise TooMany("too many wrong passwords for locked: try again in 60 s")
        if request.password != "right":
            raise NotAuthenticated("wrong name or password")
        return t.LoggedIn(
            token=TOKEN, user=request.user, role="admin", plant="mill",
            expires="2026-02-01T17:00:00.000000Z", root="PEM",
        )  # fmt: skip

    async def logout(self, actor: t.Actor, token: str) -> None:
        del self.people[token]

    async def list_objects(self, actor: t.Actor, kind: str) -> list[t.Result]:
        self.calls.append(f"ls {kind}")
        return []

    async def add_zone(self, actor: t.Actor, new: r.NewZone) -> t.Zone:
        self.calls.append(f"add {new.name}")
        if new.name == "taken":
            raise Conflict("taken is in use")
        if new.name == "broken":
            raise RuntimeError("a defect with details that are nobody's business")
        if new.name == "slow":
            await self.stuck.wait()
        return t.Zone(name=new.name, level=new.level, sl=new.sl, parent=new.parent)

    async def show_object(self, actor: t.Actor, kind: str, name: str) -> t.Result:
        raise NotFound(f"there is no {kind} {name}")

    async def status(self, actor: t.Actor) -> t.Status:
        self.calls.append("status")
        state: t.NodeState = "connected" if self.connected else "waiting"
        node = t.NodeStatus(name="edge-a", state=state, since=None, version=None)
        gone = t.NodeStatus(name="edge-b", state="revoked", since=None, version=None)
        return t.Status(plant="mill", controllers=(), routers=(), edges=(node, gone))

    async def sessions(self, actor: t.Actor, *, history: bool = False) -> list[t.Session]:
        return [*self.past, *self.live] if history else list(self.live)

    async def audit_tail(
        self, actor: t.Actor, *, after: int | None = None, limit: int = 50
    ) -> list[t.AuditRecord]:
        if after is None:
            return self.records[-limit:]
        return [one for one in self.records if one.seq > after][:limit]

    async def audit_export(self, actor: t.Actor) -> AsyncIterator[bytes]:
        yield b'{"seq":1}\n'
        if self.calls == ["fail"]:
            raise Conflict("the disk is gone")
        yield b'{"head":{}}\n'


async def eventually(check: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until `check` holds."""
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


class Api(NamedTuple):
    """A running server."""

    port: int
    tls: ssl.SSLContext
    """What a client trusts."""
    ca: Path
    actions: FakeActions
    service: Service
    server: ApiServer

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}/api/v1"

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls)

    async def raw(self, data: bytes) -> bytes:
        """Everything that the server says to these bytes until it closes."""
        reader, writer = await self.connect()
        try:
            writer.write(data)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()


async def contexts(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext, Path]:
    """Server's and client's TLS, and the file with the certificate to trust."""
    world = System()
    now = world.clock.wall()
    made = await pki.create(world, directory, "mill", "controller-1", now)
    chain, key = await pki.api_certificate(world, made, directory, ["127.0.0.1", "localhost"], now)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.minimum_version = ssl.TLSVersion.TLSv1_3
    server.load_cert_chain(chain, key)
    ca = directory / pki.API_CA
    return server, ssl.create_default_context(cafile=str(ca)), ca


@asynccontextmanager
async def running(directory: Path, actions: Any = None) -> AsyncIterator[Api]:
    directory.mkdir(exist_ok=True)
    server_tls, client_tls, ca = await contexts(directory)
    fake = actions or FakeActions()
    service = Service(cast(Actions, fake), ROUTES)
    server = ApiServer(service, server_tls)
    await server.start("127.0.0.1", 0)
    try:
        yield Api(server.address[1], client_tls, ca, fake, service, server)
    finally:
        await server.close()
