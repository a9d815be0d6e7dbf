"""Hello, circuit numbers, resets, limits and keepalive of one link (L-20 to L-34)."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from overlay import limits
from overlay.errors import Code, LimitError, ProtocolError
from overlay.link.link import (
    DELIVER,
    HEALTH,
    NUMBERS_PER_LINK,
    Control,
    Ended,
    Link,
    State,
    Up,
)
from overlay.wire.bodies import EXPRESS, Attach, Hello, Refusal
from overlay.wire.codec import decode, encode
from overlay.wire.header import Flag, Header, Kind

ID = bytes(16)
HELLO = Hello(ID, EXPRESS, 1, "0")
EMPTY = memoryview(b"")


def link(*, dialer: bool = False, newcomer: bool = False, up: bool = True) -> Link:
    made = Link(dialer=dialer, newcomer=newcomer, link_id=ID, now=0.0)
    if up:
        assert give(made, Kind.CONTROL, 0, encode(HELLO)) == Up(HELLO)
    return made


def give(
    to: Link,
    kind: Kind,
    circuit: int,
    payload: bytes = b"",
    now: float = 0.0,
    length: int | None = None,
    flags: int = 0,
):
    size = len(payload) if length is None else length
    return to.receive(Header(kind, flags, size, circuit, 0), memoryview(payload), now)


def said(by: Link) -> list[tuple[Kind, int]]:
    out = [(frame.kind, frame.circuit) for frame in by.outbox]
    by.outbox.clear()
    return out


def code_of(by: Link) -> Code:
    return Code(decode(Refusal, by.outbox[-1].payload).code)  # type: ignore[arg-type]


def test_hello_comes_first_and_once():
    fresh = link(up=False)
    for kind in (Kind.PING, Kind.PONG, Kind.OPEN, Kind.DATA, Kind.RESET):
        with pytest.raises(ProtocolError):
            give(fresh, kind, 1 if kind < Kind.PING else 0, bytes(8))
    with pytest.raises(ProtocolError):
        give(fresh, Kind.CONTROL, 0, encode(Attach(())))
    assert give(fresh, Kind.CONTROL, 0, encode(HELLO)) == Up(HELLO)
    with pytest.raises(ProtocolError):
        give(fresh, Kind.CONTROL, 0, encode(HELLO))


def test_a_hello_of_another_link_or_lane_is_refused():
    for hello in (Hello(b"x" * 16, 0, 1, ""), Hello(ID, 1, 1, "")):
        with pytest.raises(ProtocolError):
            give(link(up=False), Kind.CONTROL, 0, encode(hello))


def test_on_a_bulk_lane_circuits_come_by_resume_only_and_nothing_is_published():
    here = Link(dialer=False, newcomer=False, link_id=ID, now=0.0, lane=1)
    with pytest.raises(ProtocolError):
        give(here, Kind.CONTROL, 0, encode(HELLO))
    hello = Hello(ID, 1, 1, "0")
    assert give(here, Kind.CONTROL, 0, encode(hello)) == Up(hello)
    assert give(here, Kind.RESUME, 1) is DELIVER
    with pytest.raises(ProtocolError):
        give(here, Kind.OPEN, 3)
    with pytest.raises(ProtocolError):
        give(here, Kind.CONTROL, 0, encode(Attach(())))


def test_control_of_a_later_version_is_ignored_and_counted_and_nonsense_is_refused():
    here = link()
    assert give(here, Kind.CONTROL, 0, encode((77, "new"))) is None
    assert here.ignored == 1
    assert give(here, Kind.CONTROL, 0, encode(Attach((b"x",)))) == Control(Attach((b"x",)))
    for nonsense in (b"", b"\xc1", encode((2,)), encode(("x",)), b"\x91" * 5000):
        with pytest.raises(ProtocolError):
            give(here, Kind.CONTROL, 0, nonsense)


@given(st.binary(max_size=200), st.sampled_from(list(Kind)), st.integers(0, 5))
def test_whatever_comes_ends_in_an_answer_or_a_protocol_error(
    payload: bytes, kind: Kind, circuit: int
):
    here = link()
    give(here, Kind.OPEN, 1)
    with contextlib.suppress(ProtocolError):
        give(here, kind, circuit, payload)


@pytest.mark.parametrize(("dialer", "theirs", "ours"), [(True, 2, 1), (False, 1, 2)])
def test_numbers_have_parity_and_rise(dialer: bool, theirs: int, ours: int):
    here = link(dialer=dialer)
    assert here.next_circuit() == ours
    assert give(here, Kind.OPEN, theirs + 4) is DELIVER
    with pytest.raises(ProtocolError):
        give(here, Kind.OPEN, theirs + 2)  # lower
    with pytest.raises(ProtocolError):
        give(here, Kind.OPEN, theirs + 4)  # the same
    with pytest.raises(ProtocolError):
        give(here, Kind.RESUME, theirs + 4)
    with pytest.raises(ProtocolError):
        give(here, Kind.OPEN, ours + 100)  # our parity
    for kind in (Kind.DATA, Kind.RESET, Kind.CREDIT):
        with pytest.raises(ProtocolError):
            give(here, kind, theirs + 100)  # never opened
        with pytest.raises(ProtocolError):
            give(here, kind, ours)  # numbered, but not said yet
    assert here.may_send(Kind.OPEN, ours)
    assert give(here, Kind.ACCEPT, ours) is DELIVER
    assert not here.may_send(Kind.OPEN, ours)  # never reused


def test_answers_come_from_the_side_that_did_not_open():
    here = link()
    give(here, Kind.OPEN, 1)
    for kind in (Kind.ACCEPT, Kind.READY, Kind.REFUSE):
        with pytest.raises(ProtocolError):
            give(here, kind, 1)


def test_frames_of_the_link_have_no_circuit():
    for kind in (Kind.PING, Kind.PONG, Kind.CONTROL, Kind.GOAWAY):
        with pytest.raises(ProtocolError):
            give(link(), kind, 1, bytes(8))
    here = link()
    give(here, Kind.OPEN, 1)
    here.may_send(Kind.ACCEPT, 1)
    with pytest.raises(ProtocolError):
        give(here, Kind.PING, 1, bytes(8))


def test_a_frame_of_a_circuit_that_is_over_is_answered_with_reset_once():
    here = link()
    give(here, Kind.OPEN, 1)
    assert give(here, Kind.RESET, 1) is DELIVER
    assert said(here) == [(Kind.RESET, 1)]
    assert give(here, Kind.DATA, 1) is None
    assert code_of(here) is Code.UNKNOWN_CIRCUIT
    assert said(here) == [(Kind.RESET, 1)]
    assert give(here, Kind.DATA, 1) is None
    assert give(here, Kind.RESET, 1) is None  # the answer
    assert give(here, Kind.RESET, 1) is None  # of an unknown circuit: never answered
    assert said(here) == []


def test_after_reset_everything_is_ignored_until_the_answer():
    here = link(dialer=True)
    number = here.next_circuit()
    here.may_send(Kind.OPEN, number)
    assert here.may_send(Kind.RESET, number)
    assert not here.may_send(Kind.RESET, number)
    assert not here.may_send(Kind.DATA, number)
    for kind in (Kind.ACCEPT, Kind.DATA, Kind.REFUSE):
        assert give(here, kind, number) is None
    assert give(here, Kind.RESET, number) is None
    assert said(here) == []
    assert here.circuits == 0


def test_a_refused_hop_is_freed_by_who_is_refused():
    caller, host = link(dialer=True), link()
    number = caller.next_circuit()
    caller.may_send(Kind.OPEN, number)
    assert give(host, Kind.OPEN, number) is DELIVER
    assert host.may_send(Kind.REFUSE, number)
    assert not host.may_send(Kind.DATA, number)
    assert give(caller, Kind.REFUSE, number) is DELIVER
    assert said(caller) == [(Kind.RESET, number)]
    assert give(host, Kind.RESET, number) is None
    assert said(host) == [(Kind.RESET, number)]
    assert give(caller, Kind.RESET, number) is None
    assert (caller.circuits, host.circuits, caller._circuits, host._circuits) == (0, 0, {}, {})


def running() -> tuple[Link, Link]:
    """Both sides of a link with circuit 1."""
    caller, host = link(dialer=True), link()
    number = caller.next_circuit()
    caller.may_send(Kind.OPEN, number)
    give(host, Kind.OPEN, number)
    host.may_send(Kind.ACCEPT, number)
    give(caller, Kind.ACCEPT, number)
    return caller, host


def test_a_circuit_is_over_when_both_sides_have_said_their_last_frame():
    """L-38: without RESET."""
    caller, host = running()
    assert host.may_send(Kind.CLOSE, 1, Flag.LAST)
    assert not host.may_send(Kind.CREDIT, 1)
    assert give(caller, Kind.CLOSE, 1, flags=Flag.LAST) is DELIVER
    assert caller.circuits == host.circuits == 1
    assert caller.may_send(Kind.CREDIT, 1, Flag.LAST)
    assert give(host, Kind.CREDIT, 1, flags=Flag.LAST) is DELIVER
    assert said(caller) == said(host) == []
    assert (caller.circuits, host.circuits, caller._circuits, host._circuits) == (0, 0, {}, {})
    assert not caller.may_send(Kind.RESET, 1)
    assert not host.may_send(Kind.RESET, 1)


def test_after_its_last_frame_nothing_of_a_side_counts_but_reset():
    caller, host = running()
    assert host.may_send(Kind.CLOSE, 1, Flag.LAST)
    give(caller, Kind.CLOSE, 1, flags=Flag.LAST)
    for kind in (Kind.DATA, Kind.CREDIT, Kind.READY):
        assert give(caller, kind, 1) is None
    assert caller.is_open(1)
    assert host.may_send(Kind.RESET, 1)
    assert give(caller, Kind.RESET, 1) is DELIVER
    assert said(caller) == [(Kind.RESET, 1)]
    assert give(host, Kind.RESET, 1) is None
    assert (caller._circuits, host._circuits) == ({}, {})


def test_a_reset_of_who_heard_the_last_frame_needs_no_answer():
    caller, host = running()
    assert host.may_send(Kind.CLOSE, 1, Flag.LAST)
    give(caller, Kind.CLOSE, 1, flags=Flag.LAST)
    assert caller.may_send(Kind.RESET, 1)
    assert give(host, Kind.RESET, 1) is DELIVER
    assert said(host) == []
    assert (caller.circuits, host.circuits, caller._circuits, host._circuits) == (0, 0, {}, {})


def test_the_last_frame_answers_a_reset_that_crosses_it():
    caller, host = running()
    assert host.may_send(Kind.CLOSE, 1, Flag.LAST)
    assert caller.may_send(Kind.RESET, 1)
    assert give(caller, Kind.CLOSE, 1, flags=Flag.LAST) is None
    assert give(host, Kind.RESET, 1) is DELIVER
    assert (caller.circuits, host.circuits, caller._circuits, host._circuits) == (0, 0, {}, {})


def test_circuits_beyond_the_limit_are_refused_and_harm_none():
    here = link()
    for number in range(limits.CIRCUITS_PER_LINK):
        assert give(here, Kind.OPEN, 2 * number + 1) is DELIVER
        here.may_send(Kind.ACCEPT, 2 * number + 1)
    beyond = 2 * limits.CIRCUITS_PER_LINK + 1
    assert give(here, Kind.OPEN, beyond) is None
    assert code_of(here) is Code.BUSY
    assert here.outbox[-1].kind is Kind.REFUSE
    assert give(here, Kind.DATA, 1) is DELIVER
    assert give(here, Kind.DATA, beyond) is None


def test_unanswered_opens_are_bounded_and_resumes_do_not_count():
    here = link()
    for number in range(limits.OPENS_PENDING_PER_LINK):
        assert give(here, Kind.OPEN, 2 * number + 1) is DELIVER
    beyond = 2 * limits.OPENS_PENDING_PER_LINK + 1
    assert give(here, Kind.RESUME, beyond) is DELIVER
    assert give(here, Kind.OPEN, beyond + 2) is None
    assert code_of(here) is Code.BUSY
    here.may_send(Kind.ACCEPT, 1)
    assert give(here, Kind.OPEN, beyond + 4) is DELIVER


def test_numbers_in_doubt_are_bounded():
    here = link()
    number = 1
    with pytest.raises(LimitError):
        for _ in range(NUMBERS_PER_LINK + 1):
            give(here, Kind.OPEN, number)
            here.may_send(Kind.RESET, number)  # and it never answers
            number += 2
    assert len(here._circuits) == NUMBERS_PER_LINK


def test_a_link_for_enrolling_carries_one_circuit_a_few_bytes_and_not_long():
    here = link(newcomer=True)
    assert give(here, Kind.OPEN, 1) is DELIVER
    with pytest.raises(LimitError):
        give(here, Kind.OPEN, 3)
    with pytest.raises(ProtocolError):
        give(here, Kind.CONTROL, 0, encode(Attach(())))
    with pytest.raises(LimitError):
        for _ in range(10):
            give(here, Kind.DATA, 1, length=limits.ENROL_BYTES // 8)
    here.liveness.heard = limits.ENROL_SECONDS - 1
    assert here.tick(limits.ENROL_SECONDS - 1) is None
    assert isinstance(here.tick(limits.ENROL_SECONDS), Ended)
    again = link(newcomer=True)
    give(again, Kind.OPEN, 1)
    give(again, Kind.RESET, 1)
    with pytest.raises(LimitError):
        give(again, Kind.OPEN, 3)


def test_ping_is_echoed_and_measures_the_round_trip():
    here = link(dialer=True)
    assert here.tick(limits.PING_INTERVAL) is None
    ping = here.outbox.pop()
    assert (ping.kind, ping.length) == (Kind.PING, 8)
    other = link()
    give(other, Kind.PING, 0, ping.payload)  # type: ignore[arg-type]
    pong = other.outbox.pop()
    give(here, Kind.PONG, 0, pong.payload, now=1.25)  # type: ignore[arg-type]
    assert here.liveness.round_trip == pytest.approx(0.25)
    give(here, Kind.PONG, 0, bytes(8), now=100.0)  # a lie is not believed
    assert here.liveness.round_trip == pytest.approx(0.25)


def test_a_probe_knows_its_answer_from_those_to_other_pings():
    here = link()
    first, second = here.probe(1.0), here.probe(1.5)
    pings = [ping.payload for ping in here.outbox]
    assert [ping.kind for ping in here.outbox] == [Kind.PING, Kind.PING]
    give(here, Kind.PONG, 0, pings[0], now=1.75)  # type: ignore[arg-type]
    assert here.ponged == pytest.approx((first, 0.75))
    assert here.ponged[0] < second
    give(here, Kind.PONG, 0, pings[1], now=1.75)  # type: ignore[arg-type]
    assert here.ponged == pytest.approx((second, 0.25))
    give(here, Kind.PONG, 0, bytes(8), now=100.0)  # a lie is not believed
    assert here.ponged[0] == second


def test_silence_is_death():
    here = link(dialer=True)
    now, pings = 0.0, 0
    while (ended := here.tick(now)) is None:
        pings += len(said(here))
        now = here.deadline(now)
    assert isinstance(ended, Ended)
    assert ended.code is Code.PATH_LOST
    assert now <= limits.DEAD_AFTER
    assert pings >= 2
    busy = link()
    for second in range(1, 60):
        busy.liveness.heard = float(second)
        assert busy.tick(float(second)) is None
    assert said(busy) != []  # it hears, but has said nothing itself


def test_goaway_ends_the_link_or_only_drains_it():
    here = link()
    assert give(here, Kind.GOAWAY, 0, encode(Refusal(Code.REVOKED, "x"))) == Ended(
        Code.REVOKED, "x"
    )
    assert give(here, Kind.GOAWAY, 0, encode(Refusal(99, ""))) == Ended(Code.PROTOCOL, "")
    assert give(here, Kind.GOAWAY, 0, encode(Refusal(Code.GOING_AWAY, ""))) is HEALTH
    assert here.going_away
    assert give(here, Kind.GOAWAY, 0, encode(Refusal(Code.GOING_AWAY, "again"))) is None
    give(here, Kind.OPEN, 1)
    here.goodbye(Code.GOING_AWAY, "bye")
    assert give(here, Kind.OPEN, 3) is None
    assert code_of(here) is Code.GOING_AWAY
    assert give(here, Kind.DATA, 1) is DELIVER
    with pytest.raises(ProtocolError):
        give(here, Kind.GOAWAY, 0, b"\xc1")
    refused = link(up=False, dialer=True)
    assert isinstance(give(refused, Kind.GOAWAY, 0, encode(Refusal(Code.GOING_AWAY, ""))), Ended)


class TwoEnds(RuleBasedStateMachine):
    """Two links that talk over two queues: whatever happens, no protocol error, and all numbers are freed at the end."""

    @initialize()
    def begin(self) -> None:
        self.ends = [link(dialer=True), link()]
        self.wires: list[list[tuple[Kind, int, int]]] = [[], []]  # to end 0, to end 1

    def flush(self, end: int) -> None:
        for kind, circuit in said(self.ends[end]):
            self.wires[1 - end].append((kind, circuit, 0))

    def send(self, end: int, kind: Kind, circuit: int, flags: int = 0) -> None:
        if self.ends[end].may_send(kind, circuit, flags):
            self.wires[1 - end].append((kind, circuit, flags))

    @rule(end=st.integers(0, 1), kind=st.sampled_from([Kind.OPEN, Kind.RESUME]))
    def open(self, end: int, kind: Kind) -> None:
        self.send(end, kind, self.ends[end].next_circuit())

    @rule(
        end=st.integers(0, 1),
        kind=st.sampled_from([Kind.DATA, Kind.RESET, Kind.CLOSE]),
        number=st.integers(1, 12),
    )
    def talk(self, end: int, kind: Kind, number: int) -> None:
        self.send(end, kind, number)

    @rule(
        end=st.integers(0, 1),
        kind=st.sampled_from([Kind.CREDIT, Kind.CLOSE]),
        number=st.integers(1, 12),
    )
    def say_the_last(self, end: int, kind: Kind, number: int) -> None:
        self.send(end, kind, number, Flag.LAST)

    @rule(
        end=st.integers(0, 1),
        kind=st.sampled_from([Kind.ACCEPT, Kind.REFUSE]),
        number=st.integers(1, 12),
    )
    def answer(self, end: int, kind: Kind, number: int) -> None:
        theirs = bool(number & 1) is not self.ends[end].dialer
        if theirs:
            self.send(end, kind, number)

    @rule(end=st.integers(0, 1))
    def deliver(self, end: int) -> None:
        if self.wires[end]:
            kind, circuit, flags = self.wires[end].pop(0)
            give(self.ends[end], kind, circuit, flags=flags)
            self.flush(end)

    def settle(self) -> None:
        while any(self.wires):
            for end in (0, 1):
                self.deliver(end)

    @invariant()
    def counts(self) -> None:
        for end in getattr(self, "ends", []):
            assert end.circuits == sum(state <= State.LIVE for state in end._circuits.values())
            assert 0 <= end._asked <= end.circuits

    def teardown(self) -> None:
        if not hasattr(self, "ends"):
            return
        self.settle()
        for number in range(1, 200):
            self.send(0, Kind.RESET, number)
        self.settle()
        assert [end._circuits for end in self.ends] == [{}, {}]


TestTwoEnds = TwoEnds.TestCase
