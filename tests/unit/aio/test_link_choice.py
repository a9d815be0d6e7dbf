"""Which router an edge's circuits go by (C-66)."""

import asyncio
from typing import Any

import pytest

from overlay.aio.circuit_roles import Refused
from overlay.circuit.link_choice import FAILED_SECONDS
from overlay.errors import Code
from overlay.identity.certificate import Role
from overlay.wire.bodies import Refusal
from overlay.wire.codec import encode
from overlay.wire.header import Kind
from tests.support.circuits import MINUTE, Plant
from tests.support.pki import NOW
from tests.unit.aio.test_endpoint import story

SERVICE = "plc-b.modbus"


def put_away(plant: Plant, *latencies: float) -> None:
    """How far edge-a is from each router (seconds, one way)."""
    for router, latency in zip(plant.routers, latencies, strict=True):
        link = router.links["edge-a"]
        link.latency = link.other.latency = latency


def used(plant: Plant) -> list[bool]:
    """Which routers carry circuits."""
    return [bool(router.table) for router in plant.routers]


def chosen(*latencies: float) -> list[bool]:
    """The router that the first circuit goes by."""

    async def test(plant: Plant):
        put_away(plant, *latencies)
        await plant.a.endpoint.dial(SERVICE, plant.grant())
        return used(plant)

    return story(test, routers=len(latencies))


def test_the_nearer_router_is_taken_whichever_was_there_first():
    assert chosen(0.1, 0.0005) == [False, True]
    assert chosen(0.0005, 0.1) == [True, False]


def test_routers_that_are_equally_near_are_not_told_apart_by_jitter():
    assert chosen(0.0001, 0.0009) == chosen(0.0009, 0.0001)


def test_a_router_that_says_that_it_is_busy_counts_as_further_away():
    """F-17."""

    async def test(plant: Plant):
        put_away(plant, 0.0005, 0.0005)
        await plant.a.endpoint.dial(SERVICE, plant.grant())
        first, other = sorted(plant.routers, key=lambda one: not one.table)
        first.links["edge-a"].other.load = 1
        await plant.a.endpoint.dial(SERVICE, plant.grant())
        assert [len(one.table) for one in (first, other)] == [2, 2], "what runs there stays"
        other.links["edge-a"].other.load = 2
        await plant.a.endpoint.dial(SERVICE, plant.grant())
        assert [len(one.table) for one in (first, other)] == [4, 2]

    story(test, routers=2)


def test_a_router_that_was_silent_is_passed_over_for_a_while_and_not_for_ever():
    async def test(plant: Plant):
        put_away(plant, 0.1, 0.0005)
        near = plant.routers[1]
        near.meddle = lambda *_: []
        await plant.a.endpoint.dial(SERVICE, plant.grant())
        assert used(plant) == [True, False]
        near.meddle = None
        await plant.a.endpoint.dial(SERVICE, plant.grant())
        assert used(plant) == [True, False], "it has just failed"
        await asyncio.sleep(FAILED_SECONDS)
        await plant.a.endpoint.dial(SERVICE, plant.grant())
        assert used(plant) == [True, True]

    story(test, routers=2)


def test_a_refusal_sends_the_next_attempt_elsewhere_and_other_services_nowhere():
    """Its router may lie, so it is asked last for this service; of the link the refusal says nothing."""

    async def test(plant: Plant):
        put_away(plant, 0.1, 0.0005)
        asked: list[Any] = []

        def refuse(router, link, header, payload):
            if header.kind is Kind.OPEN:
                asked.append(router)
                link.send(Kind.REFUSE, header.circuit, encode(Refusal(Code.NO_GRANT, "no")))
                return []
            return None

        for router in plant.routers:
            router.meddle = refuse

        async def ask(service: str) -> Any:
            with pytest.raises(Refused):
                await plant.a.endpoint.dial(service, plant.grant(service=service))
            return asked[-1]

        far, near = plant.routers
        assert await ask(SERVICE) is near
        assert await ask(SERVICE) is far
        assert await ask(SERVICE) is near
        assert await ask("drive-b.opcua") is near
        await asyncio.sleep(FAILED_SECONDS)
        assert await ask(SERVICE) is near

    story(test, routers=2)


def test_a_circuit_whose_link_was_asked_for_goes_on_over_another_that_leads_to_the_host():
    """Its link lives, but the way behind it is lost: a control circuit kept asking there until it was given up."""

    async def test(plant: Plant):
        first, _ = plant.routers
        (link,) = (one for one in plant.a.endpoint.links() if one.name == first.name)
        put_away(plant, 0.01, 0.0005)
        stream = await plant.a.endpoint.dial(SERVICE, plant.grant(), links=[link])
        assert used(plant) == [True, False]
        first.links["edge-b"].cut()
        await asyncio.sleep(1.0)
        assert used(plant) == [False, True]
        assert stream.is_open
        assert not link.over

    story(test, routers=2)


def test_no_association_is_used_once_the_own_certificate_has_ended():
    """C-03: no host would take it, but a controller takes a handshake (I-05)."""

    async def test(plant: Plant):
        plant.a.credentials = plant.pki.node(Role.EDGE, "edge-a", end=NOW + MINUTE)
        await plant.a.endpoint.dial(SERVICE, plant.grant())
        callers = plant.a.endpoint._callers
        assert callers.find(("edge-b",)) is not None
        await asyncio.sleep(61)
        assert callers.find(("edge-b",)) is None

    story(test)
