"""What the first process and its workers tell each other, and what a worker makes of it."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.audit.event import EventName, Outcome
from overlay.audit.merging import BURST
from overlay.errors import DecodeError, FerruleError, TrustError
from overlay.fabric.authority import Authority, Kill
from overlay.identity.fields import FloorTime
from overlay.identity.trust import Signers, sign_body
from overlay.policy.grant import Grant
from overlay.wire.bodies import Attachment
from router import messages
from router.briefing import Told
from router.program import _workers
from router.replica import Copies, Replica
from router.shedding import LARGEST_QUEUE, Queues
from router.workers import Worker
from tests.support.pki import NOW, Pki

PKI = Pki()
CONTROLLER = PKI.controller()
BOOT = 1000.0
OFFSET = NOW - int(BOOT * 1e6)


def identity() -> messages.Identity:
    mine = PKI.router("r1")
    return messages.Identity(mine.anchor.root, mine.key.seed, mine.chain, 3, "1.2")


def test_a_message_of_any_size_arrives_whole():
    for size in (0, 1, messages.PART - 20, messages.PART, 3 * messages.PART + 7):
        sent = messages.Restrictions(bytes(size), NOW)
        packets = messages.packets(sent)
        assert all(len(packet) <= messages.PART + 1 for packet in packets)
        assembler = messages.Assembler()
        got = [assembler.feed(packet) for packet in (*packets, *packets)]
        assert [one for one in got if one is not None] == [sent, sent]


def test_every_kind_of_message_is_told_from_the_others():
    sent: list[messages.Message] = [
        identity(),
        messages.Time(-5, 0, answered=True),
        messages.Signers((b"der",)),
        messages.Restrictions(b"signed", 1),
        messages.Condition(room=True),
        messages.Dials((("r2", "r2:1"),)),
        messages.Places((Attachment("edge-a", (("r2", 5),), 1, 1, NOW),)),
        messages.Ways({"r2": (5.0, ("r2",))}),
        messages.Accepted(1, b"FRL1", 4.5),
        messages.Leave(),
        messages.Opened(1, authenticated=True),
        messages.Applied(7),
        messages.Recorded(EventName.LINK_UP, Outcome.DONE, {"who": "edge-a", "count": 1}),
        messages.Facts(1, 2, 3, 4, 5, {"cut": 1}),
    ]
    assembler = messages.Assembler()
    assert [assembler.feed(packet) for one in sent for packet in messages.packets(one)] == sent


@given(st.binary(max_size=200))
def test_what_is_no_message_is_refused(data: bytes):
    with contextlib.suppress(DecodeError):
        assert messages.Assembler().feed(data) is None or data[:1] == b"\0"


def test_a_message_without_end_is_refused():
    assembler = messages.Assembler()
    with pytest.raises(DecodeError):
        for _ in range(messages.MESSAGE // messages.PART + 2):
            assembler.feed(b"\x01" + bytes(messages.PART))


def test_only_news_is_told_again():
    told = Told()
    assert told.is_news(messages.Condition(room=True))
    assert not told.is_news(messages.Condition(room=True))
    assert told.is_news(messages.Time(1, 1, answered=False))
    assert told.is_news(messages.Condition(room=False))
    assert not told.is_news(messages.Time(1, 1, answered=False))


class Knowing:
    """A replica and what it said."""

    def __init__(self) -> None:
        self.boot = BOOT
        self.said: list[messages.ToFirst] = []
        self.replica = Replica(lambda: self.boot, self.said.append)


def test_a_worker_that_was_told_nothing_knows_nothing():
    replica = Knowing().replica
    assert replica.name == ""
    assert replica.admission is None
    assert not replica.room()
    for ask in (replica.credentials, replica.authority):
        with pytest.raises(FerruleError):
            ask()
    with pytest.raises(FerruleError):
        replica.learn(messages.Condition(room=True))


def test_time_goes_on_with_the_machine_and_never_back():
    known = Knowing()
    known.replica.learn(messages.Time(OFFSET, NOW - 5, answered=False))
    assert known.replica.plant_now() == NOW
    first = known.replica.certificate_now()
    assert (type(first), first) == (FloorTime, NOW - 5)
    known.boot += 2.0
    assert known.replica.plant_now() == NOW + 2_000_000
    known.replica.learn(messages.Time(OFFSET - 60_000_000, 0, answered=True))
    assert known.replica.plant_now() == NOW + 2_000_000
    assert type(known.replica.certificate_now()) is int


def test_who_signs_and_what_is_void_is_what_the_first_process_believes():
    known = Knowing()
    known.replica.identify(identity())
    replica = known.replica
    replica.learn(messages.Time(OFFSET, 0, answered=True))
    assert replica.name == "r1"
    body = Grant(
        b"g" * 16, "c1", PKI.key("edge-a").key_id, "hmi-a", "edge-a", "plc-b.modbus", "plc-b", ("edge-b",),
        0, 0, NOW - 1, NOW + 9, NOW + 9, 0, 0, (), (), 1, 1,
    )  # fmt: skip
    grant = sign_body(body, CONTROLLER.key, PKI.anchor)  # without chain, as controllers do
    assert replica.admission is not None
    with pytest.raises(TrustError, match="not known"):
        replica.admission.verify(grant, NOW)
    replica.learn(messages.Signers((CONTROLLER.chain[0],)))
    assert replica.admission.verify(grant, NOW).who == "hmi-a"
    killed = Authority(1, NOW, (Kill(b"k" * 16, "plant", "", "", 0, 0),), (), ())
    signed = sign_body(killed, CONTROLLER.key, PKI.anchor, CONTROLLER.chain)
    replica.learn(messages.Restrictions(signed, NOW))
    assert replica.authority().version == 1
    assert replica.authority().blocks(body, NOW) is not None
    replica.learn(messages.Signers(()))  # it is believed no more
    fresh = sign_body(msgspec.structs.replace(body, who="x"), CONTROLLER.key, PKI.anchor)
    with pytest.raises(TrustError):
        replica.admission.verify(fresh, NOW)


def test_only_controllers_are_adopted_as_signers():
    signers = Signers(PKI.anchor)
    with pytest.raises(TrustError, match="not a controller"):
        signers.adopt((CONTROLLER.chain[0], PKI.edge().chain[0]))
    with pytest.raises(TrustError):
        signers.adopt((b"\x30",))
    assert signers.controllers() == ()
    signers.adopt((CONTROLLER.chain[0],))
    assert signers.controllers() == (CONTROLLER.chain[0],)


def test_places_are_replaced_and_end():
    places = Copies()
    places.take(Attachment("edge-a", (("r2", 5),), 1, 1, NOW + 5))
    places.take(Attachment("edge-a", (("r3", 5),), 1, 2, NOW + 9))
    found = places.where("edge-a", NOW)
    assert found is not None
    assert found.routers == (("r3", 5),)
    assert places.where("edge-a", NOW + 9) is None
    assert places.where("edge-b", NOW) is None
    places.expire(NOW + 9)
    assert len(places) == 0


def test_who_knocks_without_end_at_a_worker_does_not_fill_the_pair():
    known = Knowing()
    for _ in range(1000):
        known.replica.record(EventName.SECURITY_REFUSED, Outcome.DENIED, who="edge-x", reason="no")
    assert len(known.said) == BURST
    known.boot += 120.0
    known.replica.tick()
    last = known.said[-1]
    assert isinstance(last, messages.Recorded)
    assert last.fields["count"] == 1000 - BURST


def test_counters_go_on_over_the_death_of_a_process_and_its_places_are_given_back():
    worker = Worker(1)
    freed: list[bool] = []
    worker.tickets = {1: freed.append, 2: freed.append}
    worker.facts = messages.Facts(links=2, circuits=1, frames=10, bytes=100, counts={"cut": 2})
    worker.over()
    assert freed == [False, False]
    assert (worker.facts.links, worker.facts.circuits, worker.tickets) == (0, 0, {})
    worker.facts = messages.Facts(frames=1, bytes=5, counts={"cut": 1})
    assert worker.totals() == {"frames": 11, "bytes": 105, "cut": 3}


def test_processes_share_what_may_wait():
    whole = limits.ROUTER_QUEUE_BYTES
    assert Queues.shared(1)._most == whole
    assert Queues.shared(2)._most == whole // 2
    assert Queues.shared(limits.BULK_LANES + 1)._most == 2 * LARGEST_QUEUE


@pytest.mark.parametrize("text", ["-1", "17", "two", "1.5", "", "²"])
def test_a_number_of_workers_that_cannot_be(text: str):
    with pytest.raises(FerruleError, match="--workers must be a number from 0 to 16"):
        _workers({"workers": text})


def test_how_many_workers_there_are(monkeypatch):
    for cores, wanted in ((1, 1), (2, 1), (4, 3), (64, limits.BULK_LANES)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, cores=cores: set(range(cores)))
        assert _workers({}) == wanted
    assert (_workers({"workers": "0"}), _workers({"workers": "16"})) == (0, 16)
