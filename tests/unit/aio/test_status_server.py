"""Status and metrics over HTTP: on loopback only, small and bounded."""

import asyncio
from collections.abc import Iterable

import pytest
from prometheus_client.core import GaugeMetricFamily, Metric

from overlay.aio.lifecycle import UsageError
from overlay.aio.status_server import MAX_CONNECTIONS, MAX_REQUEST, StatusServer
from tests.support.simulation import Simulation


def families() -> Iterable[Metric]:
    yield GaugeMetricFamily("ferrule_links", "Links that are up.", 2.0)


class Client:
    """One raw HTTP request."""

    def __init__(self) -> None:
        self.data = b""
        self.over = asyncio.Event()
        self._memory = memoryview(bytearray(4096))

    def buffer(self) -> memoryview:
        return self._memory

    def received(self, count: int) -> None:
        self.data += self._memory[:count]

    def ended(self) -> None:
        self.over.set()

    def writable(self) -> None: ...

    def lost(self, error: OSError | None) -> None:
        self.over.set()


async def ask(sim: Simulation, request: bytes) -> bytes:
    world = sim.host("r").world
    client = Client()
    connection = await world.net.connect("127.0.0.1", 9464)
    connection.start(client)
    connection.write([request])
    await client.over.wait()
    connection.close()
    return client.data


def test_the_status_server_is_small_and_bounded():
    sim = Simulation()

    async def story():
        world = sim.host("r").world
        server = StatusServer(world, families, lambda: {"name": "r1"})
        for outside in ("0.0.0.0", "10.0.0.1", "::", "example.org"):
            with pytest.raises(UsageError, match="loopback"):
                await server.listen(outside, 1)
        await server.listen("127.0.0.1", 9464)
        assert b'"name": "r1"' in await ask(sim, b"GET /status HTTP/1.1\r\n\r\n")
        assert b"ferrule_links 2.0" in await ask(sim, b"GET /metrics HTTP/1.0\r\n\r\n")
        assert b" 404 " in await ask(sim, b"GET /x HTTP/1.1\r\n\r\n")
        assert b" 405 " in await ask(sim, b"POST /metrics HTTP/1.1\r\n\r\n")
        assert b" 405 " in await ask(sim, b"\r\n\r\n")
        assert b" 431 " in await ask(sim, b"x" * (MAX_REQUEST + 1))
        idle = [await world.net.connect("127.0.0.1", 9464) for _ in range(MAX_CONNECTIONS)]
        await asyncio.sleep(0.1)
        assert await ask(sim, b"GET /status HTTP/1.1\r\n\r\n") == b""
        idle[0].close()
        await asyncio.sleep(0.1)
        assert b"r1" in await ask(sim, b"GET /status HTTP/1.1\r\n\r\n")
        server.close()
        await asyncio.sleep(0.1)
        assert server._open == set()

    sim.run(story())


def test_a_client_that_never_stops_is_answered_once_and_held_in_one_request():
    sim = Simulation()

    async def story():
        world = sim.host("r").world
        server = StatusServer(world, families)
        await server.listen("127.0.0.1", 9464)
        client = Client()
        connection = await world.net.connect("127.0.0.1", 9464)
        connection.start(client)
        for _ in range(6 * MAX_REQUEST // 1024):
            connection.write([b"x" * 1024])
            await asyncio.sleep(0.01)
        (request,) = server._open
        assert len(request._memory) == request._received == MAX_REQUEST
        assert client.data.count(b" 431 ") == 1
        connection.close()
        server.close()

    sim.run(story())


def test_facts_that_are_not_for_everybody_are_not_there():
    sim = Simulation()

    async def story():
        server = StatusServer(sim.host("r").world, families)
        await server.listen("127.0.0.1", 9464)
        assert b"ferrule_links 2.0" in await ask(sim, b"GET /metrics HTTP/1.1\r\n\r\n")
        for target in (b"/status", b"/"):
            answer = await ask(sim, b"GET " + target + b" HTTP/1.1\r\n\r\n")
            assert b" 404 " in answer
            assert answer.endswith(b"There is /metrics.\n")
        server.close()

    sim.run(story())
