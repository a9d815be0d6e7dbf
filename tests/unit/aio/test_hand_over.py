"""Connections of other lanes go to who serves them, with what was read of them and within the bounds of L-04."""

import asyncio

import pytest

from overlay import limits
from overlay.aio.link_listener import LinkListener
from overlay.errors import DecodeError
from overlay.identity.trust import Credentials
from overlay.link.opening import Opening, lane_of
from tests.support.links import EDGE, ROUTER, Notes, now
from tests.support.simulation import Simulation

PREAMBLE = b"FRL1\x02" + bytes(16)


class Door:
    """A listener on express that hands lane 2 on; the other hand keeps what it gets."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.world = sim.host("router").world
        self.given: list[tuple[int, bytes, float]] = []
        self.overs: list = []
        self.connections: list = []
        self.failed: list[str] = []
        self.credentials = ROUTER
        self.listener = LinkListener(
            self.world, lambda: self.credentials, Notes(), now, bulk_lanes=2, hand_over=self.take,
            failed=lambda _, error: self.failed.append(str(error)),
        )  # fmt: skip

    def take(self, lane, connection, received, left, over) -> bool:
        if lane != 2:
            return False
        self.given.append((lane, received, left))
        self.overs.append(over)
        self.connections.append(connection)
        return True

    async def knock(self, data: bytes, source: str = "edge"):
        connection = await self.sim.host(source).world.net.connect("router", 8441)
        connection.write([data])
        await asyncio.sleep(0.01)
        return connection


def run(tell) -> None:
    sim = Simulation()

    async def story():
        door = Door(sim)
        await door.listener.listen("router", 8441)
        await tell(door)
        door.listener.close()
        await asyncio.sleep(0.1)

    sim.run(story())


def test_a_lane_is_handed_on_with_no_more_than_its_first_bytes_read():
    async def tell(door: Door):
        await door.knock(PREAMBLE + b"the ClientHello")
        ((lane, received, left),) = door.given
        assert (lane, received) == (2, PREAMBLE)
        assert 4.5 < left <= limits.HANDSHAKE_SECONDS
        assert door.listener._handshakes.used == 1, "it keeps its place"
        door.overs[0](True)
        assert door.listener._handshakes.used == 0
        assert "edge" in door.listener._handshakes._welcome

    run(tell)


@pytest.mark.parametrize("data", [b"FRL1\x03" + bytes(16), b"FRL2", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_lane_that_does_not_exist_and_what_is_no_link_is_closed(data: bytes):
    async def tell(door: Door):
        await door.knock(data)
        assert door.given == []
        assert len(door.failed) == 1
        assert door.listener._handshakes.used == 0

    run(tell)


def test_a_slow_beginning_costs_its_time_and_its_place_and_no_more():
    async def tell(door: Door):
        for _ in range(limits.HANDSHAKES_PER_SOURCE + 5):
            await door.knock(PREAMBLE[:7])
        assert door.listener._handshakes.used == limits.HANDSHAKES_PER_SOURCE
        assert door.listener.refused == 5
        await asyncio.sleep(limits.HANDSHAKE_SECONDS)
        assert door.listener._handshakes.used == 0
        assert door.given == []

    run(tell)


def test_all_addresses_of_an_ipv6_subnet_count_as_one_source():
    """L-04: a host may take any of them, and would have as many handshakes as it likes."""

    async def tell(door: Door):
        for number in range(limits.HANDSHAKES_PER_SOURCE + 5):
            await door.knock(PREAMBLE[:7], f"2001:db8:1:2::{number:x}")
        assert door.listener._handshakes.used == limits.HANDSHAKES_PER_SOURCE
        await door.knock(PREAMBLE[:7], "2001:db8:1:3::1")
        assert door.listener._handshakes.used == limits.HANDSHAKES_PER_SOURCE + 1

    run(tell)


def test_connections_that_were_handed_on_count_until_they_are_over():
    async def tell(door: Door):
        for _ in range(limits.HANDSHAKES_PER_SOURCE + 5):
            await door.knock(PREAMBLE)
        assert len(door.given) == limits.HANDSHAKES_PER_SOURCE
        assert door.listener.refused == 5
        for over in door.overs:
            over(False)
        assert door.listener._handshakes.used == 0

    run(tell)


def test_express_goes_on_where_it_began():
    from overlay.aio.dialer import dial_link

    async def tell(door: Door):
        host = door.sim.host("edge")
        link = await host.task(dial_link(host.world, "router", 8441, EDGE, Notes(), now=now))
        assert link.hello.bulk_lanes == 2
        assert door.given == []

    run(tell)


def test_the_lane_is_read_from_every_beginning():
    assert [lane_of(PREAMBLE[:size]) for size in range(21)] == [None] * 21
    assert lane_of(PREAMBLE + b"more") == 2
    assert lane_of(b"\x16\x03") == 0
    with pytest.raises(DecodeError):
        lane_of(b"FRX")


def test_whom_a_router_turns_away_that_enrols_just_then_is_no_security_event():
    """The controller dials again at once when it has signed the certificate, which is not on the router's disk yet."""

    async def tell(door: Door):
        door.credentials = Credentials.newcomer(ROUTER.anchor, ROUTER.key)
        said = Opening(EDGE, "header", now(), lambda _: None).pending()
        begun = await door.knock(said[: len(PREAMBLE)])
        door.credentials = ROUTER
        begun.write([said[len(PREAMBLE) :]])
        await asyncio.sleep(0.01)
        assert door.failed == []
        assert door.listener._handshakes.used == 0

    run(tell)
