"""Paths that are lost: before READY the identical OPEN, after it RESUME; every byte exactly once (C-15, C-17, C-60 to C-63)."""

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest

from overlay.aio import incoming
from overlay.aio.caller_paths import LINKLESS_SECONDS, RESUME_SECONDS
from overlay.aio.circuit_roles import Refused
from overlay.circuit.association import EARLY_SECONDS
from overlay.circuit.host import check_caller
from overlay.errors import Code, TrustError
from overlay.identity.certificate import Role
from overlay.policy.grant import Grant
from overlay.wire.bodies import ASSOCIATE_SERVICE, ECHO_SERVICE, Refusal, Resume
from overlay.wire.codec import Signed, decode, encode
from overlay.wire.header import Flag, Header, Kind
from tests.support.circuits import Node, Plant
from tests.unit.aio.test_endpoint import read_all, story


def test_a_circuit_moves_to_the_other_router_and_loses_nothing():
    async def test(plant: Plant):
        data = random.Random(1).randbytes(3_000_000)
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        host = plant.b.hosted[0]
        used = next(router for router in plant.routers if router.table)

        async def cut():
            for _ in range(6):
                await asyncio.sleep(0.007)
                router = next((one for one in plant.routers if one.table), used)
                for link in list(router.links.values()):
                    link.cut()
                await asyncio.sleep(0.003)
                for node in (plant.a, plant.b):
                    router.attach(node.endpoint, node.leaf)

        async def send():
            for start in range(0, len(data), 50_000):
                await stream.write(data[start : start + 50_000])
                await asyncio.sleep(0.001)
            stream.end()

        async def answer():
            got = await read_all(host)
            host.end()
            return got

        got, *_ = await asyncio.gather(answer(), send(), cut())
        assert got == data
        end = await stream.closed
        assert end.code is Code.NORMAL
        assert stream.core.resumes >= 3
        assert end.receipt.caller.bytes == len(data)
        assert plant.a.security == plant.b.security == []

    story(test, routers=2)


def test_the_only_router_comes_back_within_the_resume_time():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        for link in list(plant.router.links.values()):
            link.cut()
        await asyncio.sleep(0.5)
        writing = asyncio.ensure_future(stream.write(b"while there is no path"))
        await asyncio.sleep(20)
        assert not stream.closed.done()
        for node in (plant.a, plant.b):
            plant.router.attach(node.endpoint, node.leaf)
        assert await stream.read() == b"while there is no path"
        await writing
        stream.end()
        assert await stream.read() == b""

    story(test)


def test_without_a_path_it_ends_after_the_resume_time_at_both_ends():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        began = plant.sim.loop.time()
        for link in list(plant.router.links.values()):
            link.cut()
        caller, host = await asyncio.gather(stream.closed, plant.b.hosted[0].closed)
        assert caller.code is host.code is Code.PATH_LOST
        assert 29 < plant.sim.loop.time() - began < 31
        with pytest.raises(ConnectionResetError):
            await stream.read()

    story(test)


def test_a_host_that_restarted_is_found_and_the_application_is_reset():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        await stream.write(b"write coil")
        await asyncio.sleep(0.01)
        plant.router.links["edge-b"].cut()
        plant.b = Node(plant, "edge-b", plant.b.credentials, boot=2)
        plant.router.attach(plant.b.endpoint, plant.b.leaf)
        await asyncio.sleep(2)
        assert (await stream.closed).code is Code.RESTARTED
        assert plant.b.incoming == []  # nothing was sent again, and the question opened nothing

    story(test)


@pytest.mark.parametrize("later", [False, True])
def test_a_caller_that_has_renewed_finds_the_restart_as_well(later: bool):
    """C-62, E-08: a circuit's grants name the key that opened it, and its caller shows another one by now."""

    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        plant.a.credentials = plant.pki.node(Role.EDGE, "edge-a", number=1)
        plant.router.links["edge-b"].cut()
        plant.b = Node(plant, "edge-b", plant.b.credentials, boot=2)
        plant.router.attach(plant.b.endpoint, plant.b.leaf)
        if later:  # the question goes through a living association
            await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        await asyncio.sleep(2)
        assert stream.closed.done()
        assert (await stream.closed).code is Code.RESTARTED
        assert plant.b.security == []

    story(test)


def test_that_question_is_answered_to_the_enrolment_in_its_grant_and_no_other_is_to_another_key():
    """C-02."""

    async def test(plant: Plant):
        grant = decode(Grant, decode(Signed, plant.grant()).body)
        renewed = plant.pki.node(Role.EDGE, "edge-a", number=1)
        check_caller(grant, renewed.leaf, ASSOCIATE_SERVICE, newcomers=False)
        enrolled_anew = plant.pki.node(Role.EDGE, "edge-a", generation=2, number=1)
        for other, service in (
            (renewed, grant.service),
            (renewed, ECHO_SERVICE),
            (enrolled_anew, ASSOCIATE_SERVICE),
            (plant.b.credentials, ASSOCIATE_SERVICE),
            (plant.pki.router("edge-a"), ASSOCIATE_SERVICE),
        ):
            with pytest.raises(TrustError):
                check_caller(grant, other.leaf, service, newcomers=False)

    story(test)


def test_a_forged_unknown_circuit_is_no_more_than_a_failed_attempt():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        lies: list[Any] = []

        def lie(router, link, header, payload):
            if header.kind is Kind.RESUME and len(lies) < 3:
                lies.append(header)
                refusal = encode(Refusal(Code.UNKNOWN_CIRCUIT, "never heard of it"))
                link.send(Kind.REFUSE, header.circuit, refusal)
                return []
            return None

        plant.router.meddle = lie
        hop = next(iter(plant.router.table))
        plant.router.table.clear()
        hop[0].send(Kind.RESET, hop[1], b"")
        await asyncio.sleep(3)
        assert len(lies) == 3
        await stream.write(b"still here")
        assert await stream.read() == b"still here"

    story(test)


def test_a_path_lost_before_ready_repeats_the_identical_open():
    async def test(plant: Plant):
        """Each kind of frame in turn is the one after which the first path dies."""
        for last in (Kind.OPEN, Kind.ACCEPT, Kind.CREDIT, Kind.READY):
            plant.b.incoming.clear()
            plant.b.hosted.clear()
            plant.b.serve = plant.b.echo
            plant.a.endpoint.forget(lambda leaf: True)
            seen: list[Any] = []

            def die(router, link, header, payload, last=last, seen=seen):
                if header.kind is last and not seen:
                    seen.append(header)
                    for one in list(router.links.values()):
                        one.cut()
                    return []
                return None

            for router in plant.routers:
                router.meddle = die
            stream = plant.a.endpoint.open("plc-b.modbus", plant.grant())
            await stream.write(b"poll")
            assert await stream.read() == b"poll"
            assert len(seen) == 1
            assert len(plant.b.incoming) == 1  # executed once
            assert stream.core.resumes == 0
            stream.end()
            assert await stream.read() == b""
            for router in plant.routers:
                router.meddle = None
                for node in (plant.a, plant.b):
                    if node.name not in router.links:
                        router.attach(node.endpoint, node.leaf)
            await plant.up()
        assert plant.a.security == plant.b.security == []

    story(test, routers=2)


@pytest.mark.parametrize("last", [Kind.OPEN, Kind.ACCEPT, Kind.READY, Kind.DATA])
def test_early_data_is_executed_once_whenever_the_path_dies(last, monkeypatch: pytest.MonkeyPatch):
    if last is Kind.READY:
        monkeypatch.setattr(incoming, "ACCEPTS_WAITING", 0)  # else it comes with ACCEPT (C-14)

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        seen: list[Any] = []

        def die(router, link, header, payload):
            if header.kind is last and not seen:
                seen.append(header)
                for one in list(router.links.values()):
                    one.cut()
                return [(header, payload)]
            return None

        for router in plant.routers:
            router.meddle = die
        stream = plant.a.endpoint.open("plc-b.modbus", plant.grant(), early=b"write coil 7")
        await stream.write(b", then 8")
        stream.end()
        assert await read_all(stream) == b"write coil 7, then 8"
        assert seen
        assert len(plant.b.incoming) == 2

    story(test, routers=2)


def test_early_data_to_a_host_that_restarted_is_never_sent_again():
    async def test(plant: Plant):
        first = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        first.abort(Code.NORMAL, "")
        await plant.up()
        plant.router.links["edge-b"].cut()
        plant.b = Node(plant, "edge-b", plant.b.credentials, boot=2)
        plant.router.attach(plant.b.endpoint, plant.b.leaf)
        await plant.up()
        with pytest.raises(Refused) as caught:
            await plant.a.endpoint.dial("plc-b.modbus", plant.grant(), early=b"write coil")
        assert caught.value.code is Code.RESTARTED
        assert plant.b.incoming == []

    story(test)


def test_a_host_that_may_have_restarted_gets_no_early_data_and_serves_at_once():
    """C-16: nobody is reset only because a host began anew a while ago."""

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        first = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        first.abort(Code.NORMAL, "")
        await plant.up()
        plant.router.links["edge-b"].cut()
        plant.b = Node(plant, "edge-b", plant.b.credentials, boot=2)
        plant.b.serve = plant.b.echo
        plant.router.attach(plant.b.endpoint, plant.b.leaf)
        await plant.up()
        await asyncio.sleep(EARLY_SECONDS)
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant(), early=b"write coil")
        assert await stream.read() == b"write coil"
        assert len(plant.b.incoming) == 1

    story(test)


def test_without_early_data_a_fresh_association_follows_at_once():
    async def test(plant: Plant):
        first = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        first.abort(Code.NORMAL, "")
        await plant.up()
        plant.router.links["edge-b"].cut()
        plant.b = Node(plant, "edge-b", plant.b.credentials, boot=2)
        plant.router.attach(plant.b.endpoint, plant.b.leaf)
        await plant.up()
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        assert len(plant.b.incoming) == 1

    story(test)


def test_a_caller_that_missed_the_end_still_learns_it():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        host = plant.b.hosted[0]

        def die(router, link, header, payload):
            if header.kind is Kind.CLOSE and link.name == "edge-b":
                for one in list(router.links.values()):
                    one.cut()
                router.meddle = None
                return []
            return None

        plant.router.meddle = die
        host.abort(Code.MAX_SESSION, "the longest session is over")
        await asyncio.sleep(0.2)
        assert host.closed.done()
        assert not stream.closed.done()
        for node in (plant.a, plant.b):
            plant.router.attach(node.endpoint, node.leaf)
        end = await stream.closed
        assert (end.code, end.reason) == (Code.MAX_SESSION, "the longest session is over")

    story(test)


def test_an_old_or_forged_resume_costs_its_hop_only():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        plant.routers[0].links["edge-a"].cut() if plant.routers[0].table else plant.routers[
            1
        ].links["edge-a"].cut()
        await stream.write(b"moved")
        assert await stream.read() == b"moved"
        router = next(one for one in plant.routers if one.table)
        header, payload = next(
            (h, p) for link, h, p in router.seen if h.kind is Kind.RESUME and link.name == "edge-a"
        )
        onward = router.links["edge-b"]
        for forged in (payload, payload[:-30] + bytes(30), b"", payload[:40]):
            number = onward.next_circuit()
            onward.send(Kind.RESUME, number, forged, sequence=header.sequence)
            number = onward.next_circuit()
            onward.send(Kind.RESUME, number, forged, sequence=header.sequence + 1000)
        await asyncio.sleep(0.1)
        await stream.write(b"untouched")
        assert await stream.read() == b"untouched"
        assert stream.core.resumes == 1
        assert plant.b.security

    story(test, routers=2)


def test_a_reset_is_a_lost_path_and_never_an_end():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        for (link, number), _ in list(plant.router.table.items()):
            plant.router.table.pop((link, number), None)
            link.put(Header(Kind.RESET, 0, 0, number, 0), b"")
        await stream.write(b"go on")
        assert await stream.read() == b"go on"
        assert stream.core.resumes == 1

    story(test)


def test_a_refusal_in_clear_after_accept_is_a_lost_path():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        lied: list[Any] = []

        def lie(router, link, header, payload):
            if header.kind is Kind.READY and not lied:
                lied.append(header)
                onward, number = router.table.pop((link, header.circuit))
                router.table.pop((onward, number))
                onward.send(Kind.REFUSE, number, encode(Refusal(Code.KILLED, "the plant is dead")))
                return []
            return None

        plant.router.meddle = lie
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        await stream.write(b"alive")
        assert await stream.read() == b"alive"
        assert lied
        assert not lied[0].flags & Flag.SEALED

    story(test)


def test_a_host_that_is_gone_has_its_place_taken_by_the_next_at_once():
    async def test(plant: Plant):
        other = Node(plant, "edge-c", plant.pki.edge("edge-c"))
        for router in plant.routers:
            router.attach(other.endpoint, other.leaf)
        await asyncio.sleep(0.01)
        grant = plant.grant(hosts=("edge-b", "edge-c"))
        await plant.a.endpoint.dial("plc-b.modbus", grant)
        assert len(plant.b.hosted) == 1
        for router in plant.routers:
            router.links["edge-b"].cut()
        began = plant.sim.loop.time()
        for number in range(1, 4):
            await plant.a.endpoint.dial("plc-b.modbus", grant)
            assert len(other.hosted) == number
        assert plant.sim.loop.time() - began < 0.5

    story(test, routers=2)


def test_a_circuit_whose_host_is_gone_asks_with_growing_pauses_on_all_links_together():
    async def test(plant: Plant):
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        for router in plant.routers:
            router.seen.clear()
            router.links["edge-b"].cut()
        assert (await stream.closed).code is Code.PATH_LOST
        asked = [
            header.kind for router in plant.routers for _, header, _ in router.seen
            if header.kind is Kind.RESUME
        ]  # fmt: skip
        assert 10 < len(asked) < 100

    story(test, routers=2)


@pytest.mark.parametrize("comes_back", [False, True])
def test_a_circuit_that_is_opening_when_the_last_link_dies_waits_a_reconnect_and_no_longer(
    comes_back: bool,
):
    """An HMI that polls is told so, and asks again by itself (C-63)."""

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        plant.router.meddle = lambda *_: []
        stream = plant.a.endpoint.open("plc-b.modbus", plant.grant())
        await asyncio.sleep(0.1)
        plant.router.meddle = None
        began = plant.sim.loop.time()
        for link in list(plant.router.links.values()):
            link.cut()
        if comes_back:
            await asyncio.sleep(LINKLESS_SECONDS - 0.5)
            for node in (plant.a, plant.b):
                plant.router.attach(node.endpoint, node.leaf)
            await stream.write(b"poll")
            assert await stream.read() == b"poll"
            return
        end = await stream.closed
        assert end.code is Code.PATH_LOST
        assert "no router" in end.reason
        assert plant.sim.loop.time() - began == pytest.approx(LINKLESS_SECONDS, abs=0.1)

    story(test)


@pytest.mark.parametrize("going", [False, True])
def test_circuits_leave_a_link_that_is_not_sound_for_one_that_is(going: bool):
    """A router that goes away (L-36), or does not answer (L-35): before the link ends."""

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        left, right = plant.routers
        if stream.link.name != left.name:
            left, right = right, left
        ailing = stream.link
        if going:
            left.links["edge-a"].state.goodbye(Code.GOING_AWAY, "bye")
            left.links["edge-a"].speak()
            await asyncio.sleep(0.01)
            assert ailing.going_away
        else:
            ailing.state.liveness.suspect = True
            plant.a.endpoint.health(ailing)
        await stream.write(b"poll")
        assert await stream.read() == b"poll"
        assert stream.link.name == right.name
        assert not left.table
        opened = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        assert opened.link.name == right.name  # and what is new does not begin there
        assert stream.core.resumes == 1

    story(test, routers=2)


def test_with_no_better_link_a_circuit_stays_until_there_is_one():
    """A single router that does not answer may be slow: leaving it would help nobody (L-35)."""

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        left, right = plant.routers
        right.links["edge-a"].cut()
        await asyncio.sleep(0.01)
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        ailing = stream.link
        ailing.state.liveness.suspect = True
        plant.a.endpoint.health(ailing)
        await stream.write(b"poll")
        assert await stream.read() == b"poll"
        assert stream.link is ailing
        right.attach(plant.a.endpoint, plant.a.leaf)
        await asyncio.sleep(0.1)
        assert stream.link.name == right.name
        await stream.write(b"poll")
        assert await stream.read() == b"poll"
        assert not left.table

    story(test, routers=2)


@pytest.mark.parametrize("side", ["edge-a", "edge-b"])
def test_of_two_links_that_fell_silent_together_the_one_that_is_back_takes_all(side: str):
    """L-35: a switch that both pass restarts, and one of the routers does not come back."""

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        node, used = (plant.a, stream) if side == "edge-a" else (plant.b, plant.b.hosted[0])
        ailing = used.link
        (other,) = [one for one in node.endpoint.links() if one is not ailing]
        ailing.state.liveness.suspect = other.state.liveness.suspect = True
        for link in (ailing, other):
            node.endpoint.health(link)
        await asyncio.sleep(1)
        assert used.link is ailing
        other.state.liveness.suspect = False
        node.endpoint.health(other)
        await asyncio.sleep(1)
        assert used.link is other
        await stream.write(b"poll")
        assert await stream.read() == b"poll"
        assert stream.core.resumes == 1

    story(test, routers=2)


async def doubted(plant: Plant) -> tuple[Any, Any, Any]:
    """A circuit whose host doubts its link, and whose caller believes in the path; the routers that it leaves and takes."""
    plant.b.serve = plant.b.echo
    stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
    left, right = plant.routers
    if stream.link.name != left.name:
        left, right = right, left
    link = plant.b.hosted[0].link
    link.frozen = link.other.frozen = True  # a cable of which only the host knows
    link.state.liveness.suspect = True
    plant.b.endpoint.health(link)
    return stream, left, right


def asks(router: Any) -> list[tuple[Any, Header, bytes]]:
    """RESUMEs that came over the host's links of this router."""
    return [
        (link, header, payload) for link, header, payload in router.seen
        if header.kind is Kind.RESUME and link.name == "edge-b"
        and header.circuit % 2  # it began this hop, so that it is no answer
    ]  # fmt: skip


def test_a_host_that_doubts_its_path_asks_the_caller_for_another():
    """C-64: what the caller sends is lost at a hop of which it knows nothing."""

    async def test(plant: Plant):
        began = plant.sim.loop.time()
        stream, _, right = await doubted(plant)
        await stream.write(b"poll")
        assert await stream.read() == b"poll"
        assert plant.sim.loop.time() - began < 0.5
        assert stream.link.name == plant.b.hosted[0].link.name == right.name
        assert stream.core.resumes == 1
        assert len(asks(right)) == 1
        await asyncio.sleep(10)
        assert len(asks(right)) == 1  # answered, and no hop is left of it
        assert all(len(router.table) <= 2 for router in plant.routers)
        assert plant.a.security == plant.b.security == []

    story(test, routers=2)


def test_a_host_asks_nobody_to_leave_a_router_that_only_drains():
    """L-37: the caller learns of it by itself, and where it has no other way the circuit stays, for as long as it takes."""

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        left, right = plant.routers
        right.links["edge-a"].cut()  # the caller has no other way
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        link = plant.b.hosted[0].link
        assert link.name == left.name
        link.avoided = True
        plant.b.endpoint.health(link)
        await asyncio.sleep(60)
        assert (len(asks(left)), len(asks(right)), stream.core.resumes) == (0, 0, 0)
        await stream.write(b"poll")
        assert await stream.read() == b"poll"

    story(test, routers=2)


def test_a_question_that_the_host_did_not_ask_moves_nothing():
    """C-64: forged it is tampering, repeated it is old news; the circuit stays where it is."""

    async def test(plant: Plant):
        stream, _, right = await doubted(plant)
        await stream.write(b"poll")
        assert await stream.read() == b"poll"
        _, header, payload = asks(right)[0]
        link = right.links["edge-a"]
        generation = stream.core.generation
        body = decode(Resume, payload)
        for sealed, sequence in (
            (body.sealed, header.sequence),
            (bytes(len(body.sealed)), header.sequence + 100),
            (body.sealed, header.sequence + 100),
        ):
            changed = encode(Resume(body.intent, sealed, (), body.path))
            link.send(Kind.RESUME, link.next_circuit(), changed, sequence=sequence)
            await asyncio.sleep(0.1)
        assert [code for code, _ in plant.a.security] == [Code.TAMPER, Code.TAMPER]
        assert stream.core.generation == generation
        await stream.write(b"poll")
        assert await stream.read() == b"poll"

    story(test, routers=2)


def test_a_router_that_swallows_a_resume_is_asked_again_soon():
    """C-60: the only router may have chosen a way that was lost already, and know better by now."""

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        swallowed: list[float] = []

        def swallow(router, link, header, payload):
            if header.kind is Kind.RESUME and len(swallowed) < 2:
                swallowed.append(plant.sim.loop.time())
                return []
            return None

        plant.router.meddle = swallow
        hop = next(iter(plant.router.table))
        plant.router.table.clear()
        hop[0].send(Kind.RESET, hop[1], b"")
        began = plant.sim.loop.time()
        await stream.write(b"poll")
        assert await stream.read() == b"poll"
        assert len(swallowed) == 2
        assert plant.sim.loop.time() - began < 3 * RESUME_SECONDS + 1

    story(test)


def test_patience_with_silent_routers_grows_when_each_was_asked():
    """C-62: that one router is silent says nothing of the next."""

    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        asked: list[tuple[float, Any]] = []

        def swallow(router, link, header, payload):
            if header.kind is not Kind.RESUME or len(asked) == 4:
                return None
            if link.name == "edge-a":  # and not the questions of the host (C-64)
                asked.append((plant.sim.loop.time(), router))
            return []

        for router in plant.routers:
            router.meddle = swallow
            for link, number in list(router.table):
                link.send(Kind.RESET, number, b"")
            router.table.clear()
        await stream.write(b"poll")
        assert await stream.read() == b"poll"
        pauses = [later - sooner for (sooner, _), (later, _) in pairwise(asked)]
        assert asked[0][1] is not asked[1][1]
        assert pauses[0] < RESUME_SECONDS + 0.1
        assert pauses[1] < RESUME_SECONDS + 0.3  # and the back-off after all were tried
        assert pauses[2] >= 2 * RESUME_SECONDS

    story(test, routers=2)


def test_a_circuit_outlives_any_number_of_lost_paths_and_holds_nothing_of_them():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        outgoing = plant.a.endpoint._outgoing[stream.circuit_id]
        for _ in range(1100):
            before, began = stream.core.resumes, plant.sim.loop.time()
            plant.router.links["edge-a"].cut()
            plant.router.attach(plant.a.endpoint, plant.a.leaf)
            while stream.core.resumes == before:
                assert plant.sim.loop.time() - began < 1
                await asyncio.sleep(0.005)
        assert len(outgoing._tried) <= 2
        await stream.write(b"still here")
        assert await stream.read() == b"still here"

    story(test)
