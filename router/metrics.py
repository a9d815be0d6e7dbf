"""Status and Prometheus metrics over plain HTTP on loopback: small, read-only, bounded."""

import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from overlay.aio.lifecycle import UsageError
from overlay.aio.world import Connection, Listener, World

MAX_REQUEST = 4096
MAX_CONNECTIONS = 16
_TEXT = "text/plain; version=0.0.4; charset=utf-8"

Facts = Callable[[], Mapping[str, object]]


class Metrics(Collector):
    """Turns the facts of a router into Prometheus families at each scrape."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.registry = CollectorRegistry()
        self.registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is depends on what happened."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """All numbers of the facts; those under `counts` are counters."""
        facts = self._facts()
        for name, value in facts.items():
            if isinstance(value, bool | int | float):
                yield GaugeMetricFamily(
                    f"ferrule_router_{name}", _WORDS.get(name, name), float(value)
                )
        refused = CounterMetricFamily(
            "ferrule_router_refused", "Circuits that were refused.", labels=["code"]
        )
        counts = facts.get("counts")
        for name, value in sorted(counts.items()) if isinstance(counts, Mapping) else ():
            if name.startswith("refused_"):
                refused.add_metric([name.removeprefix("refused_")], value)
            else:
                text = _WORDS.get(str(name), "")
                yield CounterMetricFamily(f"ferrule_router_{name}", text, float(value))
        yield refused
        yield from _of_workers(facts.get("workers"))


def _of_workers(workers: object) -> Iterable[Metric]:
    """Each worker by its lane."""
    if not isinstance(workers, list) or not workers:
        return
    for name, kind in _WORKER.items():
        text = _WORDS[name]
        family: GaugeMetricFamily | CounterMetricFamily
        if kind == "counter":
            family = CounterMetricFamily(f"ferrule_router_worker_{name}", text, labels=["lane"])
        else:
            family = GaugeMetricFamily(f"ferrule_router_worker_{name}", text, labels=["lane"])
        for worker in workers:
            family.add_metric([str(worker["lane"])], float(worker[name]))
        yield family


_WORKER = {
    "up": "gauge",
    "links": "gauge",
    "circuits": "gauge",
    "queued_bytes": "gauge",
    "starts": "counter",
    "frames": "counter",
    "bytes": "counter",
}
_WORDS = {
    "up": "The worker runs.",
    "starts": "How often the worker was started.",
    "links": "Links that are up.",
    "circuits": "Circuits that pass.",
    "queued_bytes": "Bytes that wait for links to take them.",
    "connected": "The control circuit is up.",
    "fresh": "The authority is fresh.",
    "forks": "Forks of the audit log that this router has seen.",
    "frames": "Frames forwarded.",
    "bytes": "Payload bytes of DATA forwarded.",
    "admitted": "Circuits admitted.",
    "resumed": "Circuits that came here on a new path.",
    "sent_away": "Circuits sent to other paths: this router drains, or the next one does not answer.",
    "suspected": "How often a router at the other end of a link did not answer.",
    "cut": "Circuits cut because their grant was over or void, or by a limit.",
    "shed": "Circuits given up because too much waited.",
    "tampered": "Links ended because a record did not authenticate.",
    "misbehaved": "Links and circuits ended because the other side broke the rules.",
    "handshakes_failed": "Handshakes that failed.",
    "handshakes_turned_away": "Connections closed at once because there was no place.",
    "datagrams_dropped": "Datagrams dropped because their queue was full.",
}


class StatusServer:
    """Answers `GET /metrics` and `GET /status`."""

    def __init__(self, world: World, facts: Facts) -> None:
        self._world = world
        self._facts = facts
        self._metrics = Metrics(facts)
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
            return 200, _TEXT, generate_latest(self._metrics.registry)
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
