"""A router that has as much as it may: what is more is refused with a sentence, what runs goes on (L-22, L-24)."""

import asyncio
import json
from itertools import islice
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
from tests.support.routers import circuit, facts, plant, settle
from tests.support.simulated_network import SimulatedConnection


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


def test_more_than_a_window_for_one_circuit_is_against_the_rules(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        number, _ = await circuit(fabric, a, b)
        other, there = await circuit(fabric, a, b)
        b.link._connection.pause()
        payload = bytes(limits.MAX_DATA)
        for sequence in range((limits.MAX_WINDOW + 2 * limits.MAX_DATA) // limits.MAX_DATA + 4):
            a.link.send(Kind.DATA, number, payload, sequence=sequence)
        await a.notes.until(lambda: bool(a.got(Kind.RESET)), 2.5)
        assert a.refusals(Kind.RESET)[-1][0] == number
        assert a.last_code(Kind.RESET) == Code.PROTOCOL
        queued = json.loads(await facts(fabric))["queued_bytes"]
        assert queued < limits.MAX_DATA * 2
        b.link._connection.resume()
        a.link.send(Kind.DATA, other, b"alive")
        await settle()
        assert b.got(Kind.DATA)[-1] == (there, b"alive")

    story(tell)


def test_too_much_in_all_gives_up_the_largest_and_spares_the_others(story, monkeypatch):
    monkeypatch.setattr(limits, "ROUTER_QUEUE_BYTES", 2_000_000)

    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        big, _ = await circuit(fabric, a, b)
        small, there = await circuit(fabric, a, b)
        b.link._connection.pause()
        a.link.send(Kind.DATA, small, bytes(100_000), sequence=0)
        for sequence in range(12):
            a.link.send(Kind.DATA, big, bytes(limits.MAX_DATA), sequence=sequence)
        await a.notes.until(lambda: bool(a.got(Kind.RESET)), 2.5)
        assert a.refusals(Kind.RESET)[-1][0] == big
        assert a.last_code(Kind.RESET) == Code.PATH_LOST
        assert json.loads(await facts(fabric))["counts"]["shed"] == 1
        b.link._connection.resume()
        await settle()
        assert [number for number, data in b.got(Kind.DATA) if len(data) == 100_000] == [there]
        assert a.notes.ends == []

    story(tell)


def test_what_waits_for_circuits_that_are_over_is_given_up_first(story, monkeypatch):
    monkeypatch.setattr(limits, "ROUTER_QUEUE_BYTES", 2_000_000)

    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        over, there = await circuit(fabric, a, b)
        alive, alive_there = await circuit(fabric, a, b)
        b.link._connection.pause()
        for sequence in range(6):
            a.link.send(Kind.DATA, over, bytes(limits.MAX_DATA), sequence=sequence)
        a.link.reset(over, Code.NORMAL, "done")
        await settle()
        for sequence in range(5):
            a.link.send(Kind.DATA, alive, bytes(limits.MAX_DATA), sequence=sequence)
        await asyncio.sleep(1)
        assert json.loads(await facts(fabric))["counts"].get("shed", 0) == 0
        b.link._connection.resume()
        await settle()
        assert len([n for n, _ in b.got(Kind.DATA) if n == alive_there]) == 5
        assert b.refusals(Kind.RESET)[-1][0] == there
        assert b.link.circuits == 1

    story(tell)


def test_datagrams_are_dropped_rather_than_queued_without_end_and_the_oldest_go_first(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        number, there = await circuit(fabric, a, b)
        other, other_there = await circuit(fabric, a, b)
        b.link._connection.pause()
        for sequence in range(100):
            a.link.send_datagram(number, b"%03d" % sequence + bytes(60_000), sequence=sequence)
            await asyncio.sleep(0.01)
        a.link.send(Kind.DATA, other, b"stream", sequence=0)
        a.link.send_datagram(number, b"last", sequence=100)
        await settle()
        status = json.loads(await facts(fabric))
        assert status["queued_bytes"] <= limits.DATAGRAM_QUEUE_BYTES + 1000
        dropped = status["counts"]["datagrams_dropped"]
        assert dropped > 50
        b.link._connection.resume()
        await settle()
        got = [data[:4] for circuit, data in b.got(Kind.DATAGRAM) if circuit == there]
        assert len(got) + dropped == 101
        assert got[-1] == b"last"
        assert got[-2] == b"099\x00"
        assert got == sorted(got)
        assert b.got(Kind.DATA) == [(other_there, b"stream")]
        assert f"ferrule_router_datagrams_dropped_total {dropped}.0" in await facts(
            fabric, "/metrics"
        )

    story(tell)


def test_datagrams_that_came_together_go_on_together_and_one_that_is_alone_at_once(story):
    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        number, there = await circuit(fabric, a, b)
        datagram, close, ping = 24 + 16 + 4, 24 + 16 + 5 + 16, 24 + 16 + 8 + 16
        writes: list[int] = []
        real = SimulatedConnection.write

        def write(self: SimulatedConnection, parts) -> int:
            size = sum(map(len, parts))
            if self.other is b.link._connection and size != ping:
                writes.append(size)
            return real(self, parts)

        for count, follows in ((1, False), (5, False), (5, True)):
            b.notes.frames.clear()
            writes.clear()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(SimulatedConnection, "write", write)
                for sequence in range(count):
                    more = follows or sequence < count - 1
                    a.link.send_datagram(number, b"poll", sequence=sequence, more=more)
                if follows:  # behind the last comes something else
                    a.link.send(Kind.CLOSE, number, b"close")
                await settle()
            assert b.got(Kind.DATAGRAM) == [(there, b"poll")] * count
            assert writes == [count * datagram + follows * close]
            assert len(b.got(Kind.CLOSE)) == follows

    story(tell)


def test_too_many_datagrams_in_all_cost_datagrams_and_no_circuit(story, monkeypatch):
    monkeypatch.setattr(limits, "ROUTER_QUEUE_BYTES", 1_000_000)

    async def tell(fabric: Fabric):
        _, a, b = await plant(fabric)
        circuits = [await circuit(fabric, a, b) for _ in range(8)]
        b.link._connection.pause()
        for sequence in range(10):
            for number, _ in circuits:
                a.link.send_datagram(number, bytes(50_000), sequence=sequence)
            await asyncio.sleep(0.05)
        status = json.loads(await facts(fabric))
        assert status["queued_bytes"] <= 1_000_000
        assert status["circuits"] == 8
        assert status["counts"]["datagrams_dropped"] > 20
        b.link._connection.resume()
        await settle()
        assert a.got(Kind.RESET) == b.got(Kind.RESET) == []

    story(tell)


def test_who_cannot_give_up_anything_is_not_asked_for_ever():
    """L-24: whoever sheds looks at one circuit after the other, and the event loop waits."""
    queues, link = Queues(1000), Mock(total_backlog=5000)
    link.largest_backlog.return_value = (7, 5000)
    link.backlog.return_value = 5000
    assert queues.put(link)
    assert list(islice(queues.excess(), 10)) == [(link, 7)]
