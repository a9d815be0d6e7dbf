"""Links between nodes of one test plant: an owner that notes what it is told, over any world."""

import asyncio
from collections.abc import Callable
from typing import Any

from overlay.aio.dialer import dial_link
from overlay.aio.link_driver import LinkDriver
from overlay.aio.link_listener import LinkListener
from overlay.aio.world import World
from overlay.errors import Code
from overlay.identity.trust import Credentials
from overlay.wire.bodies import LinkControl
from overlay.wire.header import Header, Kind
from tests.support.pki import NOW, Pki

PKI = Pki()
ROUTER = PKI.router("router-1")
EDGE = PKI.edge("edge-a")


def now() -> int:
    return NOW


class Notes:
    """A `LinkOwner` that remembers. `on_frame` may do something with each frame."""

    def __init__(self) -> None:
        self.links: list[LinkDriver] = []
        self.frames: list[tuple[Kind, int, int, bytes]] = []
        self.bodies: list[LinkControl] = []
        self.rooms: list[int] = []
        self.healths: list[bool] = []
        self.ends: list[tuple[Code, str, bool]] = []
        self.on_frame: Callable[[LinkDriver, Header, memoryview], None] | None = None
        self.changed = asyncio.Event()

    def link_up(self, link: LinkDriver) -> None:
        self.links.append(link)
        self.changed.set()

    def frame(self, link: LinkDriver, header: Header, payload: memoryview) -> None:
        self.frames.append((header.kind, header.circuit, header.sequence, bytes(payload)))
        if self.on_frame is not None:
            self.on_frame(link, header, payload)
        self.changed.set()

    def control(self, link: LinkDriver, body: LinkControl) -> None:
        self.bodies.append(body)
        self.changed.set()

    def room(self, link: LinkDriver, circuit: int) -> None:
        self.rooms.append(circuit)
        self.changed.set()

    def health(self, link: LinkDriver) -> None:
        self.healths.append(link.sound)
        self.changed.set()

    def link_down(self, link: LinkDriver, code: Code, reason: str) -> None:
        self.ends.append((code, reason, link.found))
        self.changed.set()

    async def until(self, condition: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait until something that this owner notes makes `condition` true."""
        async with asyncio.timeout(seconds):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class Pair:
    """A link from an edge to a router, and what both ends were told."""

    def __init__(self, listener: LinkListener, near: Notes, far: Notes, link: LinkDriver) -> None:
        self.listener = listener
        self.near = near
        self.far = far
        self.link = link

    @property
    def other(self) -> LinkDriver:
        """The router's end."""
        return self.far.links[0]

    async def close(self) -> None:
        """End both."""
        self.link.close()
        for link in list(self.listener.links):
            link.close()
            await link.wait_closed()
        await self.link.wait_closed()
        self.listener.close()


async def listen(world: World, far: Notes, **options: Any) -> LinkListener:
    """A router that accepts links on a port of its own."""
    credentials: Credentials = options.pop("credentials", ROUTER)
    listener = LinkListener(world, lambda: credentials, far, now, **options)
    await listener.listen("127.0.0.1", 0)
    return listener


async def dial(world: World, address: tuple[str, int], near: Notes, **options: Any) -> LinkDriver:
    """An edge dials."""
    credentials: Credentials = options.pop("credentials", EDGE)
    return await dial_link(world, *address, credentials, near, now=now, **options)


async def pair(here: World, there: World, **options: Any) -> Pair:
    """A link that is up at both ends."""
    near, far = Notes(), Notes()
    listener = await listen(there, far)
    link = await dial(here, listener.local, near, **options)
    await far.until(lambda: bool(far.links))
    return Pair(listener, near, far, link)
