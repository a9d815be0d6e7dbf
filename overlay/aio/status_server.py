"""Status and Prometheus metrics over plain HTTP on loopback: small, read-only, bounded."""

import ipaddress
import json
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from overlay.aio.lifecycle import UsageError
from overlay.aio.world import Connection, Listener, World

MAX_REQUEST = 4096
MAX_CONNECTIONS = 16
_TEXT = "text/plain; version=0.0.4; charset=utf-8"

Families = Callable[[], Iterable[Metric]]


class _Scraped(Collector):
    """What `families` makes of a program at each scrape."""

    def __init__(self, families: Families) -> None:
        self._families = families

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is depends on what happened."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """Collector."""
        return self._families()


class StatusServer:
    """Answers `GET /metrics`, and `GET /status` where there are facts that everybody on the host may read.

    Args:
        families: all metrics, made anew for each scrape.
        facts: what `/status` shows, fit for JSON.
    """

    def __init__(
        self, world: World, families: Families, facts: Callable[[], object] | None = None
    ) -> None:
        self._world = world
        self._facts = facts
        self._registry = CollectorRegistry()
        self._registry.register(_Scraped(families))
        self._listener: Listener | None = None
        self._open: set[_Request] = set()

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Begin; where it listens.

        Raises:
            UsageError: not a loopback address: whoever can reach it can read it.
            OSError: the address is taken.
        """
        try:
            loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            loopback = False
        if not loopback:
            raise UsageError(f"--metrics must be on loopback (127.0.0.1:PORT), not on {host}.")
        self._listener = await self._world.net.listen(host, port, self._accepted)
        return self._listener.local

    def close(self) -> None:
        """Stop."""
        if self._listener is not None:
            self._listener.close()
        for request in list(self._open):
            request.connection.abort()

    def _accepted(self, connection: Connection) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            connection.abort()
            return
        request = _Request(connection, self._answer, self._open.discard)
        self._open.add(request)
        connection.start(request)

    def _answer(self, target: str) -> tuple[int, str, bytes]:
        if target == "/metrics":
            return 200, _TEXT, generate_latest(self._registry)
        if self._facts is None:
            return 404, _TEXT, b"There is /metrics.\n"
        if target == "/status":
            return 200, "application/json", json.dumps(self._facts()).encode() + b"\n"
        return 404, _TEXT, b"There is /metrics and /status.\n"


class _Request:
    """One connection: one request, one answer, closed."""

    def __init__(
        self,
        connection: Connection,
        answer: Callable[[str], tuple[int, str, bytes]],
        gone: "Callable[[_Request], None]",
    ) -> None:
        self.connection = connection
        self._answer = answer
        self._gone = gone
        self._memory = memoryview(bytearray(MAX_REQUEST))
        self._received = 0
        self._unsent = b""

    def buffer(self) -> memoryview:
        """Receiver."""
        return self._memory[self._received :] if self._received < MAX_REQUEST else self._memory

    def received(self, count: int) -> None:
        """Receiver."""
        if self._unsent or self._received >= MAX_REQUEST:
            return
        self._received += count
        head = bytes(self._memory[: self._received])
        if b"\r\n\r\n" in head:
            words = head.split(b"\r\n", 1)[0].split(b" ")
            if len(words) != 3 or words[0] != b"GET":
                self._say(405, _TEXT, b"Only GET.\n")
            else:
                self._say(*self._answer(words[1].decode("ascii", "replace")))
        elif self._received >= MAX_REQUEST:
            self._say(431, _TEXT, b"The request is too long.\n")

    def ended(self) -> None:
        """Receiver."""
        self.connection.close()

    def writable(self) -> None:
        """Receiver."""
        self._write()

    def lost(self, error: OSError | None) -> None:
        """Receiver."""
        self._gone(self)

    def _say(self, status: int, kind: str, body: bytes) -> None:
        head = (
            f"HTTP/1.1 {status} {'OK' if status == 200 else 'Refused'}\r\nContent-Type: {kind}\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._unsent = head.encode() + body
        self._write()

    def _write(self) -> None:
        self._unsent = self._unsent[self.connection.write([self._unsent]) :]
        if not self._unsent:
            self._received = MAX_REQUEST
            self.connection.end()
