"""A router as it really runs, with worker processes, on real sockets; nodes whose raw frames the test sends and sees."""

import asyncio
import json
import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

from deploy.demo.ports import free_port
from overlay.aio.dialer import dial_link
from overlay.aio.recorder import Recorder
from overlay.aio.state import KeptState
from overlay.aio.system import System
from overlay.aio.tasks import spawn
from overlay.errors import FerruleError
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials
from overlay.wire.bodies import EXPRESS
from router.processes import starter
from router.program import serve
from tests.support.fabrics import Fabric, Peer
from tests.support.honest import until
from tests.support.links import Notes
from tests.support.pki import DAY, Pki


class RealFabric(Fabric):
    """One router in this process with its workers in processes of their own. `beside`: another one of the same plant."""

    def __init__(
        self,
        folder: Path,
        monkeypatch,
        workers: int = 2,
        *,
        name: str = "r1",
        beside: "RealFabric | None" = None,
    ) -> None:
        self.folder = folder
        self.name = name
        self.workers = workers
        self.world = System()
        self.pki = Pki(start=self.now() - DAY) if beside is None else beside.pki
        self.controller = (
            self.node(Role.CONTROLLER, "controller") if beside is None else beside.controller
        )
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.version = 0
        self.port, self.status_port = free_port(), free_port()
        self.peers: list[Peer] = []
        fabric = self

        def record(recorder: Recorder, event, outcome, **fields) -> None:
            fabric.events.append((event.value, outcome.value, fields))

        monkeypatch.setattr(Recorder, "record", record)

    def now(self) -> int:
        return time.time_ns() // 1000

    def node(self, role: Role, name: str, **options: Any) -> Credentials:
        options = {"start": self.now() - DAY, "end": self.now() + 30 * DAY} | options
        return self.pki.node(role, name, **options)

    async def enrol(self) -> None:
        """Put an identity into the folder."""
        state = await KeptState.open(self.world, self.folder)
        newcomer = await state.newcomer(self.pki.anchor, ())
        chain = self.pki.chain(
            newcomer.key.public, Role.ROUTER, self.name,
            start=self.now() - DAY, end=self.now() + 30 * DAY,
        )  # fmt: skip
        await state.enrol(newcomer, chain)
        await state.close()

    async def __aenter__(self) -> Self:
        await self.enrol()
        settings = {
            "dir": str(self.folder),
            "listen": f"127.0.0.1:{self.port}",
            "metrics": f"127.0.0.1:{self.status_port}",
        }
        self.stop = asyncio.Event()
        self.running = spawn(
            serve(
                self.world, settings, self.stop, bulk_lanes=self.workers, starter=starter("text")
            ),
            "router",
        )
        await self.until_status(lambda facts: facts["name"] == self.name)
        await self.ready()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop.set()
        for peer in self.peers:
            peer.link.close()
        with suppress(FerruleError):
            await self.running

    async def ready(self) -> None:
        """Until each worker answers."""
        probe = self.node(Role.EDGE, "probe")
        for lane in range(1, self.workers + 1):
            async with asyncio.timeout(60):
                while True:
                    with suppress(FerruleError, OSError):
                        peer = await self.peer("probe", lane=lane, credentials=probe)
                        break
                    await asyncio.sleep(0.05)
            peer.link.close()
            await peer.link.wait_closed()

    async def peer(self, name: str, router: str = "", **options: Any) -> Peer:
        """A node with a link of its own."""
        role = options.pop("role", Role.EDGE)
        credentials = options.pop("credentials", None) or self.node(role, name)
        notes = Notes()
        link = await dial_link(
            self.world, "127.0.0.1", self.port, credentials, notes, now=self.now, **options
        )
        peer = Peer(self, name, credentials, link, notes)
        self.peers.append(peer)
        if link.lane == EXPRESS and not link.newcomer:
            peer.attach(router or self.name)
        return peer

    async def lane(self, node: Peer, lane: int) -> Peer:
        """Another link of the same node."""
        return await self.peer(node.name, lane=lane, credentials=node.credentials)

    async def get(self, path: str) -> str:
        """What the status server says."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.status_port)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        answer = await reader.read()
        writer.close()
        return answer.partition(b"\r\n\r\n")[2].decode()

    async def status(self) -> dict[str, Any]:
        return json.loads(await self.get("/status"))

    async def until_status(self, holds, seconds: float = 20.0) -> dict[str, Any]:
        """Wait for a state of the router."""
        async with asyncio.timeout(seconds):
            while True:
                with suppress(OSError):
                    facts = await self.status()
                    if holds(facts):
                        return facts
                await asyncio.sleep(0.05)

    async def worker(self, lane: int) -> dict[str, Any]:
        """One worker's facts."""
        return (await self.status())["workers"][lane - 1]

    async def kill_worker(self, lane: int, number: int = signal.SIGKILL) -> int:
        """The pid that got the signal."""
        pid = (await self.worker(lane))["pid"]
        os.kill(pid, number)
        return pid


async def came(peer: Peer, kind, count: int = 1) -> list[tuple[int, bytes]]:
    """Wait for frames of a kind."""
    await until(lambda: len(peer.got(kind)) >= count, 10)
    return peer.got(kind)
