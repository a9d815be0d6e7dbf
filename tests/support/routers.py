"""One router or several, with a controller, a calling and a hosting edge that the test plays."""

import asyncio

from overlay.fabric.authority import Kill
from overlay.identity.certificate import Role
from overlay.wire.header import Kind
from tests.support.fabrics import STATUS, Fabric, Peer

SETTLE = 0.3


async def settle() -> None:
    await asyncio.sleep(SETTLE)


async def plant(fabric: Fabric) -> tuple[Peer, Peer, Peer]:
    """A controller, the calling and the hosting edge at r1."""
    controller = await fabric.peer(
        "controller", "r1", role=Role.CONTROLLER, credentials=fabric.controller
    )
    return controller, await fabric.peer("edge-a", "r1"), await fabric.peer("edge-b", "r1")


async def circuit(fabric: Fabric, a: Peer, b: Peer, **grant) -> tuple[int, int]:
    """A circuit that is answered; its number at both edges."""
    number = a.open(fabric.grant(**grant))
    await settle()
    there, _ = b.opened()
    b.link.send(Kind.ACCEPT, there, b"accepted")
    await settle()
    assert a.got(Kind.ACCEPT)[-1] == (number, b"accepted")
    return number, there


def kill(level: str, name: str = "") -> Kill:
    return Kill(b"k" * 16, level, name, "smoke", 0, 0)


async def facts(fabric: Fabric, path: str = "/status", host: str = "r1") -> str:
    """What the status server says."""
    got = bytearray()
    done = asyncio.Event()

    class Reader:
        memory = memoryview(bytearray(65_536))

        def buffer(self):
            return self.memory

        def received(self, count):
            got.extend(self.memory[:count])

        def ended(self):
            done.set()

        def writable(self): ...

        def lost(self, error): ...

    machine = fabric.sim.host(host)

    async def ask() -> None:
        connection = await machine.world.net.connect("127.0.0.1", STATUS)
        connection.start(Reader())
        connection.write([f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()])
        await done.wait()
        connection.close()

    await machine.task(ask())
    head, _, body = bytes(got).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 ")
    return body.decode()
