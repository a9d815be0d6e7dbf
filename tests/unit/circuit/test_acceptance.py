"""ACCEPT of a later circuit waits for READY and the first answer, takes them along, and is ever the same (C-14, C-15)."""

from typing import Any

import pytest

from overlay import limits
from overlay.circuit.acceptance import FIRST_ANSWER
from overlay.circuit.association import Answer, CallerAssociation, HostAssociation
from overlay.circuit.caller import RANDOM_SIZE, CallerOpening, Wish
from overlay.circuit.circuit import Circuit
from overlay.circuit.events import Delivered, Opened
from overlay.circuit.host import open_from
from overlay.errors import Code, FerruleError, ProtocolError, TamperError
from overlay.wire.bodies import STRICT, Accept, Open, OpenIntent
from overlay.wire.codec import decode, encode
from overlay.wire.header import Header, Kind
from tests.support.pki import NOW, Pki

PKI = Pki()
A: Any = PKI.edge("edge-a")
B: Any = PKI.edge("edge-b")


class Later:
    """A later circuit of a living association: what its caller holds, and the host's core."""

    def __init__(self, early: bytes = b"poll", *, integrity: int = 0, random: int = 0) -> None:
        association = CallerAssociation(b"n" * 16, b"s" * 32, B.leaf, A.leaf, "", 600.0)
        wish = Wish("plc-b.modbus", b"grant", ("edge-b",), integrity, 0)
        self.opening = CallerOpening(
            wish, A, bytes([random]) * RANDOM_SIZE, plant_now=NOW, admit=lambda _: None,
            association=association, early=early,
        )  # fmt: skip
        self.hosted = HostAssociation(b"n" * 16, b"s" * 32, A.leaf, A.leaf.public, B, "", 600.0)
        body = decode(Open, self.opening.payload((), ("edge-a",)))
        intent = decode(OpenIntent, body.intent)
        self.host: Circuit
        self.host, self.early = open_from(self.hosted, body, intent, b"h" * 32)
        self.number = intent.number

    def take(self) -> list[Kind]:
        """What the host says now; its ACCEPT is the one that a repeated OPEN gets."""
        frames = self.host.take()
        for frame in frames:
            if frame.kind is Kind.ACCEPT:
                assert frame.payload == self.hosted.accept_of(self.number)
                self.accept = decode(Accept, frame.payload)
        return [frame.kind for frame in frames]

    def accepted(self, body: Accept) -> tuple[Circuit, list[Any]]:
        """The caller takes it."""
        core, _, events = self.opening.accept(encode(body), 0.0)
        return core, events


def test_one_frame_says_it_all_where_the_asset_answers_early_data():
    circuit = Later()
    assert circuit.early == b"poll"
    assert circuit.take() == []
    circuit.host.ready(7)
    assert circuit.take() == []
    circuit.host.send(b"answer", 0.0)
    assert circuit.take() == [Kind.ACCEPT]
    core, events = circuit.accepted(circuit.accept)
    assert events == [Opened(7), Delivered(b"answer")]
    assert core.opened
    assert core.take() == []
    core.end(0.0)
    for frame in core.take():
        header = Header(frame.kind, frame.flags, len(frame.payload), 0, frame.sequence)
        circuit.host.receive(header, memoryview(bytes(frame.payload)), 0.0)
    assert circuit.host.kept_bytes == 0, "the answer is acknowledged as any other frame"
    assert circuit.host.receipt.caller == core.receipt.caller


def test_without_early_data_it_waits_for_nothing():
    """The caller can say nothing before it has keys."""
    circuit = Later(b"")
    assert circuit.take() == [Kind.ACCEPT]
    assert circuit.accept == Accept(b"h" * 32, b"")
    circuit.host.ready(7)
    assert circuit.take() == [Kind.READY]


@pytest.mark.parametrize("ready", [False, True])
def test_when_its_time_is_over_it_is_said_with_what_there_is(ready: bool):
    circuit = Later()
    if ready:
        circuit.host.ready(7)
    circuit.host.accept_now()
    assert circuit.take() == [Kind.ACCEPT]
    assert bool(circuit.accept.ready) is ready
    if not ready:
        circuit.host.ready(7)
        assert circuit.take() == [Kind.READY]
    circuit.host.send(b"answer", 0.0)
    assert circuit.take() == [Kind.DATA]


def test_what_is_not_a_small_first_answer_follows_as_it_always_did():
    circuit = Later()
    circuit.host.ready(7)
    circuit.host.send(bytes(FIRST_ANSWER), 0.0)
    assert circuit.take() == [Kind.ACCEPT, Kind.DATA]
    strict = Later(b"", integrity=STRICT)
    strict.host.ready(7)
    strict.host.send(b"signed", 0.0)
    assert strict.take() == [Kind.ACCEPT, Kind.DATA]
    refused = Later()
    refused.host.refuse(Code.UNREACHABLE, "no", 0.0)
    assert refused.take() == [Kind.ACCEPT, Kind.REFUSE]


def test_an_accept_that_was_said_elsewhere_before_is_the_same_here_and_holds_nothing_new():
    """C-15: its OPEN was repeated while it still waited."""
    circuit = Later()
    said = circuit.hosted.accept_of(circuit.number)
    circuit.host.ready(7)
    circuit.host.send(b"answer", 0.0)
    frames = circuit.host.take()
    assert [frame.kind for frame in frames] == [Kind.ACCEPT, Kind.READY, Kind.DATA]
    assert frames[0].payload == said == encode(Accept(b"h" * 32, b"", b"", b""))


@pytest.mark.parametrize("along", [True, False])
def test_an_answer_that_came_along_is_kept_only_until_the_caller_shows_that_it_has_it(along: bool):
    """Else 1,024 numbers of each of 1,024 associations could hold 4 KiB. Without READY the caller may ask again (C-17)."""
    circuit = Later()
    hosted, number = circuit.hosted, circuit.number
    digest = hosted._answers[number][0]
    if along:
        circuit.host.ready(7)
        circuit.host.send(bytes(2048), 0.0)
    circuit.host.accept_now()
    assert circuit.take()[0] is Kind.ACCEPT
    assert (len(hosted.accept_of(number)) > 2048) is along
    assert circuit.host.kept_bytes >= len(hosted.accept_of(number))
    assert hosted.judge(number, digest) is Answer.REPEATED
    circuit.host.forget()
    assert hosted.judge(number, digest) is (Answer.LATE if along else Answer.REPEATED)
    assert hosted.judge(number, b"other") is Answer.REPLAYED
    assert len(hosted._answers[number][1].payload) < 100


def test_what_comes_along_is_bound_to_the_circuit():
    """It is sealed as the frames would be: no router can change it, or take it from elsewhere."""
    genuine, other = Later(), Later(random=1)
    for one in (genuine, other):
        one.host.ready(7)
        one.host.send(b"answer", 0.0)
        one.take()
    body = genuine.accept
    bad = [
        body.__class__(body.random, b"", other.accept.ready, body.data),
        body.__class__(body.random, b"", body.ready, other.accept.data),
        body.__class__(body.random, b"", body.data, body.ready),
        body.__class__(body.random, b"", body.ready + b"x", body.data),
        body.__class__(b"x" * 32, b"", body.ready, body.data),
    ]
    for place in range(0, len(body.data), 3):
        flipped = bytearray(body.data)
        flipped[place] ^= 1
        bad.append(body.__class__(body.random, b"", body.ready, bytes(flipped)))
    for forged in bad:
        with pytest.raises((TamperError, ProtocolError)):
            Later().accepted(forged)
    assert Later().accepted(body)[1] == [Opened(7), Delivered(b"answer")]


def test_a_host_that_does_not_know_the_caller_yet_is_not_ready():
    wish = Wish("plc-b.modbus", b"grant", ("edge-b",), 0, 0)
    first = CallerOpening(wish, A, bytes(RANDOM_SIZE), plant_now=NOW, admit=lambda _: None)
    with pytest.raises(ProtocolError, match="before it knows who calls"):
        first.accept(encode(Accept(bytes(32), b"flight", b"ready")), 0.0)


def test_data_without_ready_is_refused():
    with pytest.raises(ProtocolError, match="without READY"):
        Later().accepted(Accept(b"h" * 32, b"", b"", bytes(40)))


@pytest.mark.parametrize(("ready", "data"), [(65, 0), (30, limits.MAX_EARLY_DATA + 17)])
def test_what_comes_along_is_bounded(ready: int, data: int):
    with pytest.raises(FerruleError):
        Later().accepted(Accept(b"h" * 32, b"", bytes(ready), bytes(data)))
