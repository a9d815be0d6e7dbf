"""A router that makes up frames of a circuit, or takes them from elsewhere: acknowledgements, credit, ends, READY, REFUSE.

All of them are sealed with keys that it never has: the first that does not open ends the circuit and is a security event
of whoever got it (C-20 to C-23). What is not of the circuit at all costs the link (L-10, L-20, L-30 to L-34).
"""

import asyncio
import time

import pytest

from overlay import limits
from overlay.aio.circuit_roles import Refused
from overlay.aio.circuit_stream import CircuitStream
from overlay.audit.event import EventName
from overlay.circuit.circuit import Circuit
from overlay.errors import Code
from overlay.wire.bodies import DATAGRAMS, Hello
from overlay.wire.codec import encode
from overlay.wire.header import Flag, Header, Kind
from tests.support.honest import DATAGRAM_SERVICE, until
from tests.support.hostile import HostilePlant, echoed, reworded
from tests.support.meddling import begin, both_ways, closing

TOWARDS = pytest.mark.parametrize("towards", ["edge-a", "edge-b"])
SIZES = {
    Kind.DATA: 32, Kind.CHECKPOINT: 128, Kind.CLOSE: 129, Kind.CREDIT: 32, Kind.READY: 18, Kind.REFUSE: 20,
    Kind.DATAGRAM: 32,
}  # fmt: skip
FAR = (1 << 62, (1 << 64) - 1, 1 << 20, 2 << 20)


def forge(
    plant: HostilePlant,
    towards: str,
    kind: Kind,
    sequence: int,
    *,
    flags: int = 0,
    payload: bytes | None = None,
) -> None:
    link, number = plant.router.hop(towards)
    data = bytes(SIZES[kind]) if payload is None else payload
    plant.router.put(link, Header(kind, flags, len(data), number, sequence), data)


def core_of(stream: CircuitStream) -> Circuit:
    assert stream.core is not None
    return stream.core


async def assert_found(
    plant: HostilePlant, stream, host, towards: str, heard: bytes = b"begun."
) -> None:
    """The one that got it has ended the circuit and recorded it; nothing was delivered."""
    code = await closing(stream)
    assert code in (Code.TAMPER, Code.PROTOCOL)
    assert await closing(host) is code
    victim, other = both_ways(plant, towards)
    assert victim.noticed() == {"tamper" if code is Code.TAMPER else "refused": 1}
    assert other.noticed() == {}
    assert plant.asset.told == [heard]
    if towards == "edge-a":
        with pytest.raises(ConnectionResetError):  # no forged end of the stream
            await stream.read()


@TOWARDS
@pytest.mark.parametrize("kind", [Kind.DATA, Kind.CHECKPOINT, Kind.CLOSE, Kind.CREDIT])
async def test_what_is_made_up_is_found(kind: Kind, towards: str):
    async with HostilePlant() as plant:
        stream, host = await begin(plant)
        core = core_of(stream if towards == "edge-a" else host)
        expected = (
            core._controls.expected if kind is Kind.CREDIT else core._receiving._opener.expected
        )
        forge(plant, towards, kind, expected)  # the right number, at that
        await assert_found(plant, stream, host, towards)


@TOWARDS
@pytest.mark.parametrize("kind", [Kind.DATA, Kind.CHECKPOINT, Kind.CREDIT])
async def test_what_an_end_said_itself_is_not_taken_for_the_other(kind: Kind, towards: str):
    """Each direction has keys of its own (C-11)."""
    async with HostilePlant() as plant:
        stream, host = await begin(plant)
        await until(lambda: plant.router.passed(kind, towards))
        header, payload = plant.router.passed(kind, towards)[-1]
        forge(plant, towards, kind, header.sequence, payload=payload)
        await assert_found(plant, stream, host, towards)


@TOWARDS
@pytest.mark.parametrize("kind", [Kind.DATA, Kind.CHECKPOINT, Kind.CREDIT])
async def test_what_belongs_to_another_circuit_is_not_taken(kind: Kind, towards: str):
    """Keys depend on the intent and on both sides' randomness, also within an association (C-11)."""
    async with HostilePlant() as plant:
        other, _ = await begin(plant)
        source = "edge-b" if towards == "edge-a" else "edge-a"
        begun = len(plant.router.passed(kind, source))
        assert await echoed(other, b"more to say.")
        await until(lambda: len(plant.router.passed(kind, source)) > begun)
        header, payload = plant.router.passed(kind, source)[-1]
        stream, host = await begin(plant)
        core = core_of(stream if towards == "edge-a" else host)
        expected = (
            core._controls.expected if kind is Kind.CREDIT else core._receiving._opener.expected
        )
        forge(
            plant,
            towards,
            kind,
            max(expected, header.sequence if kind is Kind.CREDIT else 0),
            payload=payload,
        )
        code = await closing(stream)
        assert code is await closing(host) is Code.TAMPER
        victim, _ = both_ways(plant, towards)
        assert victim.noticed() == {"tamper": 1}
        assert plant.asset.told == [b"begun.more to say.", b"begun."]
        assert await echoed(other, b"untouched")


async def test_a_forged_ready_connects_nobody():
    """Only the host's sealed READY does (C-14)."""
    async with HostilePlant() as plant:

        def instead(router, link, header, payload):
            if header.kind is not Kind.READY:
                return None
            return [(header, bytes(len(payload)))]

        plant.router.meddle = instead
        with pytest.raises(Refused) as caught:
            await plant.a.dial()
        assert caught.value.code is Code.TAMPER
        assert plant.a.noticed() == {"tamper": 1}


async def test_a_ready_before_keys_exist_connects_nobody():
    async with HostilePlant() as plant:

        def instead(router, link, header, payload):
            if header.kind is not Kind.OPEN:
                return None
            router.put(link, Header(Kind.READY, 0, 18, header.circuit, 0), bytes(18))
            return []

        plant.router.meddle = instead
        with pytest.raises(Refused) as caught:
            await plant.a.dial()
        assert caught.value.code is Code.PROTOCOL
        assert plant.a.noticed() == {"refused": 1}
        assert plant.asset.told == []


@pytest.mark.parametrize("sealed", [True, False])
async def test_a_forged_refuse_in_a_circuit_that_runs(sealed: bool):
    """In clear it is no more than a lost path; what claims to be sealed must open (C-14)."""
    async with HostilePlant() as plant:
        stream, host = await begin(plant)
        if sealed:
            forge(plant, "edge-a", Kind.REFUSE, 9, flags=int(Flag.SEALED))
            assert await closing(stream) is Code.TAMPER
            assert plant.a.noticed() == {"tamper": 1}
            # A refused hop is free again (L-21): the host is without a path, for 30 s at most (C-63).
            await until(lambda: host.core is not None and host.core.suspended)
            assert plant.b.security == []
        else:
            forge(plant, "edge-a", Kind.REFUSE, 0)
            plant.router.table.clear()
            assert await echoed(stream, b"one.")
            assert plant.a.security == []


@TOWARDS
@pytest.mark.parametrize("sequence", FAR)
@pytest.mark.parametrize("kind", [Kind.DATA, Kind.CHECKPOINT, Kind.CLOSE, Kind.CREDIT])
async def test_a_number_far_ahead_is_found_at_once(kind: Kind, sequence: int, towards: str):
    """At most one key is derived for it, and none is moved on to (C-23)."""
    async with HostilePlant() as plant:
        stream, host = await begin(plant)
        core = core_of(stream if towards == "edge-a" else host)
        began = time.process_time()
        forge(plant, towards, kind, sequence)
        await assert_found(plant, stream, host, towards)
        assert time.process_time() - began < 0.5
        assert core._controls._opener._epoch == core._receiving._opener._epoch == 0


async def test_datagrams_far_ahead_are_dropped_without_a_trace():
    """Lost datagrams are nothing new; a thousand of them cost next to nothing (C-23)."""
    async with HostilePlant() as plant:
        stream = await plant.a.dial(DATAGRAM_SERVICE, transport=DATAGRAMS)
        host = plant.b.circuits()[0]
        stream.send_datagram(b"first")
        began = time.process_time()
        for number in range(1000):
            forge(plant, "edge-b", Kind.DATAGRAM, (1 << 62) + number)
            if number % 50 == 0:  # what waits on a link is bounded: the oldest would give way
                await asyncio.sleep(0)
        await until(lambda: host.core is not None and host.core.datagrams.dropped == 1000)
        assert time.process_time() - began < 1
        assert not host.closed.done()
        assert plant.b.security == []


# --- what is not of the circuit at all ----------------------------------------------------------------


async def lose_link(plant: HostilePlant, towards: str, what, code: Code, event: EventName) -> None:
    """The edge ends the link, says why, records it, and is back in a moment; its circuit goes on."""
    stream, _ = await begin(plant)
    victim, other = both_ways(plant, towards)
    link = plant.router.links[towards]
    what(link)
    await until(lambda: link.over)
    assert link.end[0] is code
    await until(lambda: victim.events(event))
    assert sum(victim.noticed().values()) == 1
    assert other.noticed() == {}
    assert await echoed(stream, b"one.")
    assert plant.b.carried == 1
    assert plant.asset.told == [b"begun.one."]


@TOWARDS
@pytest.mark.parametrize("kind", [Kind.DATA, Kind.DATAGRAM, Kind.CREDIT, Kind.OPEN, Kind.CONTROL])
async def test_a_frame_above_its_limit_costs_the_link(kind: Kind, towards: str):
    """Nothing is buffered for it: the header alone ends the link (L-10, L-15)."""
    async with HostilePlant() as plant:

        def send(link) -> None:
            plant.router.put(link, Header(kind, 0, 0, 2, 0), bytes(limits.MAX_PAYLOAD[kind] + 1))

        await lose_link(plant, towards, send, Code.TAMPER, EventName.SECURITY_TAMPER)


CRIMES = {
    "wrong parity": (Kind.OPEN, 1001),
    "a number that was never opened": (Kind.DATA, 4000),
    "circuit 0": (Kind.OPEN, 0),
    "a second Hello": (Kind.CONTROL, 0),
    "a ping of a circuit": (Kind.PING, 7),
    "a ping of another size": (Kind.PING, 0),
    "rubbish": (Kind.CONTROL, 0),
}


@TOWARDS
@pytest.mark.parametrize("crime", CRIMES)
async def test_what_a_link_does_not_allow_costs_the_link(crime: str, towards: str):
    """L-20, L-30, L-31."""
    async with HostilePlant() as plant:
        kind, number = CRIMES[crime]

        def send(link) -> None:
            payload = {
                "a second Hello": encode(Hello(bytes(16), 0, 1, "x")), "a ping of another size": b"123",
                "rubbish": b"\xc1\xc1", "a ping of a circuit": bytes(8),
            }.get(crime, bytes(40))  # fmt: skip
            plant.router.put(link, Header(kind, 0, 0, number, 0), payload)

        await lose_link(plant, towards, send, Code.PROTOCOL, EventName.SECURITY_REFUSED)


async def test_an_edge_that_is_flooded_with_openings_answers_and_lives():
    """Rubbish is refused one by one; a handshake per grant and link is going on at most, and the real caller gets through (C-05, P-11)."""
    async with HostilePlant(routers=2) as plant:
        stream, _ = await begin(plant)
        link = plant.router.links["edge-b"]
        opening = plant.routers[0].passed(Kind.OPEN, "edge-a") or plant.routers[1].passed(
            Kind.OPEN, "edge-a"
        )
        payload = opening[0][1]
        for number in range(2000):
            name = number.to_bytes(16, "big")
            plant.router.open(
                link, b"\xc1" if number % 2 else reworded(payload, association=name, circuit=name)
            )
        going_on = set()  # seen in each turn: the one that waits for its caller ends after a while

        def refused() -> bool:
            going_on.add(len(plant.b.endpoint._hosting._handshakes))
            return len(plant.router.passed(Kind.REFUSE, "edge-b")) >= 1999

        await until(refused, 10)
        codes = {one.code for one in plant.router.refusals("edge-b")}
        assert codes == {Code.PROTOCOL, Code.BUSY}
        assert max(going_on) == 1
        assert plant.b.carried == 1
        assert await echoed(stream, b"one.")
        assert await echoed(await plant.a.dial(), b"two.")
