"""Bulk lanes between real edges, on real sockets and with a bulk loop in a thread of its own (L-08, C-65, ADR 5)."""

import asyncio
import contextlib
import random
import threading
from functools import partial
from typing import Any, Self

import pytest

from overlay.control.messages import Assignments, ListenerEntry
from overlay.fabric.authority import Kill, Revocation
from overlay.identity.certificate import Role
from overlay.policy.grant import Grant
from overlay.wire.codec import Signed, decode
from tests.support.honest import SERVICE, until
from tests.support.honest_router import HonestRouter
from tests.support.hostile import HostilePlant
from tests.support.pki import DAY, NOW

SOME = 4_000_000


class LanePlant(HostilePlant):
    """Two real edges and the real router with two bulk lanes, all in this process; nobody is hostile."""

    def __init__(self) -> None:
        super().__init__(0)
        self.real = HonestRouter(self, "router-1", 2)
        self.routers = [self.real]  # type: ignore[list-item]

    async def __aenter__(self) -> Self:
        await self.real.start(self.pki.router("router-1"))
        await self.asset.start(self.b.world)
        for name, edge in self.edges.items():
            await edge.enrol(self.keys[name])
            await edge.start()
        self.b.host(SERVICE)
        return self

    async def __aexit__(self, *_: object) -> None:
        for edge in self.edges.values():
            await edge.stop()
        await self.real.stop()
        await self.asset.close()


async def listen(plant: Any) -> int:
    """edge-a listens for hmi-a; the port."""
    signed = plant.grant()
    grant = decode(Grant, decode(Signed, signed).body)
    edge = plant.a.edge
    edge.granted([(grant, signed)], [])
    probe = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = int(probe.sockets[0].getsockname()[1])
    probe.close()
    await probe.wait_closed()
    edge.assigned(
        Assignments(1, b"", (ListenerEntry(SERVICE, f"127.0.0.1:{port}", "hmi-a", 0),), ())
    )
    await until(lambda: bool(edge.listeners.bound))
    return port


class Load:
    """A client of the listener that writes random bytes and reads their echo."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.random = random.Random(7)

    @classmethod
    async def begin(cls, port: int) -> "Load":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def echo(self, size: int) -> None:
        """So many bytes there and back, once and in order."""
        data = self.random.randbytes(size)
        self.writer.write(data)
        got, _ = await asyncio.gather(self.reader.readexactly(size), self.writer.drain())
        assert got == data

    async def until_bulk(self, plant: Any) -> None:
        """Move so much that the circuit goes to its lane at both edges."""
        async with asyncio.timeout(30):
            while not (in_bulk(plant.a) and in_bulk(plant.b)):
                ask_lanes_again(plant)
                await self.echo(SOME)


def in_bulk(edge: Any) -> list[Any]:
    """Its circuits that belong to the bulk loop."""
    return [one for one in edge.endpoint.streams() if not one.at_home_now]


def ask_lanes_again(plant: Any) -> None:
    """Do not wait out `LANE_PAUSE`: a lane that is just back refuses until its worker has heard who is attached."""
    for edge in (plant.a, plant.b):
        edge.endpoint.lanes._paused.clear()
        for mover in edge.endpoint._outgoing.values():
            mover.pause_until = 0.0


def has_lanes(edge: Any) -> bool:
    return len(edge.endpoint.lanes.links) == 2


def threads() -> int:
    return sum(thread.name == "bulk" for thread in threading.enumerate())


@pytest.fixture
async def plant():
    async with LanePlant() as plant:
        for edge in (plant.a, plant.b):
            await until(partial(has_lanes, edge))
        assert threads() == 2
        yield plant
        assert plant.a.security == plant.b.security == []
    assert threads() == 0


async def test_bulk_moves_and_a_poll_stays_both_exactly_once(plant):
    port = await listen(plant)
    poll, bulk = await Load.begin(port), await Load.begin(port)
    await poll.echo(12)
    await bulk.until_bulk(plant)
    polling = [poll.echo(12) for _ in range(1)]
    await asyncio.gather(bulk.echo(SOME), *polling)
    for _ in range(50):
        await poll.echo(12)
    assert len(in_bulk(plant.a)) == len(in_bulk(plant.b)) == 1
    assert plant.a.edge.status()["circuits"]["bulk"] == 1
    bulk.writer.write_eof()
    assert await bulk.reader.read() == b""
    await until(lambda: not in_bulk(plant.a) and not in_bulk(plant.b))
    await poll.echo(12)
    for one in (poll, bulk):
        one.writer.close()


async def test_a_lane_that_is_lost_loses_no_byte(plant):
    bulk = await Load.begin(await listen(plant))
    for _ in range(3):
        await bulk.until_bulk(plant)
        echo = asyncio.ensure_future(bulk.echo(4 * SOME))
        await asyncio.sleep(0)
        for edge in (plant.a, plant.b):
            for link in edge.endpoint.lanes.links:
                edge.endpoint.lanes.bulk.post(link.close)
        await echo
        for edge in (plant.a, plant.b):
            await until(partial(has_lanes, edge), 30)
    bulk.writer.close()


async def test_bulk_goes_on_while_the_certificates_of_its_links_are_renewed(plant, monkeypatch):
    """E-08: every link of both edges begins anew with the new certificate, bulk lanes too, one at a time."""
    bulk = await Load.begin(await listen(plant))
    await bulk.until_bulk(plant)
    (stream,) = in_bulk(plant.a)
    before = {
        link
        for edge in (plant.a, plant.b)
        for link in (*edge.endpoint.links(), *edge.endpoint.lanes.links)
    }
    assert len(before) == 6
    for edge in (plant.a, plant.b):
        key = plant.keys[edge.name].key
        chain = plant.pki.chain(key.public, Role.EDGE, edge.name, start=NOW, end=NOW + 30 * DAY)
        assert (await edge.agent.state.renew(key, chain)) != plant.keys[edge.name].leaf
    monkeypatch.setattr("overlay.aio.uplinks.RENEW_BEFORE", 40 * DAY)  # the old ones end soon
    async with asyncio.timeout(60):
        while any(not link.over for link in before) or not all(
            has_lanes(edge) for edge in (plant.a, plant.b)
        ):
            await bulk.echo(SOME)
    assert not stream.closed.done()
    assert stream.core.resumes > 0
    bulk.writer.close()


@pytest.mark.parametrize("side", ["edge-a", "edge-b"])
async def test_the_local_switch_cuts_a_circuit_in_a_lane(plant, side):
    bulk = await Load.begin(await listen(plant))
    await bulk.until_bulk(plant)
    await plant.edges[side].edge.pull("smoke")
    assert not [one for one in plant.edges[side].endpoint.streams() if one.grant is not None]
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError, RuntimeError)):  # uvloop
        await bulk.echo(SOME)
    await until(lambda: not in_bulk(plant.a) and not in_bulk(plant.b))
    bulk.writer.close()


@pytest.mark.parametrize("side", ["edge-a", "edge-b"])
@pytest.mark.parametrize(
    "lists",
    [
        {"kills": (Kill(b"k" * 16, "service", SERVICE, "smoke", 0, 0),)},
        {"kills": (Kill(b"k" * 16, "plant", "", "smoke", 0, 0),)},
        {"revoked": (Revocation("edge-a", 9), Revocation("edge-b", 9))},
    ],
    ids=["service", "plant", "revoked"],
)
async def test_what_the_plant_stops_is_cut_in_a_lane(plant, side, lists):
    bulk = await Load.begin(await listen(plant))
    await bulk.until_bulk(plant)
    plant.edges[side].agent.holdings.offer(plant.authority(version=2, **lists))
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError, RuntimeError)):  # uvloop
        while True:
            await bulk.echo(SOME)
    await until(lambda: not in_bulk(plant.a) and not in_bulk(plant.b))
    bulk.writer.close()
    with contextlib.suppress(ConnectionError):
        await bulk.writer.wait_closed()
