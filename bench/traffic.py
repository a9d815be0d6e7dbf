"""What runs over networks that are made bad: polls whose stalls are seen, and bulk that is counted as it arrives.

In Python: a stall is told in milliseconds, and the rates are those of far and slow networks. Sockets are opened in the
namespaces, threads of this process use them.
"""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Self

from bench.errors import BenchError
from bench.impairment.driver import entered

EVERY = 0.02
"""Seconds between polls."""
POLL = 12
PATIENCE = 60.0
"""Seconds after which a poll without an answer counts as lost, and its connection as dead."""
BLOCK = 256 * 1024


class Answer(NamedTuple):
    """One poll: when it was due and how long after that its answer came, in seconds of the monotonic clock."""

    due: float
    took: float


class Polls:
    """One connection over which 12 bytes go and come back every 20 ms; use as a context manager.

    A poll that waited for the answer to the one before counts from when it was due, so nothing hides a stall.
    """

    def __init__(self, namespace: str, address: tuple[str, int]) -> None:
        self.answers: list[Answer] = []
        self.failure: str = ""
        self._resting = threading.Event()
        self._over = threading.Event()
        with entered(namespace):
            self._socket = socket.create_connection(address, timeout=PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._thread = threading.Thread(target=self._run, name="polls")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def rest(self) -> None:
        """Send no more until `go_on`; the connection stays open."""
        self._resting.set()

    def go_on(self) -> None:
        """Poll again."""
        self._resting.clear()

    def _run(self) -> None:
        due = time.monotonic()
        try:
            for number in itertools.count():
                self._over.wait(due - time.monotonic())
                while self._resting.is_set() and not self._over.wait(EVERY):
                    due = time.monotonic()
                if self._over.is_set():
                    return
                self._ask(b"%0*d" % (POLL, number))
                self.answers.append(Answer(due, time.monotonic() - due))
                due += EVERY
        except OSError as error:
            self.failure = f"the connection of the polls ended: {error}"

    def _ask(self, question: bytes) -> None:
        self._socket.sendall(question)
        got = b""
        while len(got) < POLL:
            part = self._socket.recv(POLL - len(got))
            if not part:
                raise ConnectionResetError("closed by the other side")
            got += part
        if got != question:
            raise ConnectionError(f"another answer than the question: {got!r}")

    def answered(self) -> None:
        """Wait for the first answer, however long the way is.

        Raises:
            BenchError: none comes.
        """
        give_up = time.monotonic() + PATIENCE
        while not self.answers:
            if self.failure or time.monotonic() > give_up:
                raise BenchError(self.failure or f"no poll was answered in {PATIENCE:.0f} s")
            time.sleep(EVERY)

    def stall(self, since: float, quiet: float) -> float:
        """The longest that a poll due since then took; known when those of `quiet` seconds have been answered since it.

        Raises:
            BenchError: the connection ended, or there was no quiet in twice the time after which it counts as dead.
        """
        give_up = time.monotonic() + 2 * PATIENCE
        while time.monotonic() < give_up:
            if self.failure:
                raise BenchError(self.failure)
            # What was on its way at that moment may be the one that it hits.
            seen = [one for one in self.answers[-10_000:] if one.due >= since - EVERY]
            worst = max(seen, key=lambda one: one.took, default=None)
            if worst is not None and seen[-1].due > max(since, worst.due + worst.took) + quiet:
                return worst.took
            time.sleep(EVERY)
        raise BenchError("the polls that were answered never went on without another stall")


class Server:
    """What stands in a namespace at the far end: it sends polls back and counts bulk. Use as a context manager."""

    def __init__(self, namespace: str) -> None:
        self.arrived: list[tuple[float, int]] = []
        """Of bulk: when, and how many bytes."""
        with entered(namespace):
            self._sockets = [socket.create_server(("0.0.0.0", 0), backlog=64) for _ in range(2)]
        self.poll_port, self.bulk_port = (one.getsockname()[1] for one in self._sockets)

    def __enter__(self) -> Self:
        for one, serve in zip(self._sockets, (self._echo, self._count), strict=True):
            threading.Thread(target=self._accept, args=(one, serve), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self, listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = listener.accept()
                threading.Thread(target=serve, args=(end,), daemon=True).start()

    def _echo(self, end: socket.socket) -> None:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError), end:
            while data := end.recv(4096):
                end.sendall(data)

    def _count(self, end: socket.socket) -> None:
        memory = bytearray(BLOCK)
        with contextlib.suppress(OSError), end:
            while count := end.recv_into(memory):
                self.arrived.append((time.monotonic(), count))

    def rate(
        self, namespace: str, address: tuple[str, int], warm_up: float, seconds: float
    ) -> float:
        """Bit/s that arrive here of one connection from there that sends as fast as it can, once it has warmed up.

        Raises:
            BenchError: nothing arrived.
        """
        self.arrived.clear()
        block = bytes(BLOCK)
        with entered(namespace):
            end = socket.create_connection(address, timeout=PATIENCE)
        begin = time.monotonic() + warm_up
        with end:
            end.settimeout(0.5)
            while time.monotonic() < begin + seconds:
                with contextlib.suppress(TimeoutError):
                    end.send(block)
        total = sum(count for when, count in self.arrived if begin <= when < begin + seconds)
        if not total:
            raise BenchError("not one byte arrived")
        return total * 8 / seconds
