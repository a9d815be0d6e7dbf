"""A worker of a router that is killed in the middle of bulk: no byte is lost or repeated, and a poll notices nothing."""

import hashlib
import json
import os
import random
import signal
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.demo.plant import Plant, until
from deploy.demo.ports import free_port
from tests.support.census import alive
from tests.support.traffic import Caller, Echo, reachable

pytestmark = pytest.mark.timeout(400)

MEGABYTE = 1 << 20


class Watched(Plant):
    """A plant whose router says what its workers do."""

    def __init__(self) -> None:
        super().__init__()
        self.status_port = free_port()

    def start(self, name: str, command: str, *arguments: str) -> None:
        if command == "ferrule-router":
            watch = f"127.0.0.1:{self.status_port}"
            arguments = (*arguments, "--metrics", watch, "--workers", "1")
        super().start(name, command, *arguments)

    def worker(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.status_port}/status") as answer:
            facts: dict[str, Any] = json.load(answer)["workers"][0]
            return facts


@pytest.fixture
def plant() -> Iterator[Watched]:
    with Watched() as made:
        yield made


class Bulk:
    """Sends as fast as it goes and compares what comes back, until `finish`."""

    def __init__(self, port: int) -> None:
        self.caller = Caller(port, 60)
        self.back = 0
        self._sent, self._got = hashlib.sha256(), hashlib.sha256()
        self._over = threading.Event()
        self._writer = threading.Thread(target=self._write, name="bulk writer")
        self._reader = threading.Thread(target=self._read, name="bulk reader")
        self._writer.start()
        self._reader.start()

    def _write(self) -> None:
        block = random.Random(1).randbytes(MEGABYTE)
        place = 0
        while not self._over.is_set():
            part = block[place:] + block[:place]  # so that no two are equal for long
            place = (place + 4097) % MEGABYTE
            self._sent.update(part)
            self.caller.socket.sendall(part)
        self.caller.socket.shutdown(1)

    def _read(self) -> None:
        while data := self.caller.socket.recv(MEGABYTE):
            self._got.update(data)
            self.back += len(data)

    def finish(self) -> None:
        """The last byte has come back; all of them are those that were sent, once and in order."""
        self._over.set()
        for thread in (self._writer, self._reader):
            thread.join(60)
            assert not thread.is_alive()
        self.caller.socket.close()
        assert self._got.digest() == self._sent.digest()


class Poll:
    """Polls on one connection all the time."""

    def __init__(self, port: int) -> None:
        self.caller = Caller(port, 10)
        self.answered = 0
        self.error: Exception | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="poll")
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._over.wait(0.01):
                self.caller.echo()
                self.answered += 1
        except Exception as error:  # noqa: BLE001
            self.error = error

    def finish(self) -> None:
        self._over.set()
        self._thread.join(20)
        self.caller.socket.close()
        assert self.error is None


def test_bulk_survives_its_worker_and_polls_do_not_notice(plant: Watched):
    with Echo() as bulk_asset, Echo() as poll_asset:
        bulk_port = plant.offer(bulk_asset.port, protocol="bulk")
        poll_port = plant.offer(poll_asset.port, protocol="poll")
        for protocol in ("bulk", "poll"):
            plant.ferrule("allow", "hmi-a", "plc-b", protocol)
        until(lambda: reachable(bulk_port) and reachable(poll_port), 10, "allowed connections")
        probed = len(bulk_asset.received)
        poll, bulk = Poll(poll_port), Bulk(bulk_port)
        try:
            until(lambda: plant.worker()["bytes"] > 8 * MEGABYTE, 60, "bulk in the worker")
            before = plant.worker()
            connections = bulk_asset.connections, poll_asset.connections
            assert before["circuits"] == 1, "the poll stays on express"
            back, answered = bulk.back, poll.answered
            os.kill(before["pid"], signal.SIGKILL)
            until(lambda: not alive(before["pid"]), 5, "the end of the worker")
            until(lambda: bulk.back > back + 32 * MEGABYTE, 60, "bulk on another way")
            until(lambda: plant.worker()["up"], 20, "another worker")
            until(lambda: poll.answered > answered + 20, 20, "polls")
        finally:
            bulk.finish()
            poll.finish()
        assert plant.worker()["starts"] == 2
        assert len(bulk_asset.received) - probed == bulk.back
        assert (bulk_asset.connections, poll_asset.connections) == connections, "nobody came anew"
        assert "worker.down" in plant.log("router-1")
        moved = [
            event for event in plant.json("audit", "search", "--limit", "500")
            if event["event"] == "circuit.move" and event["service"] == "plc-b.poll"
        ]  # fmt: skip
        assert moved == [], "the poll stayed where it was"
