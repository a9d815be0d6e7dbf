"""Programs and assets that know which byte must come next.

A conversation begins with 16 bytes: its number, and how many bytes go each way. What follows is a pattern of number and
offset, so that a byte that is lost, repeated or moved is seen at once, at whichever end.
"""

import asyncio
import random
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.simulation.plant import WholePlant

_HEAD = struct.Struct("!QII")
_TABLE = random.Random(0).randbytes(8191) * 10
READ = 65_536
STILL_SAID = 100_000
"""Bytes that each end of a conversation says at most once the faults are over, where seeds are to take little time."""
UP, DOWN = 0, 1


def pattern(number: int, way: int, offset: int, count: int) -> bytes:
    """`count` bytes, at most 64 KiB, of one way of a conversation."""
    start = (number * 977 + way * 4241 + offset) % 8191
    return _TABLE[start : start + count]


class Talk:
    """One end of a conversation, as a `Receiver`. Writes its pattern in pieces; reads when it likes.

    `outcome` is "" while it goes on, then "well" (both ways ended) or what went wrong.
    """

    def __init__(self, plant: "WholePlant", connection: Any, rng: random.Random) -> None:
        self.plant = plant
        self.connection = connection
        self.rng = rng
        self.number = 0
        self.to_write = 0
        self.written = 0
        self.to_read = 0
        self.got = 0
        self.way = UP
        self.outcome = ""
        self.slow = rng.random() < 0.25
        self.eof = False
        self._pending = b""
        self._ended = False
        self._memory = memoryview(bytearray(READ))

    # --- Receiver -----------------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        return self._memory

    def received(self, count: int) -> None:
        self.take(bytes(self._memory[:count]))
        if self.slow and not self.plant.calm and not self.outcome and self.rng.random() < 0.5:
            self.connection.pause()
            self.later(self.rng.expovariate(2.0), self.connection.resume)

    def take(self, data: bytes) -> None:
        expected = pattern(self.number, 1 - self.way, self.got, len(data))
        if data != expected or self.got + len(data) > self.to_read:
            self.plant.violated(
                "exactly once",
                f"{self} got {data[:16].hex()} at {self.got} of {self.to_read}, not {expected[:16].hex()}",
            )
        self.got += len(data)

    def ended(self) -> None:
        self.eof = True
        self.finish()

    def writable(self) -> None:
        self.push()

    def lost(self, error: OSError | None) -> None:
        if not self.outcome:
            self.over(f"lost: {error.strerror if error is not None else 'closed'}")

    def shorten(self, other: "Talk") -> None:
        """It says little more, and the other end expects no more than that."""
        self.to_write = min(self.to_write, self.written + STILL_SAID)
        other.to_read = self.to_write

    # --- writing ------------------------------------------------------------------------------------

    def later(self, seconds: float, call: Callable[[], Any]) -> None:
        asyncio.get_running_loop().call_later(seconds, self._unless_over, call)

    def _unless_over(self, call: Callable[[], Any]) -> None:
        if not self.outcome:
            call()

    def push(self) -> None:
        """Write what is there; a pause now and then."""
        while not self.outcome and not self._ended:
            if not self._pending:
                left = self.to_write - self.written
                if not left and not self.may_end():
                    return
                if not left:
                    self._ended = True
                    self.connection.end()
                    self.finish()
                    return
                size = min(left, self.rng.choice((1, 12, 260, 1460, 16_384, 60_000)))
                self._pending = pattern(self.number, self.way, self.written, size)
                self.written += size
            taken = self.connection.write((self._pending,))
            self._pending = self._pending[taken:]
            if self._pending:
                return  # `writable` comes
            if self.rng.random() < 0.5:
                self.later(self.rng.expovariate(4.0), self.push)
                return

    def may_end(self) -> bool:
        """Whether it says that it writes nothing more, once that is so."""
        return True

    def finish(self) -> None:
        """Both ways have ended."""
        if self.eof and self._ended and not self.outcome:
            self.over("well")
            self.connection.close()
        elif self.eof and not self.outcome:
            self.push()

    def over(self, outcome: str) -> None:
        self.outcome = outcome

    def is_over(self) -> bool:
        return bool(self.outcome)


class Telemetry:
    """A program that sends numbered datagrams and gets each back, as it was and once, or not at all. Their order may
    change.
    """

    def __init__(self, plant: "WholePlant", rng: random.Random) -> None:
        self.plant = plant
        self.rng = rng
        self.number = 0
        self.sent: dict[int, bytes] = {}
        self.back: set[int] = set()
        self._socket: Any = None

    async def open(self, net: Any, port: int, remote: tuple[str, int]) -> None:
        self._socket = await net.datagrams(self._came, local=("", port), remote=remote)

    def send(self) -> int:
        """One more; its number."""
        self.number += 1
        size = self.rng.choice((8, 9, 200, 1400, 20_000))
        data = struct.pack("!Q", self.number) + pattern(self.number, UP, 0, size - 8)
        self.sent[self.number] = data
        self._socket.send(data)
        self.plant.note("telemetry", f"sends datagram {self.number}, {size} bytes")
        return self.number

    def _came(self, data: memoryview, *_: object) -> None:
        whole = bytes(data)
        number = int.from_bytes(whole[:8], "big")
        if self.sent.get(number) != whole:
            self.plant.violated("datagrams", f"{len(whole)} bytes came back that nobody sent so")
        if number in self.back:
            self.plant.violated("datagrams", f"datagram {number} came back twice")
        self.back.add(number)


async def echo_datagrams(net: Any, port: int) -> None:
    """An asset's side."""

    def came(data: memoryview, source: tuple[str, int], *_: object) -> None:
        socket.send(bytes(data), source)

    socket = await net.datagrams(came, local=("", port))


class Client(Talk):
    """A program at a listener."""

    def __init__(self, plant: "WholePlant", connection: Any, rng: random.Random) -> None:
        super().__init__(plant, connection, rng)
        self.service = ""
        self._stays = False

    def begin(self, number: int, up: int, down: int, stays: float) -> None:
        self.number, self.to_write, self.to_read = number, up, down
        if stays:
            self._stays = True
            self.later(stays, self._goes)
        self._pending = _HEAD.pack(number, up, down)
        self.push()

    def may_end(self) -> bool:
        return not self._stays

    def _goes(self) -> None:
        self._stays = False
        self.push()

    def over(self, outcome: str) -> None:
        super().over(outcome)
        self.plant.note(f"client {self.number}", f"{outcome}; got {self.got} of {self.to_read}")
        if outcome != "well":
            return
        asset = self.plant.served.get(self.number)
        there = 0 if asset is None else asset.got
        if self.got != self.to_read or there != self.to_write:
            self.plant.violated(
                "exactly once",
                f"{self} ended well with {self.got} of {self.to_read} bytes; "
                f"{there} of its {self.to_write} arrived",
            )

    def __str__(self) -> str:
        return f"client {self.number}"


class Asset(Talk):
    """A device's side of a connection."""

    def __init__(self, plant: "WholePlant", connection: Any, rng: random.Random) -> None:
        super().__init__(plant, connection, rng)
        self.way = DOWN
        self._head = b""

    def take(self, data: bytes) -> None:
        if self.number:
            super().take(data)
            return
        self._head += data
        if len(self._head) < _HEAD.size:
            return
        self.number, self.to_read, self.to_write = _HEAD.unpack_from(self._head)
        self.plant.met(self)
        rest = self._head[_HEAD.size :]
        if rest:
            super().take(rest)
        self.push()

    def ended(self) -> None:
        if not self.number:
            self.over("nothing came")
            self.connection.close()
            return
        super().ended()

    def may_end(self) -> bool:
        """Not before all has come: so its end tells the client that all has."""
        return self.eof

    def __str__(self) -> str:
        return f"asset of {self.number}"
