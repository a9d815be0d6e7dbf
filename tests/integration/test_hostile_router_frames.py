"""One frame of each sealed kind, flipped, repeated, put in another order or dropped by a router, in either direction.

Where the protocol says *found*, the receiver's recorder has it, and the circuit is over at both ends (C-22). Where it says
*bounded*, the test says by what. In no case does the asset or the application get a byte twice or out of order.
"""

import asyncio
import contextlib
from collections.abc import Callable

import pytest

from overlay.aio.circuit_roles import Refused
from overlay.aio.circuit_stream import CircuitStream
from overlay.errors import Code
from overlay.wire.bodies import DATAGRAMS, Open, OpenIntent
from overlay.wire.codec import decode
from overlay.wire.header import Header, Kind
from tests.support.honest import DATAGRAM_SERVICE, SERVICE, STRICT_SERVICE, until
from tests.support.hostile import HostilePlant, echoed, reworded

STREAM = frozenset({Kind.DATA, Kind.CHECKPOINT, Kind.CLOSE})
CONTROL = frozenset({Kind.READY, Kind.REFUSE, Kind.CREDIT, Kind.RESUME})
CHECKPOINT = 0.15
"""Seconds after which a checkpoint and its acknowledgement have passed."""

TOWARDS = pytest.mark.parametrize("towards", ["edge-a", "edge-b"])


def flip(payload: bytes, place: int) -> bytes:
    return payload[:place] + bytes((payload[place] ^ 0x10,)) + payload[place + 1 :]


class Meddler:
    """Does something to one frame of a kind that goes to `towards`, the one after `skip` others."""

    def __init__(self, kind: Kind, towards: str, how: str, skip: int = 0) -> None:
        self.kind = kind
        self.towards = towards
        self.how = how
        self.done = False
        self._skip = skip
        self._held: tuple[Header, bytes] | None = None

    def __call__(self, router, link, header, payload):
        if link.name == self.towards:
            return None
        if self._held is not None and self._same_key(header.kind):
            held, self._held = self._held, None
            self.done = True
            return [(header, payload), held]
        if header.kind is not self.kind or self.done or self._held is not None:
            return None
        if self._skip:
            self._skip -= 1
            return None
        if self.how == "reordered":
            self._held = (header, payload)
            return []
        self.done = True
        return {
            "flipped": [(header, flip(payload, len(payload) // 2))],
            "tag flipped": [(header, flip(payload, len(payload) - 1))],
            "repeated": [(header, payload), (header, payload)],
            "dropped": [],
            "renumbered": [(header._replace(sequence=header.sequence + 1), payload)],
            "shortened": [(header._replace(length=len(payload) - 1), payload[:-1])],
        }[self.how]

    def _same_key(self, kind: Kind) -> bool:
        return any(
            kind in keys and self.kind in keys for keys in (STREAM, CONTROL, {Kind.DATAGRAM})
        )


async def closing(stream: CircuitStream) -> Code:
    async with asyncio.timeout(5):
        return (await stream.closed).code


def both_ways(plant: HostilePlant, towards: str):
    return (plant.a, plant.b) if towards == "edge-a" else (plant.b, plant.a)


async def begin(plant: HostilePlant, service: str = SERVICE) -> tuple[CircuitStream, CircuitStream]:
    """A circuit that has run for a while: both ends of it."""
    stream = await plant.a.dial(service)
    assert await echoed(stream, b"begun.")
    await until(plant.b.circuits)
    return stream, plant.b.circuits()[0]


async def say(stream: CircuitStream, *words: bytes) -> None:
    with contextlib.suppress(ConnectionResetError):
        for word in words:
            await stream.write(word)


def whole(plant: HostilePlant, said: bytes) -> None:
    """The asset heard the beginning of what was said, and nothing else."""
    assert said.startswith(bytes(plant.asset.told[0]))
    assert len(plant.asset.told) == 1


# --- the stream: every number once, in order (C-20, C-22) ---------------------------------------------


@TOWARDS
@pytest.mark.parametrize("service", [SERVICE, STRICT_SERVICE], ids=["normal", "strict"])
@pytest.mark.parametrize(
    "how", ["flipped", "tag flipped", "repeated", "reordered", "dropped", "renumbered", "shortened"]
)
async def test_data(how: str, service: str, towards: str):
    """Found at once, or by the frame behind it; the sender learns it (C-22, C-44)."""
    async with HostilePlant() as plant:
        stream, host = await begin(plant, service)
        meddler = plant.router.meddle = Meddler(Kind.DATA, towards, how)
        victim, other = both_ways(plant, towards)
        await say(stream, b"one.", b"two.")
        assert await closing(stream) is await closing(host) is Code.TAMPER
        assert meddler.done
        assert victim.noticed() == {"tamper": 1}
        assert other.noticed() == {}
        whole(plant, b"begun.one.two.")
        if towards == "edge-b":
            heard = b"begun.one." if how == "repeated" else b"begun."
            assert plant.asset.told == [heard]
        with pytest.raises(ConnectionResetError):  # an error, not the end of the stream
            while await stream.read():
                pass


@TOWARDS
@pytest.mark.parametrize("how", ["flipped", "tag flipped", "repeated", "reordered", "dropped"])
async def test_checkpoint(how: str, towards: str):
    """C-42: a checkpoint that is wrong ends the circuit; a missing number is found by the next frame."""
    async with HostilePlant() as plant:
        stream, host = await begin(plant)
        meddler = plant.router.meddle = Meddler(Kind.CHECKPOINT, towards, how)
        await say(stream, b"one.")
        await asyncio.sleep(CHECKPOINT)
        await say(stream, b"two.")
        assert await closing(stream) is await closing(host) is Code.TAMPER
        victim, other = both_ways(plant, towards)
        assert meddler.done
        assert victim.noticed() == {"tamper": 1}
        assert other.noticed() == {}
        whole(plant, b"begun.one.two.")


async def half_close(plant: HostilePlant, stream: CircuitStream, towards: str) -> None:
    if towards == "edge-b":
        stream.end()
    else:
        plant.asset.connections[0].write_eof()
    await asyncio.sleep(0)


@TOWARDS
@pytest.mark.parametrize(("how", "code"), [
    ("flipped", Code.TAMPER), ("tag flipped", Code.TAMPER), ("repeated", Code.PROTOCOL),
    ("renumbered", Code.TAMPER),
])  # fmt: skip
async def test_close(how: str, code: Code, towards: str):
    """C-32, C-41: the end of a direction is sealed, numbered and signed."""
    async with HostilePlant() as plant:
        plant.asset.echoes = False
        stream = await plant.a.dial()
        await until(plant.b.circuits)
        host = plant.b.circuits()[0]
        meddler = plant.router.meddle = Meddler(Kind.CLOSE, towards, how)
        await half_close(plant, stream, towards)
        if how != "repeated" or towards == "edge-a":
            assert await closing(host) is code
            assert await closing(stream) is code
        victim, other = both_ways(plant, towards)
        await until(lambda: victim.security)
        assert meddler.done
        assert victim.noticed() == {"tamper" if code is Code.TAMPER else "refused": 1}
        assert other.noticed() == {}


@TOWARDS
async def test_a_close_that_is_dropped(towards: str):
    """Nobody sees an end that did not come; the circuit stays within its grant, and the next path brings the end (C-60, C-61)."""
    async with HostilePlant() as plant:
        plant.asset.echoes = False
        stream = await plant.a.dial()
        await stream.write(b"one.")
        await until(lambda: plant.asset.told == [b"one."])
        host = plant.b.circuits()[0]
        meddler = plant.router.meddle = Meddler(Kind.CLOSE, towards, "dropped")
        await half_close(plant, stream, towards)
        await until(lambda: meddler.done)
        await asyncio.sleep(CHECKPOINT)
        receiver = stream if towards == "edge-a" else host
        assert not receiver._eof
        assert not stream.closed.done()
        lose_path(plant)
        await until(lambda: receiver._eof)
        assert plant.a.security == plant.b.security == []
        assert plant.asset.told == [b"one."]


# --- the control key: numbers that rise (C-20, C-30) ----------------------------------------------------


@TOWARDS
@pytest.mark.parametrize("how", ["flipped", "tag flipped", "repeated", "reordered", "shortened"])
async def test_credit(how: str, towards: str):
    async with HostilePlant() as plant:
        stream, host = await begin(plant)
        meddler = plant.router.meddle = Meddler(Kind.CREDIT, towards, how)
        for _ in range(2):
            await say(stream, b"one.")
            await asyncio.sleep(CHECKPOINT)
        assert await closing(stream) is await closing(host)
        victim, other = both_ways(plant, towards)
        assert meddler.done
        assert sum(victim.noticed().values()) == 1
        assert victim.noticed() == {"tamper": 1}
        assert other.noticed() == {}
        whole(plant, b"begun.one.one.")


@TOWARDS
async def test_a_credit_that_is_dropped(towards: str):
    """Acknowledgements are cumulative: the next one says it all (C-30)."""
    async with HostilePlant() as plant:
        stream, _ = await begin(plant)
        meddler = plant.router.meddle = Meddler(Kind.CREDIT, towards, "dropped")
        assert await echoed(stream, b"one.")
        await asyncio.sleep(CHECKPOINT)
        assert meddler.done
        assert await echoed(stream, b"two.")
        stream.end()
        assert await stream.read() == b""
        assert await closing(stream) is Code.NORMAL
        assert plant.a.security == plant.b.security == []
        whole(plant, b"begun.one.two.")


@pytest.mark.parametrize("how", ["flipped", "tag flipped", "reordered", "renumbered"])
async def test_ready(how: str):
    """Only READY connects the caller (C-14)."""
    async with HostilePlant() as plant:
        meddler = plant.router.meddle = Meddler(Kind.READY, "edge-a", how)
        stream = plant.a.endpoint.open(SERVICE, plant.grant())
        await say(stream, b"one.")
        with pytest.raises(Refused) as caught:
            await stream.ready()
        assert meddler.done
        assert caught.value.code is Code.TAMPER
        assert plant.a.noticed() == {"tamper": 1}
        assert plant.b.noticed() == {}
        whole(plant, b"one.")


async def test_a_ready_that_is_repeated():
    async with HostilePlant() as plant:
        plant.router.meddle = Meddler(Kind.READY, "edge-a", "repeated")
        stream = plant.a.endpoint.open(SERVICE, plant.grant())
        assert await closing(stream) is Code.TAMPER
        assert plant.a.noticed() == {"tamper": 1}


@pytest.mark.parametrize(("later", "how", "noticed"), [
    (False, "flipped", "refused"), (False, "repeated", "refused"), (True, "repeated", "refused"),
    (True, "flipped", "tamper"),
])  # fmt: skip
async def test_accept(later: bool, how: str, noticed: str):
    """The flight is TLS; the randomness is in the keys: with another one no frame opens (C-11, C-13)."""
    async with HostilePlant() as plant:
        if later:
            await plant.a.dial()
        meddler = plant.router.meddle = Meddler(Kind.ACCEPT, "edge-a", how)
        stream = plant.a.endpoint.open(SERVICE, plant.grant())
        assert await closing(stream) is not Code.NORMAL
        assert meddler.done
        assert plant.a.noticed() == {noticed: 1}
        assert b"".join(plant.asset.told) == b""


@pytest.mark.parametrize("how", ["flipped", "tag flipped", "repeated", "in clear"])
async def test_refuse(how: str):
    """A sealed refusal is believed, one in clear is a lost path after which the sealed one comes again (C-14, C-17)."""
    async with HostilePlant() as plant:
        await plant.asset.close()  # nothing answers at its port
        meddler: Callable = Meddler(Kind.REFUSE, "edge-a", how)
        if how == "in clear":
            seen: list[Header] = []

            def strip(router, link, header, payload):
                if header.kind is Kind.REFUSE and not seen:
                    seen.append(header)
                    return [(header._replace(flags=0), payload)]
                return None

            meddler = strip
        plant.router.meddle = meddler
        with pytest.raises(Refused) as caught:
            await plant.a.dial()
        believed = how in ("repeated", "in clear")
        assert caught.value.code is (Code.UNREACHABLE if believed else Code.TAMPER)
        assert plant.a.noticed() == ({} if believed else {"tamper": 1})
        assert plant.b.noticed() == {}


# --- datagrams: a window, each once (C-20, C-23) ----------------------------------------------------------


@pytest.mark.parametrize(("how", "heard"), [
    ("repeated", [b"one", b"two", b"three"]), ("reordered", [b"one", b"three", b"two"]),
    ("dropped", [b"one", b"three"]),
])  # fmt: skip
async def test_datagrams_may_be_lost_and_come_in_any_order_but_never_twice(
    how: str, heard: list[bytes]
):
    async with HostilePlant() as plant:
        got: list[bytes] = []

        class Device(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                got.append(data)

        address = ("127.0.0.1", plant.asset.port)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Device, local_addr=address
        )
        stream = await plant.a.dial(DATAGRAM_SERVICE, transport=DATAGRAMS)
        plant.router.meddle = Meddler(Kind.DATAGRAM, "edge-b", how, skip=1)
        for word in (b"one", b"two", b"three"):
            stream.send_datagram(word)
        await until(lambda: len(got) >= len(heard))
        await asyncio.sleep(0.05)
        assert got == heard
        assert plant.a.security == plant.b.security == []
        transport.close()


@TOWARDS
@pytest.mark.parametrize("how", ["flipped", "tag flipped", "shortened"])
async def test_a_datagram_that_is_changed(how: str, towards: str):
    async with HostilePlant() as plant:

        class Device(asyncio.DatagramProtocol):
            def connection_made(self, transport) -> None:
                self.transport = transport

            def datagram_received(self, data: bytes, addr) -> None:
                self.transport.sendto(data, addr)

        address = ("127.0.0.1", plant.asset.port)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Device, local_addr=address
        )
        stream = await plant.a.dial(DATAGRAM_SERVICE, transport=DATAGRAMS)
        plant.router.meddle = Meddler(Kind.DATAGRAM, towards, how)
        stream.send_datagram(b"one")
        assert await closing(stream) is Code.TAMPER
        victim, _ = both_ways(plant, towards)
        assert victim.noticed() == {"tamper": 1}
        transport.close()


# --- paths (C-60 to C-62) -----------------------------------------------------------------------------------


def lose_path(plant: HostilePlant) -> None:
    """Both ends of the circuit are told that the path is lost."""
    for router in plant.routers:
        for link, number in [hop for hop in router.table if hop not in router._quiet]:
            router.table.pop((link, number), None)
            link.send(Kind.RESET, number, b"")


@pytest.mark.parametrize("how", ["flipped", "renumbered", "another grant"])
async def test_a_resume_that_is_changed_costs_its_hop_only(how: str):
    """The host refuses it and says so in its audit; the caller tries again and nothing is lost (C-61, C-62)."""
    async with HostilePlant() as plant:
        stream, _ = await begin(plant)
        changed: list[Header] = []

        def change(router, link, header, payload):
            if header.kind is not Kind.RESUME or link.name != "edge-a" or changed:
                return None
            changed.append(header)
            if how == "flipped":
                return [(header, flip(payload, payload.index(b"edge-a") - 20))]
            if how == "another grant":
                return [(header, reworded(payload, grant=longer))]
            return [(header._replace(sequence=header.sequence + 1), payload)]

        longer = plant.grant(conduit="c2", hold_until=plant.now() + 10**15)
        plant.router.meddle = change
        lose_path(plant)
        assert await echoed(stream, b"one.")
        assert changed
        assert plant.b.noticed() == {"tamper": 1}
        assert plant.a.noticed() == {}
        whole(plant, b"begun.one.")


@pytest.mark.parametrize(("how", "noticed", "code"), [
    ("flipped", "tamper", Code.TAMPER), ("repeated", "tamper", Code.TAMPER), ("dropped", "refused", Code.PROTOCOL),
])  # fmt: skip
async def test_the_answer_to_a_resume(how: str, noticed: str, code: Code):
    """C-61: the caller goes on exactly as the answer says, or not at all."""
    async with HostilePlant() as plant:
        stream, host = await begin(plant)

        def change(router, link, header, payload):
            if header.kind is not Kind.RESUME or link.name != "edge-b":
                return None
            if how == "dropped":
                return []
            return (
                [(header, payload)] * 2
                if how == "repeated"
                else [(header, flip(payload, len(payload) - 5))]
            )

        plant.router.meddle = change
        lose_path(plant)
        plant.asset.connections[0].write(b"answer")
        assert await closing(stream) is code
        assert plant.a.noticed() == {noticed: 1}
        assert plant.b.noticed() == {}
        if how == "repeated":
            assert await closing(host) is code
        whole(plant, b"begun.")


# --- OPEN, every byte of it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [False, True], ids=["first circuit", "later circuit"])
async def test_an_open_with_any_byte_changed_executes_nothing(later: bool):
    """C-10 to C-12, P-11. Only `route` and `path` are the routers' own."""
    async with HostilePlant() as plant:
        if later:
            await plant.a.dial()
        before = len(plant.asset.told)
        plant.router.meddle = lambda router, link, header, payload: (
            [] if header.kind is Kind.OPEN else None
        )
        attempt = plant.a.endpoint.open(SERVICE, plant.grant(), early=b"write coil")
        await until(lambda: len(plant.router.passed(Kind.OPEN, "edge-a")) == 1 + later)
        payload = plant.router.passed(Kind.OPEN, "edge-a")[-1][1]
        body = decode(Open, payload)
        assert decode(OpenIntent, body.intent).service == SERVICE
        sealed = payload.index(body.early if later else body.flight) + len(
            body.early if later else body.flight
        )
        answers = len([one for one in plant.router.seen if one[0].name == "edge-b"])
        places = range(0, sealed, 1 if later else 11)
        for place in places:
            plant.router.open(plant.router.links["edge-b"], flip(payload, place))
        await until(
            lambda: (
                len([one for one in plant.router.seen if one[0].name == "edge-b"])
                >= answers + len(places)
            ),
            20,
        )
        await asyncio.sleep(0.05)
        assert len(plant.asset.told) == before
        assert plant.b.carried == before
        if later:
            assert plant.router.passed(Kind.ACCEPT, "edge-b")[1:] == []
        attempt.abort(Code.NORMAL, "")
