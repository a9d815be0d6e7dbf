"""A router that has as much as it may: what is more is refused with a sentence, what runs goes on (L-22, L-24)."""

import json
from typing import Any
from unittest.mock import Mock

import pytest

from overlay import limits
from overlay.aio import link_listener
from overlay.aio.pipes import Pipes
from overlay.errors import Code
from overlay.link.link import LinkRefused
from overlay.wire.bodies import Refusal
from overlay.wire.codec import decode
from overlay.wire.header import Header, Kind
from router import passing
from router.shedding import SPLICED_QUEUE, Queues
from tests.support.fabrics import Fabric, Peer
from tests.unit.router import test_router
from tests.unit.router.test_router import circuit, facts, plant, settle

story = test_router.story


def last(peer: Peer, number: int) -> Refusal:
    """What this circuit was refused with."""
    return next(decode(Refusal, data) for one, data in peer.got(Kind.REFUSE) if one == number)


async def heard(peer: Peer, count: int) -> None:
    """Until so many frames of DATA have come."""
    await peer.notes.until(lambda: len(peer.got(Kind.DATA)) == count, 2)


async def poll(a: Peer, b: Peer, number: int, there: int) -> None:
    """A question and an answer over a circuit that was there before."""
    a.link.send(Kind.DATA, number, b"question", sequence=len(a.notes.frames))
    b.link.send(Kind.DATA, there, b"answer", sequence=len(b.notes.frames))
    await settle()
    assert b.got(Kind.DATA)[-1] == (there, b"question")
    assert a.got(Kind.DATA)[-1] == (number, b"answer")


def test_a_link_has_so_many_circuits_and_old_ones_go_on(story, monkeypatch):
    monkeypatch.setattr(limits, "CIRCUITS_PER_LINK", 12)

    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        old = [await circuit(fabric, a, b) for _ in range(12)]
        for _ in range(3):
            number = a.open(fabric.grant())
            await settle()
            refused = last(a, number)
            assert (refused.code, refused.reason) == (Code.BUSY, "too many circuits on this link")
            for one in (old[0], old[-1]):
                await poll(a, b, *one)
        assert len(b.got(Kind.OPEN)) == 12
        a.link.reset(old[0][0], Code.NORMAL)
        await settle()
        await poll(a, b, *await circuit(fabric, a, b))
        assert a.notes.ends == b.notes.ends == []

    story(tell)


def test_unanswered_circuits_are_bounded_and_old_ones_go_on(story, monkeypatch):
    monkeypatch.setattr(limits, "OPENS_PENDING_PER_LINK", 6)

    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        old = await circuit(fabric, a, b)
        asked = [a.open(fabric.grant()) for _ in range(9)]
        await settle()
        for number in asked[6:]:
            refused = last(a, number)
            assert refused.code == Code.BUSY
            assert refused.reason == "too many unanswered circuits on this link"
        await poll(a, b, *old)
        there, _ = b.opened()
        b.link.send(Kind.ACCEPT, there, b"accepted")
        await settle()
        await poll(a, b, *await circuit(fabric, a, b))
        assert a.notes.ends == b.notes.ends == []

    story(tell)


def test_a_router_has_so_many_links_and_old_ones_stay(story, monkeypatch):
    defaults: Any = link_listener.LinkListener.__init__.__kwdefaults__
    assert defaults["max_links"] == limits.LINKS_PER_ROUTER
    monkeypatch.setitem(defaults, "max_links", 4)

    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        old = await circuit(fabric, a, b)
        await fabric.peer("edge-c", "r1")
        for _ in range(2):
            with pytest.raises(LinkRefused, match="too many links"):
                await fabric.peer("edge-d", "r1")
            await poll(a, b, *old)
        status = json.loads(await facts(fabric))
        assert status["links"] == 4
        a.link.close()
        await settle()
        await fabric.peer("edge-d", "r1")

    story(tell)


def test_too_much_waiting_costs_the_circuit_that_waits_and_63_others_go_on(story, monkeypatch):
    monkeypatch.setattr(limits, "ROUTER_QUEUE_BYTES", 3_000_000)

    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        c = await fabric.peer("edge-c", "r1")
        hosts = {"hosts": ("edge-c",), "service": "plc-c.modbus"}
        stalled = [a.open(fabric.grant(**hosts), service="plc-c.modbus") for _ in range(4)]
        await settle()
        for there, _ in c.got(Kind.OPEN):
            c.link.send(Kind.ACCEPT, there, b"accepted")
        old = [await circuit(fabric, a, b) for _ in range(63)]
        c.link._connection.pause()  # edge-c stops to read
        largest = 0
        for round_ in range(16):
            for number in stalled:
                a.link.send(Kind.DATA, number, bytes(200_000), sequence=round_)
            for number, there in old:
                a.link.send(Kind.DATA, number, b"%d" % round_, sequence=round_)
                b.link.send(Kind.DATA, there, b"%d" % round_, sequence=round_)
            wanted = 63 * (round_ + 1)
            for peer in (a, b):
                await heard(peer, wanted)
            largest = max(largest, json.loads(await facts(fabric))["queued_bytes"])
            if round_ == 8:
                assert a.notes.ends == []
        status = json.loads(await facts(fabric))
        assert status["counts"]["shed"] >= 1
        assert largest <= 3_000_000
        assert {number for number, _ in a.refusals(Kind.RESET)} <= set(stalled)
        assert b.got(Kind.RESET) == []

    story(tell)


def test_an_edge_that_sends_more_than_a_window_is_cut_and_others_go_on(story, monkeypatch):
    monkeypatch.setattr(passing, "LARGEST_QUEUE", 1_000_000)

    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        greedy, _ = await circuit(fabric, a, b)
        other, there = await circuit(fabric, a, b)
        b.link._connection.pause()  # its window would be full by now
        for sequence in range(8):
            a.link.send(Kind.DATA, greedy, bytes(limits.MAX_DATA), sequence=sequence)
        await a.notes.until(lambda: bool(a.got(Kind.RESET)), 2.5)
        (cut,) = a.refusals(Kind.RESET)
        assert cut[0] == greedy
        assert a.last_code(Kind.RESET) == Code.PROTOCOL
        b.link._connection.resume()
        await settle()
        await poll(a, b, other, there)
        assert a.notes.ends == []

    story(tell)


@pytest.mark.parametrize(("waiting", "piped"), [(SPLICED_QUEUE - 1, True), (SPLICED_QUEUE, False)])
def test_where_much_waits_payloads_take_no_pipe(waiting: int, piped: bool):
    """Pipes are few: one reader that is slow leaves them to the others."""
    switch, here = passing.Passing(Queues(), Pipes()), Mock()
    there = Mock(splices=True, total_backlog=waiting)
    switch.may_splice(here)
    _, takes, _ = here.splice.call_args.args
    switch._hops[here] = {1: Mock(other=Mock(link=there))}
    assert takes(here, Header(Kind.DATA, 0, limits.MAX_DATA, 1, 0)) is piped
