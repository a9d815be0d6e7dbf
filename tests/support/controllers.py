"""A controller's action layer on a real store in a folder, with a clock that the test moves."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.actions import requests as r
from controller.actions import types as t
from controller.actions.actions import Actions
from controller.founding import found, reopen
from controller.store.store import Store
from overlay.aio.system import System
from overlay.aio.world import Clock, Disk, Entropy, EventLoops, Network
from overlay.audit.event import Event, EventName, Outcome
from overlay.identity.certificate import Leaf, make_csr
from overlay.identity.enrolment import Token, proof, token_key
from overlay.identity.keys import SigningKey
from overlay.identity.trust import Credentials, sign_body
from tests.support.pki import NOW, SECOND

PASSWORD = "correct horse battery staple"
ADMIN = t.Actor(name="ada", role="admin")
EXPORTER = b"e" * 32


class HandClock:
    """Both clocks, moved by hand."""

    def __init__(self, wall: int = NOW) -> None:
        self.micros = wall
        self.seconds = 1000.0

    def boot(self) -> float:
        return self.seconds

    def wall(self) -> int:
        return self.micros

    def cpu(self) -> float:
        return 0.0

    def pass_(self, seconds: float) -> None:
        self.micros += int(seconds * SECOND)
        self.seconds += seconds


class HandWorld:
    """The machine, but for its clock."""

    def __init__(self, clock: HandClock | None = None) -> None:
        self.hand = clock or HandClock()
        self._system = System()

    @property
    def net(self) -> Network:
        return self._system.net

    @property
    def clock(self) -> Clock:
        return self.hand

    @property
    def entropy(self) -> Entropy:
        return self._system.entropy

    @property
    def disk(self) -> Disk:
        return self._system.disk

    @property
    def loops(self) -> EventLoops:
        return self._system.loops


@dataclass
class Node:
    """An enrolled router or edge, as far as the controller can see it."""

    controller: "Controller"
    credentials: Credentials
    numbers: int = 0

    @property
    def leaf(self) -> Leaf:
        assert self.credentials.leaf is not None
        return self.credentials.leaf

    def event(self, event: EventName, outcome: Outcome, **fields: object) -> bytes:
        """The node's next event, signed."""
        self.numbers += 1
        body = Event(
            node=self.leaf.identity.name,
            generation=self.leaf.generation,
            number=int(fields.pop("number", self.numbers)),  # type: ignore[call-overload]
            time=self.controller.actions.now(),
            event=event,
            outcome=outcome,
            **fields,  # type: ignore[arg-type]
        )
        return sign_body(body, self.credentials.key, self.credentials.anchor)

    async def connect(self, boot: int = 1, version: str = "0.1.0") -> None:
        await self.controller.actions.node_connected(self.leaf, version, boot)


@dataclass
class Controller:
    """Actions and what they stand on."""

    world: HandWorld
    directory: Path
    actions: Actions
    store: Store

    def pass_(self, seconds: float) -> None:
        self.world.hand.pass_(seconds)

    async def enrol(self, token_text: str, seed: bytes = b"k" * 32) -> Node:
        """What a newcomer does with its token."""
        token = Token.parse(token_text)
        key = SigningKey.generate(seed)
        csr = make_csr(key)
        given = proof(token_key(token.secret), token.role, EXPORTER, csr)
        chain = await self.actions.redeem_token(token.id, csr, given, EXPORTER, key.public)
        return Node(self, Credentials.enrolled(token.anchor, key, chain))

    async def show(self, kind: str, name: str) -> Any:
        """`ferrule show`; what comes has the fields of its kind."""
        return await self.actions.show_object(ADMIN, kind, name)

    async def names(self, kind: str) -> list[str]:
        """Names in `ferrule ls`."""
        found: list[Any] = list(await self.actions.list_objects(ADMIN, kind))
        return [one.name for one in found]

    async def router(self, name: str = "router-1", address: str = "192.0.2.1:7443") -> Node:
        made = await self.actions.add_router(ADMIN, r.NewRouter(name=name, address=address))
        node = await self.enrol(made.token, name.encode().ljust(32, b"r"))
        await node.connect()
        return node

    async def edge(self, name: str, zone: str | None = None) -> Node:
        made = await self.actions.add_edge(ADMIN, r.NewEdge(name=name, zone=zone))
        node = await self.enrol(made.token, name.encode().ljust(32, b"e"))
        await node.connect()
        return node


@dataclass
class Mill:
    """A small plant: `hmi-a` behind `edge-a` polls `plc-b.modbus` behind `edge-b`."""

    controller: Controller
    router: Node
    edge_a: Node
    edge_b: Node

    @property
    def actions(self) -> Actions:
        return self.controller.actions


_templates: dict[str, Path] = {}
_nodes: list[Credentials] = []


@asynccontextmanager
async def controller(tmp_path: Path, *, store: str = "") -> AsyncIterator[Controller]:
    """A plant that was just made, started. Making keys and hashes takes its time, so one is made and copied."""
    world, directory = HandWorld(), tmp_path / "controller"
    if store:
        await found(world, directory, "mill", "ada", PASSWORD, store=store)
    else:
        if "plant" not in _templates:
            _templates["plant"] = tmp_path / "template"
            await found(world, _templates["plant"], "mill", "ada", PASSWORD)
        shutil.copytree(_templates["plant"], directory)
    async with _running(world, directory) as made:
        yield made


@asynccontextmanager
async def filled(tmp_path: Path) -> AsyncIterator[Mill]:
    """As `controller` and `mill`, from a copy of one that was filled before."""
    if "mill" not in _templates:
        async with controller(tmp_path) as made:
            one = await mill(made)
            _nodes[:] = [node.credentials for node in (one.router, one.edge_a, one.edge_b)]
        _templates["mill"] = tmp_path / "filled"
        (tmp_path / "controller").rename(_templates["mill"])
    shutil.copytree(_templates["mill"], tmp_path / "controller")
    async with _running(HandWorld(), tmp_path / "controller") as made:
        router, edge_a, edge_b = (Node(made, credentials) for credentials in _nodes)
        for node in (router, edge_a, edge_b):
            await node.connect()
        yield Mill(made, router, edge_a, edge_b)


@asynccontextmanager
async def _running(world: HandWorld, directory: Path) -> AsyncIterator[Controller]:
    actions, opened = await reopen(world, directory)
    await actions.start("0.1.0")
    try:
        yield Controller(world, directory, actions, opened)
    finally:
        await opened.close()


async def mill(made: Controller) -> Mill:
    """Fill the plant."""
    actions = made.actions
    router = await made.router()
    edge_a, edge_b = await made.edge("edge-a"), await made.edge("edge-b")
    for name, edge, address in (("hmi-a", "edge-a", None), ("plc-b", "edge-b", "192.168.1.20")):
        await actions.add_asset(ADMIN, r.NewAsset(name=name, edges=(edge,), address=address))
    await actions.add_service(ADMIN, r.NewService(asset="plc-b", protocol="modbus"))
    await actions.add_listener(
        ADMIN,
        r.NewListener(
            edge="edge-a", service="plc-b.modbus", listen="127.0.0.1:15020", as_asset="hmi-a"
        ),
    )
    return Mill(made, router, edge_a, edge_b)
