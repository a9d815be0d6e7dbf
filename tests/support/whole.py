"""A whole path in one process, on real sockets: real edge-a, router and edge-b; only the controller's word is made up."""

import asyncio
from typing import Any, Self

from deploy.demo.ports import free_port
from overlay.aio.recorder import Recorder
from overlay.control.messages import Assignments, ListenerEntry
from overlay.policy.grant import Grant
from overlay.wire.codec import Signed, decode
from tests.support.honest import DATAGRAM_SERVICE, SERVICE, until
from tests.support.honest_router import HonestRouter
from tests.support.hostile import HostilePlant
from tests.support.pki import DAY, NOW


class Silent(Recorder):
    """Counts events and forgets them: nobody would ever acknowledge a spool here."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def room(self) -> bool:
        return True

    def record(self, *_: Any, **__: Any) -> None:
        self.count += 1


class EchoServer:
    """The asset: asyncio's own streams, so that nothing of ours is measured with it."""

    def __init__(self) -> None:
        self.open = 0
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self.open -= 1
            writer.close()

    async def close(self) -> None:
        self._server.close()
        await until(lambda: self.open == 0)


class WholePlant(HostilePlant):
    """`async with WholePlant() as plant`: programs at `plant.listen` reach `plant.asset` as hmi-a."""

    def __init__(self) -> None:
        super().__init__(0)
        self.asset: Any = EchoServer()
        self.real = HonestRouter(self, "router-1")
        self.routers = [self.real]  # type: ignore[list-item]
        self.listen = 0

    async def __aenter__(self) -> Self:
        await self.real.start(self.pki.router("router-1"))
        await self.asset.start()
        for name, edge in self.edges.items():
            await edge.enrol(self.keys[name])
            await edge.start()
        self.b.host(SERVICE, DATAGRAM_SERVICE)
        for node in self.nodes:
            node.agent.recorder = Silent()
        await until(lambda: len(self.real.links) == 2)
        await self.offer()
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            node.agent.recorder = node.recorder
        for edge in self.edges.values():
            await edge.stop()
        await self.real.stop()
        await self.asset.close()

    def grant(self, **changes: Any) -> bytes:
        """As everywhere, but for a whole day."""
        return super().grant(**{"refresh_by": NOW + DAY, **changes})

    @property
    def nodes(self) -> list[Any]:
        return [self.real, *self.edges.values()]

    async def offer(self, service: str = SERVICE) -> None:
        """Grants for edge-a, and a listener of its on a port that is free."""
        for each in (service, DATAGRAM_SERVICE):
            signed = self.grant(service=each)
            self.a.edge.granted([(decode(Grant, decode(Signed, signed).body), signed)], [])
        self.listen = free_port()
        entry = ListenerEntry(service, f"127.0.0.1:{self.listen}", "hmi-a", 0)
        self.a.edge.assigned(Assignments(2, b"", (entry,), ()))
        await until(lambda: self.a.edge.listeners.bound)

    def tables(self) -> dict[str, int]:
        """How much each node remembers of circuits."""
        found = {"router circuits": len(self.real.router.table)}
        for edge in self.edges.values():
            node = edge.endpoint
            found[f"{edge.name} circuits"] = len(edge.circuits())
            found[f"{edge.name} hops"] = sum(map(len, node._links.values()))
        return found
