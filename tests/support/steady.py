"""Traffic that must not notice what happens to routers: polls and bulk over listeners, every byte checked."""

import random
import socket
import threading
import time
from types import TracebackType
from typing import Self

from tests.support.traffic import Caller

CHUNK = 64 * 1024


class Polls:
    """A program that asks and waits for the answer, again and again, over one connection.

    `failure` is what ended it before its time.
    """

    def __init__(self, port: int, pause: float = 0.02) -> None:
        self.count = 0
        self.failure: Exception | None = None
        self._pause = pause
        self._caller = Caller(port, 60.0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="polls")

    def __enter__(self) -> Self:
        self._caller.echo()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._caller.socket.close()
        if kind is None:
            assert self.failure is None, f"poll {self.count}: {self.failure!r}"

    def _run(self) -> None:
        try:
            while not self._over.wait(self._pause):
                self._caller.echo(b"%012d" % self.count)
                self.count += 1
        except (OSError, AssertionError) as error:
            self.failure = error

    @property
    def sent(self) -> int:
        """Bytes."""
        return self._caller.sent

    @property
    def received(self) -> int:
        """Likewise."""
        return self._caller.received

    def more(self, count: int = 10, seconds: float = 60.0) -> None:
        """Wait until so many more have been answered."""
        target, until = self.count + count, time.monotonic() + seconds
        while self.count < target:
            assert self.failure is None, f"poll {self.count}: {self.failure!r}"
            assert time.monotonic() < until, f"no {count} polls within {seconds:.0f} s"
            time.sleep(0.01)


class Bulk:
    """A program that sends random bytes as fast as they are taken, and compares what comes back."""

    def __init__(self, port: int) -> None:
        self.sent = self.received = 0
        self.failure: Exception | None = None
        self._caller = Caller(port, 60.0)
        self._over = threading.Event()
        self._data = random.Random(port).randbytes(8 * CHUNK + 1)
        self._threads = [threading.Thread(target=one) for one in (self._send, self._receive)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()
        self._caller.socket.close()
        if kind is None:
            assert self.failure is None, repr(self.failure)
            assert self.received == self.sent

    def _send(self) -> None:
        try:
            while not self._over.is_set():
                at = self.sent % len(self._data)
                self.sent += self._caller.socket.send(self._data[at : at + CHUNK])
            self._caller.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.failure = error

    def _receive(self) -> None:
        try:
            while data := self._caller.socket.recv(CHUNK):
                rest = data
                while rest:
                    at = self.received % len(self._data)
                    part = rest[: len(self._data) - at]
                    assert part == self._data[at : at + len(part)], f"after {self.received} bytes"
                    self.received += len(part)
                    rest = rest[len(part) :]
        except (OSError, AssertionError) as error:
            self.failure = error

    def more(self, size: int = 1_000_000, seconds: float = 60.0) -> None:
        """Wait until so many more bytes have come back than are on their way now."""
        target, until = self.sent + size, time.monotonic() + seconds
        while self.received < target:
            assert self.failure is None, repr(self.failure)
            assert time.monotonic() < until, f"no {size} bytes within {seconds:.0f} s"
            time.sleep(0.01)
