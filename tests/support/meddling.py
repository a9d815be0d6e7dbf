"""What a hostile router does to single frames, and the circuits that tests let it happen to."""

import asyncio
import contextlib

from overlay.aio.circuit_stream import CircuitStream
from overlay.errors import Code
from overlay.wire.header import Header, Kind
from tests.support.honest import SERVICE, HonestEdge, until
from tests.support.hostile import HostilePlant, echoed

STREAM = frozenset({Kind.DATA, Kind.CHECKPOINT, Kind.CLOSE})
CONTROL = frozenset({Kind.READY, Kind.REFUSE, Kind.CREDIT, Kind.RESUME})
CHECKPOINT_SECONDS = 0.15
"""After so long a checkpoint and its acknowledgement have passed."""


def flip(payload: bytes, place: int) -> bytes:
    """One bit of one byte is another."""
    return payload[:place] + bytes((payload[place] ^ 0x10,)) + payload[place + 1 :]


class Meddler:
    """Does something to one frame of a kind that goes to `towards`, the one after `skip` others."""

    def __init__(self, kind: Kind, towards: str, how: str, skip: int = 0) -> None:
        self.kind = kind
        self.towards = towards
        self.how = how
        self.done = False
        self._skip = skip
        self._held: tuple[Header, bytes] | None = None

    @property
    def busy(self) -> bool:
        """It has done its work, or holds the frame that it will let go behind the next one."""
        return self.done or self._held is not None

    def __call__(self, router, link, header, payload):
        if link.name == self.towards:
            return None
        if self._held is not None and self._same_key(header.kind):
            held, self._held = self._held, None
            self.done = True
            return [(header, payload), held]
        if header.kind is not self.kind or self.done or self._held is not None:
            return None
        if self._skip:
            self._skip -= 1
            return None
        if self.how == "reordered":
            self._held = (header, payload)
            return []
        self.done = True
        return {
            "flipped": [(header, flip(payload, len(payload) // 2))],
            "tag flipped": [(header, flip(payload, len(payload) - 1))],
            "repeated": [(header, payload), (header, payload)],
            "dropped": [],
            "renumbered": [(header._replace(sequence=header.sequence + 1), payload)],
            "shortened": [(header._replace(length=len(payload) - 1), payload[:-1])],
        }[self.how]

    def _same_key(self, kind: Kind) -> bool:
        return any(
            kind in keys and self.kind in keys for keys in (STREAM, CONTROL, {Kind.DATAGRAM})
        )


async def closing(stream: CircuitStream) -> Code:
    """How it ends."""
    async with asyncio.timeout(30):
        return (await stream.closed).code


async def begin(plant: HostilePlant, service: str = SERVICE) -> tuple[CircuitStream, CircuitStream]:
    """A circuit that has run for a while: both ends of it."""
    before = plant.b.circuits()
    stream = await plant.a.dial(service)
    assert await echoed(stream, b"begun.")
    new = [one for one in plant.b.circuits() if one not in before]
    return stream, new[0]


def both_ways(plant: HostilePlant, towards: str) -> tuple[HonestEdge, HonestEdge]:
    """The edge that gets what was meddled with, and the other."""
    return (plant.a, plant.b) if towards == "edge-a" else (plant.b, plant.a)


async def say(stream: CircuitStream, *words: bytes) -> None:
    """Write these, whether the circuit lives or not."""
    with contextlib.suppress(ConnectionResetError):
        for word in words:
            await stream.write(word)


async def hears(plant: HostilePlant, *told: bytes) -> None:
    """Wait until the asset has heard exactly this, connection by connection."""
    await until(lambda: plant.asset.told == list(told))


def lose_path(plant: HostilePlant) -> None:
    """Both ends of each circuit are told that the path is lost."""
    for router in plant.routers:
        for link, number in router.hops():
            router.table.pop((link, number), None)
            link.send(Kind.RESET, number, b"")
