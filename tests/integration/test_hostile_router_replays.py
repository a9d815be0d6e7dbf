"""A router that repeats what was said before, or makes others repeat it: each word is heard once, or not at all.

What it may be, and what is said about it then, stands in docs/protocol/circuit.md, C-01, C-04 and C-15 to C-17.
"""

import asyncio

import pytest

from overlay.aio.circuit_roles import Refused
from overlay.errors import Code
from overlay.wire.bodies import Accept, Open
from overlay.wire.codec import decode, encode
from overlay.wire.header import Header, Kind
from tests.support.honest import until
from tests.support.hostile import HostilePlant, changed, echoed, refusal
from tests.support.meddling import hears


async def conversation(plant: HostilePlant) -> list[tuple[Header, bytes]]:
    """Two circuits with data in them, the second with early data; all that edge-a said, as the router saw it."""
    first = await plant.a.dial()
    assert await echoed(first, b"first")
    second = await plant.a.dial(early=b"write coil 7")
    await until(lambda: plant.asset.told[1:] == [b"write coil 7"])
    for stream in (first, second):
        stream.end()
    await until(lambda: first.closed.done() and second.closed.done() and not plant.b.circuits())
    assert plant.asset.told == [b"first", b"write coil 7"]
    return [(h, p) for link, h, p in plant.router.seen if link.name == "edge-a"]


async def play_again(
    plant: HostilePlant, frames: list[tuple[Header, bytes]], target: str = "edge-b"
) -> None:
    """Say it all once more on new hops."""
    link = plant.router.links[target]
    hops: dict[int, int] = {}
    for header, payload in frames:
        if header.kind is Kind.OPEN:
            hops[header.circuit] = plant.router.open(link, payload)
        elif header.circuit in hops and header.kind is not Kind.RESET:
            plant.router.put(link, header._replace(circuit=hops[header.circuit]), payload)
    answers = (Kind.ACCEPT, Kind.REFUSE, Kind.RESET)
    await until(
        lambda: (
            set(hops.values())
            <= {h.circuit for kind in answers for h, _ in plant.router.passed(kind, target)}
        )
    )
    await asyncio.sleep(0.05)  # and nothing else comes of it


async def test_an_open_with_data_is_executed_once():
    """An identical OPEN gets the same ACCEPT, bit for bit, or none where that held READY and its caller has it; and
    nothing happens (C-15).
    """
    async with HostilePlant() as plant:
        frames = await conversation(plant)
        accepts = [p for _, p in plant.router.passed(Kind.ACCEPT, "edge-b")]
        assert len(accepts) == 2
        for _ in range(3):
            await play_again(plant, [f for f in frames if f[0].kind is Kind.OPEN])
        again = [p for _, p in plant.router.passed(Kind.ACCEPT, "edge-b")][2:]
        assert sorted(again) == sorted(
            [one for one in accepts if not decode(Accept, one).ready] * 3
        )
        assert again, "the handshake's"
        assert plant.asset.told == [b"first", b"write coil 7"]
        assert plant.b.carried == 2
        assert plant.b.security == []  # a repeated OPEN is what a lost path looks like, too
        assert await echoed(await plant.a.dial(early=b""), b"next")


async def test_a_whole_conversation_is_executed_once():
    """Nothing is delivered twice, whatever follows the repeated OPEN (C-15, C-22)."""
    async with HostilePlant() as plant:
        frames = await conversation(plant)
        await play_again(plant, frames)
        assert plant.asset.told == [b"first", b"write coil 7"]
        assert plant.b.carried == 2
        assert plant.b.circuits() == []


@pytest.mark.parametrize("whole", [False, True], ids=["OPEN", "all"])
async def test_nothing_is_executed_again_after_a_restart_of_the_host(whole: bool):
    """Associations live in memory only (C-01): what was recorded opens nothing in the next life of the host."""
    async with HostilePlant() as plant:
        frames = await conversation(plant)
        await plant.b.restart()
        plant.router.seen.clear()
        await play_again(
            plant, frames if whole else [f for f in frames if f[0].kind is Kind.OPEN][1:]
        )
        assert plant.asset.told == [b"first", b"write coil 7"]
        assert plant.b.carried == 0
        assert plant.b.circuits() == []
        await until(lambda: len(plant.router.refusals("edge-b")) > whole)
        codes = [Code(one.code) for one in plant.router.refusals("edge-b")]
        # The recorded end of the handshake does not fit the new one; then the OPEN with data in it names nothing known.
        assert codes == [Code.NOT_TRUSTED, Code.UNKNOWN_ASSOCIATION][not whole :]
        assert plant.b.noticed() == ({"refused": 1} if whole else {})


async def test_nothing_is_executed_at_another_host_that_is_permitted_too():
    """An association is with one host (C-01, C-04)."""
    async with HostilePlant(edges=("edge-a", "edge-b", "edge-c")) as plant:
        grant = plant.grant(hosts=("edge-b", "edge-c"))
        await plant.a.dial(grant=grant)
        await plant.a.dial(grant=grant, early=b"write coil 7")
        await until(lambda: plant.asset.told[1:] == [b"write coil 7"])
        frames = [(h, p) for link, h, p in plant.router.seen if link.name == "edge-a"]
        await play_again(plant, frames, "edge-c")
        c = plant.edges["edge-c"]
        assert c.carried == 0
        assert set(c.noticed()) == {"refused"}
        assert plant.asset.told == [b"", b"write coil 7"]


async def test_a_used_number_with_another_content_is_a_security_event():
    """C-15."""
    async with HostilePlant() as plant:
        await conversation(plant)
        _, payload = plant.router.passed(Kind.OPEN, "edge-a")[-1]
        body = decode(Open, payload)
        other = encode(changed(body, early=body.early[:-1] + bytes((body.early[-1] ^ 1,))))
        plant.router.open(plant.router.links["edge-b"], other)
        await until(lambda: plant.b.security)
        assert plant.b.security[0][0] == "refused"
        assert "used number" in plant.b.security[0][1]
        assert plant.asset.told == [b"first", b"write coil 7"]


async def test_data_that_may_have_been_delivered_is_not_sent_again():
    """A forged UNKNOWN_ASSOCIATION after the host got the early data: the application sees a reset (C-16)."""
    async with HostilePlant() as plant:
        await plant.a.dial()

        def lie(router, link, header, payload):
            if header.kind is Kind.ACCEPT:  # the host has taken it
                onward, number = router.table[(link, header.circuit)]
                onward.send(Kind.REFUSE, number, refusal(Code.UNKNOWN_ASSOCIATION))
                return []
            return None

        plant.router.meddle = lie
        with pytest.raises(Refused) as caught:
            await plant.a.dial(early=b"write coil 7")
        assert caught.value.code is Code.RESTARTED
        await hears(plant, b"", b"write coil 7")


async def test_a_swallowed_answer_makes_the_caller_repeat_itself_identically():
    """Refused in clear by one router, after the host took it: the identical OPEN goes over the other one, and executes nothing (C-17)."""
    async with HostilePlant(routers=2) as plant:
        await plant.a.dial()
        opens: list[bytes] = []
        lied: list[Header] = []

        def lie(router, link, header, payload):
            if header.kind is Kind.OPEN and link.name == "edge-a":
                body = decode(Open, payload)
                opens.append(encode((body.intent, body.flight, body.early)))
            if header.kind is Kind.ACCEPT and not lied:
                lied.append(header)
                onward, number = router.table[(link, header.circuit)]
                onward.send(Kind.REFUSE, number, refusal(Code.NO_ROUTE))
                return []
            return None

        for router in plant.routers:
            router.meddle = lie
        stream = await plant.a.dial(early=b"write coil 7")
        await stream.write(b", then 8")
        await until(lambda: len(plant.asset.told) == 2 and len(plant.asset.told[1]) == 20)
        assert plant.asset.told[1] == b"write coil 7, then 8"
        assert len(opens) == 2
        assert len(set(opens)) == 1
        assert plant.b.carried == 2
        assert plant.a.security == plant.b.security == []


@pytest.mark.parametrize("along", ["", "ready", "data"])
async def test_answers_of_the_host_cannot_be_played_again_either(along: str):
    """READY and data of an earlier circuit are sealed with that circuit's keys (C-11), also along with ACCEPT (C-14)."""
    async with HostilePlant() as plant:
        first = await plant.a.dial()
        assert await echoed(first, b"first")
        old = [
            (h, p)
            for link, h, p in plant.router.seen
            if link.name == "edge-b" and h.kind in (Kind.READY, Kind.DATA)
        ]

        def replay(router, link, header, payload):
            if header.kind is Kind.ACCEPT:  # in place of what this host says from here on
                onward, number = router.table[(link, header.circuit)]
                played = {one.kind.name.lower(): data for one, data in old}
                instead = {along: played[along]} if along else {"ready": b"", "data": b""}
                accept = changed(decode(Accept, payload), **instead)
                onward.send(Kind.ACCEPT, number, encode(accept))
                for one, data in old if not along else ():
                    router.put(onward, one._replace(circuit=number), data)
            return [] if link.name == "edge-b" else None

        plant.router.meddle = replay
        with pytest.raises(Refused):
            await plant.a.dial(early=b"second")
        assert plant.a.noticed() == {"tamper": 1}
        assert first.bytes_out == 5  # its own answers did not come twice


async def test_a_swapped_answer_is_found_by_the_first_sealed_frame():
    """The host's randomness is not sealed, and need not be: with another one no key fits (C-11, C-22)."""
    async with HostilePlant() as plant:
        await plant.a.dial()

        def swap(router, link, header, payload):
            if header.kind is Kind.ACCEPT:
                return [(header, encode(changed(decode(Accept, payload), random=bytes(32))))]
            return None

        plant.router.meddle = swap
        with pytest.raises(Refused):
            await plant.a.dial(early=b"write coil")
        await until(lambda: plant.b.security or plant.a.security)
        assert set(plant.a.noticed() + plant.b.noticed()) == {"tamper"}
        await hears(plant, b"", b"write coil")
        await asyncio.sleep(0.05)
        assert plant.asset.told == [b"", b"write coil"]  # once: sealed to this host and verified
