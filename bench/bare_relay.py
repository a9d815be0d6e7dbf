"""A bare relay of TCP on uvloop, and nothing else: `bare_relay.py HOST PORT TO_HOST TO_PORT ...`, four for each way."""

import asyncio
import contextlib
import socket
import sys
from functools import partial

import uvloop

SIZE = 256 * 1024
Address = tuple[str, int]


class Side:
    """One connection of a pair: what comes from it goes to the other, as fast as that takes it."""

    other: "Side"

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.ended = False
        self._loop = asyncio.get_running_loop()
        self._room = memoryview(bytearray(SIZE))
        self._left = memoryview(b"")

    def start(self) -> None:
        """Begin to read."""
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add_reader(self.connection, self.read)

    def read(self) -> None:
        """Something has come, or the end."""
        try:
            count = self.connection.recv_into(self._room)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count:
            self.other.send(self._room[:count])
            return
        self.ended = True
        self._loop.remove_reader(self.connection)
        with contextlib.suppress(OSError):
            self.other.connection.shutdown(socket.SHUT_WR)
        if self.other.ended:
            self._close_both()

    def send(self, data: memoryview) -> None:
        """What the other side has said; it says nothing more until all has left."""
        try:
            count = self.connection.send(data)
        except BlockingIOError:
            count = 0
        except OSError:
            self._close_both()
            return
        if count < len(data):
            self._left = data[count:]
            self._loop.remove_reader(self.other.connection)
            self._loop.add_writer(self.connection, self._write)

    def _write(self) -> None:
        self._loop.remove_writer(self.connection)
        if not self.other.ended:
            self._loop.add_reader(self.other.connection, self.other.read)
        self.send(self._left)

    def _close_both(self) -> None:
        for side in (self, self.other):
            self._loop.remove_reader(side.connection)
            self._loop.remove_writer(side.connection)
            side.connection.close()


def join(accepted: socket.socket, dialed: socket.socket) -> None:
    """The second is connected: carry bytes both ways."""
    asyncio.get_running_loop().remove_writer(dialed)
    one, other = Side(accepted), Side(dialed)
    one.other, other.other = other, one
    one.start()
    other.start()


def accept(listener: socket.socket, to: Address) -> None:
    """Take all connections that wait."""
    with contextlib.suppress(BlockingIOError):
        while True:
            accepted, _ = listener.accept()
            dialed = socket.socket()
            dialed.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                dialed.connect(to)
            asyncio.get_running_loop().add_writer(dialed, partial(join, accepted, dialed))


async def main(words: list[str]) -> None:
    """Relay until the program is ended."""
    loop = asyncio.get_running_loop()
    for at in range(0, len(words), 4):
        host, port, to, target = words[at : at + 4]
        listener = socket.create_server((host, int(port)), backlog=1024)
        listener.settimeout(0)
        loop.add_reader(listener, partial(accept, listener, (to, int(target))))
    await loop.create_future()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(main(sys.argv[1:]))
