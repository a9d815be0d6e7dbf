"""ICMP echo through the overlay (C-80 to C-83): under any grant to the asset, answered by the asset alone."""

import asyncio
from typing import Any

from edge.host.echo import MAX_ECHO, PENDING, Echo, Waiting, read_echo
from overlay.wire.bodies import DATAGRAMS, ECHO_SERVICE
from tests.support.edges import ASSET, Plant, story


class Pinged:
    """The asset, as far as ICMP goes."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bytes]] = []
        self.replied: Any = None
        self.host = ""
        self.answers = True
        self.closed = False
        self.refuses: OSError | None = None

    async def open(self, host, replied):
        if self.refuses is not None:
            raise self.refuses
        self.host, self.replied = host, replied
        return self

    def send(self, sequence: int, payload: bytes) -> None:
        self.asked.append((sequence, payload))
        if self.answers:
            self.replied(sequence, payload)

    def close(self) -> None:
        self.closed = True


async def echo(plant: Plant, *sent: bytes, wait: float = 0.1) -> list[bytes]:
    """What comes back for these datagrams."""
    stream = plant.a.calling.echo("hmi-a", "plc-b")
    assert stream is not None
    for data in sent:
        stream.send_datagram(data)
    await asyncio.sleep(wait)
    got = []
    while stream._arrived:
        got.append(await stream.receive_datagram())
    stream.end()
    await asyncio.sleep(0.1)
    return got


def test_the_asset_is_asked_under_a_grant_for_any_of_its_services():
    async def test(plant: Plant):
        pinged = Pinged()
        plant.b.hosting._ping = pinged.open
        plant.allow()  # for TCP to plc-b.modbus
        request = Echo(7, 3, b"ping").encode()
        assert await echo(plant, request) == [request]
        assert pinged.host == ASSET, "C-81: where the service of the grant is"
        assert [payload for _, payload in pinged.asked] == [b"ping"]
        assert pinged.closed
        opened = plant.b.agent.of("circuit.open", "allowed")[0]
        closed = plant.b.agent.of("circuit.close")[0]
        for record in (opened, closed):
            assert (record["service"], record["asset"], record["address"]) == (
                "_echo", "plc-b", ASSET
            )  # fmt: skip

    story(test)


def test_without_any_grant_to_the_asset_nothing_leaves_and_it_is_recorded():
    async def test(plant: Plant):
        assert plant.a.calling.echo("hmi-a", "plc-b") is None
        denied = plant.a.agent.of("circuit.open", "denied")[0]
        assert (denied["who"], denied["service"], denied["asset"]) == ("hmi-a", "_echo", "plc-b")
        assert plant.router.seen == []
        plant.allow()
        assert plant.a.calling.echo("hmi-b", "plc-b") is None, "a grant of somebody else"
        assert plant.a.calling.echo("hmi-a", "plc-c") is None, "a grant to something else"

    story(test)


def test_silence_of_the_asset_is_silence_and_what_it_says_unasked_goes_nowhere():
    async def test(plant: Plant):
        pinged = Pinged()
        pinged.answers = False
        plant.b.hosting._ping = pinged.open
        plant.allow()
        stream = plant.a.calling.echo("hmi-a", "plc-b")
        stream.send_datagram(Echo(7, 3, b"ping").encode())
        await asyncio.sleep(0.1)
        sequence = pinged.asked[0][0]
        pinged.replied(sequence + 1, b"ping")
        pinged.replied(sequence, b"pong")
        await asyncio.sleep(0.1)
        assert not stream._arrived
        pinged.replied(sequence, b"ping")
        pinged.replied(sequence, b"ping")
        await asyncio.sleep(0.1)
        assert len(stream._arrived) == 1, "C-82: each once"

    story(test)


def test_an_edge_that_may_not_ping_says_so():
    async def test(plant: Plant):
        pinged = Pinged()
        pinged.refuses = PermissionError(1, "this edge may not ping")
        plant.b.hosting._ping = pinged.open
        plant.allow()
        assert await echo(plant, b"\0\0\0\0") == []
        assert "may not ping" in plant.b.agent.of("circuit.open", "failed")[0]["reason"]

    story(test)


def test_an_echo_circuit_ends_with_its_grant():
    async def test(plant: Plant):
        pinged = Pinged()
        plant.b.hosting._ping = pinged.open
        grant = plant.allow()
        stream = plant.a.calling.echo("hmi-a", "plc-b")
        await stream.ready()
        plant.a.granted([], [grant])
        await asyncio.sleep(0.1)
        assert stream.closed.done()
        assert pinged.closed

    story(test)


def test_a_stream_or_a_port_is_no_echo():
    async def test(plant: Plant):
        plant.b.hosting._ping = Pinged().open
        plant.allow()
        held = plant.a.book.pick_any("hmi-a", "plc-b", lambda _: None)
        for options in ({"transport": 0}, {"transport": DATAGRAMS, "port": 502}):
            stream = plant.a.endpoint.open(ECHO_SERVICE, held.signed, **options)
            await asyncio.sleep(0.1)
            assert stream.closed.done()
            assert "echo requests are datagrams" in stream.closed.result().reason

    story(test)


def test_what_waits_is_bounded_and_what_is_too_long_is_no_request():
    waiting = Waiting()
    first = waiting.asked(Echo(1, 1, b"x"))
    for number in range(PENDING):
        waiting.asked(Echo(1, number, b"x"))
    assert len(waiting) == PENDING
    assert waiting.answered(first, b"x") is None
    assert read_echo(bytes(4 + MAX_ECHO)) is not None
    assert read_echo(bytes(5 + MAX_ECHO)) is None
    assert read_echo(b"\0\0\0") is None
