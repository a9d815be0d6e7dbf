"""One frame of each sealed kind, flipped, repeated, put in another order or dropped by a router, in either direction.

Where the protocol says *found*, the receiver's recorder has it, and the circuit is over at both ends (C-22). Where it says
*bounded*, the test says by what. In no case does the asset or the application get a byte twice or out of order.
"""

import asyncio
from collections.abc import Callable

import pytest

from overlay.aio.circuit_roles import Refused
from overlay.aio.circuit_stream import CircuitStream
from overlay.errors import Code
from overlay.wire.bodies import DATAGRAMS, Open, OpenIntent
from overlay.wire.codec import decode
from overlay.wire.header import Header, Kind
from tests.support.honest import DATAGRAM_SERVICE, SERVICE, STRICT_SERVICE, until
from tests.support.hostile import HostilePlant, echoed
from tests.support.meddling import (
    CHECKPOINT_SECONDS,
    Meddler,
    begin,
    both_ways,
    closing,
    flip,
    lose_path,
    say,
)

TOWARDS = pytest.mark.parametrize("towards", ["edge-a", "edge-b"])


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
        await until(lambda: meddler.busy)
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
@pytest.mark.parametrize("how", ["flipped", "tag flipped", "repeated", "renumbered"])
async def test_close(how: str, towards: str):
    """C-32, C-41: the end of a direction is sealed, numbered and signed."""
    async with HostilePlant() as plant:
        plant.asset.echoes = False
        stream = await plant.a.dial()
        await until(plant.b.circuits)
        host = plant.b.circuits()[0]
        meddler = plant.router.meddle = Meddler(Kind.CLOSE, towards, how)
        await half_close(plant, stream, towards)
        if how != "repeated" or towards == "edge-a":
            assert await closing(host) is Code.TAMPER
            assert await closing(stream) is Code.TAMPER
        victim, other = both_ways(plant, towards)
        await until(lambda: victim.security)
        assert meddler.done
        assert victim.noticed() == {"tamper": 1}
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
        await asyncio.sleep(CHECKPOINT_SECONDS)
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
        await say(stream, b"one.")
        await until(lambda: meddler.busy)
        await say(stream, b"one.")
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
        await until(lambda: meddler.done)
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
