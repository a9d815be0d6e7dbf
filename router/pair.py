"""The pair of sockets between the first process and a worker: whole messages, with descriptors, never blocking."""

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable

from overlay.errors import DecodeError
from router.messages import PART, Assembler, Message, packets

WAITING_BYTES = 16 * 1024 * 1024
"""What may wait for the other process; one that does not read for so long is dead."""
_PACKETS_PER_TURN = 64
_DESCRIPTORS = 4

Received = Callable[[Message, int | None], None]


def make_pair() -> tuple[socket.socket, socket.socket]:
    """Two ends; packets keep their borders."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class Pair:
    """One end. `received` gets each message, with a descriptor (which it owns) where one came along; `lost` is told
    once when the other process is gone or does not read, and nothing follows."""

    def __init__(self, sock: socket.socket, received: Received, lost: Callable[[], None]) -> None:
        sock.settimeout(0)
        self._sock = sock
        self._received = received
        self._lost: Callable[[], None] | None = lost
        self._loop = asyncio.get_running_loop()
        self._assembler = Assembler()
        self._waiting: deque[tuple[bytes, socket.socket | None]] = deque()
        self._size = 0
        self._loop.add_reader(sock.fileno(), self._readable)

    def send(self, message: Message, carried: socket.socket | None = None) -> None:
        """Say something; `carried` goes along and is closed here."""
        if self._lost is None:
            if carried is not None:
                carried.close()
            return
        parts = packets(message)
        for place, packet in enumerate(parts):
            last = place == len(parts) - 1
            self._waiting.append((packet, carried if last else None))
            self._size += len(packet)
        if self._size > WAITING_BYTES:
            self._end()
        elif len(self._waiting) == len(parts):
            self._write()

    def close(self) -> None:
        """The other process sees the end; nobody is told here."""
        self._lost = None
        self._end()

    def _write(self) -> None:
        while self._waiting:
            packet, carried = self._waiting[0]
            try:
                if carried is None:
                    self._sock.send(packet)
                else:
                    socket.send_fds(self._sock, [packet], [carried.fileno()])
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sock.fileno(), self._write)
                return
            except OSError:
                self._end()
                return
            self._waiting.popleft()
            self._size -= len(packet)
            if carried is not None:
                carried.close()
        self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        for _ in range(_PACKETS_PER_TURN):
            if self._sock.fileno() < 0:
                return
            try:
                packet, descriptors, _, _ = socket.recv_fds(
                    self._sock, PART + 1, _DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                packet, descriptors = b"", []
            if not packet:
                self._end()
                return
            try:
                message = self._assembler.feed(packet)
            except DecodeError:
                message = None
                self._end()
            if message is not None:
                self._received(message, descriptors.pop(0) if descriptors else None)
            for descriptor in descriptors:
                os.close(descriptor)

    def _end(self) -> None:
        lost, self._lost = self._lost, None
        if self._sock.fileno() >= 0:
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
        for _, carried in self._waiting:
            if carried is not None:
                with contextlib.suppress(OSError):
                    carried.close()
        self._waiting.clear()
        self._size = 0
        if lost is not None:
            self._loop.call_soon(lost)
