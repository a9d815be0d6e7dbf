"""The order in which frames leave, against a plain model (L-23, L-25)."""

from collections import deque
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from overlay import limits
from overlay.link.turns import ENDS, HEAD_START, STREAM_KINDS, Frame, Turns
from overlay.wire.header import HEADER_SIZE, Kind

KINDS = [Kind.OPEN, Kind.CREDIT, Kind.DATA, Kind.CLOSE, Kind.RESET, Kind.CONTROL]


def frame(kind: Kind, circuit: int, number: int, size: int = 10) -> Frame:
    return Frame(kind, 0, size, circuit, number, bytes(size))


class Waiting(NamedTuple):
    """What the model knows of a circuit that has something waiting."""

    fresh: bool
    start: int
    arrived: int
    frames: list[Frame]


class TurnsModel(RuleBasedStateMachine):
    """Control in a list; whose circuit's turn it is is looked for among all each time."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self.control: deque[Frame] = deque()
        self.streams: dict[int, Waiting] = {}
        self.ends: dict[int, int] = {}
        self.clock = 0
        self.lead = 0
        self.number = 0
        self.arrived = 0

    def waits(self, circuit: int, fresh: bool, start: int, frames: list[Frame]) -> None:
        self.arrived += 1
        self.streams[circuit] = Waiting(fresh, start, self.arrived, frames)

    @rule(kind=st.sampled_from(KINDS), circuit=st.integers(1, 4), size=st.integers(0, 300))
    def push(self, kind: Kind, circuit: int, size: int) -> None:
        self.number += 1
        one = frame(kind, circuit, self.number, size * HEAD_START // 400)
        assert self.turns.push(one) == 0
        if kind not in STREAM_KINDS:
            self.control.append(one)
        elif circuit in self.streams:
            self.streams[circuit].frames.append(one)
        else:
            end = self.ends.get(circuit, 0)
            self.waits(circuit, end <= self.clock, max(end, self.clock), [one])

    @rule()
    def pop(self) -> None:
        got = self.turns.pop()
        if self.control:
            assert got == self.control.popleft()
        elif self.streams:
            fresh = [w.arrived for w in self.streams.values() if w.fresh]
            others = [(w.start, w.arrived) for w in self.streams.values() if not w.fresh]
            is_fresh = bool(fresh and (self.lead < HEAD_START or not others))
            turn = min(fresh) if is_fresh else min(others)[1]
            circuit, waiting = next(it for it in self.streams.items() if it[1].arrived == turn)
            assert got == waiting.frames.pop(0)
            del self.streams[circuit]
            size = HEADER_SIZE + got.length
            self.lead = self.lead + size if is_fresh else 0
            self.clock = max(self.clock, waiting.start)
            self.ends[circuit] = waiting.start + size
            if waiting.frames:
                self.waits(circuit, False, self.ends[circuit], waiting.frames)
            elif not self.streams:
                self.rest()
        else:
            assert got is None

    def rest(self) -> None:
        self.ends.clear()
        self.lead = 0

    @rule(circuit=st.integers(1, 4))
    def drop(self, circuit: int) -> None:
        self.turns.drop(circuit)
        self.streams.pop(circuit, None)
        self.ends.pop(circuit, None)

    @rule(circuit=st.integers(1, 4))
    def abandon(self, circuit: int) -> None:
        self.turns.abandon(circuit)
        waiting = self.streams.pop(circuit, None)
        self.ends.pop(circuit, None)
        last = [] if waiting is None else [f for f in waiting.frames if f.kind is Kind.RESET]
        if last:
            self.waits(circuit, True, self.clock, last)

    @rule()
    def drop_streams(self) -> None:
        self.turns.drop_streams()
        self.streams.clear()
        self.rest()

    @invariant()
    def counts(self) -> None:
        sizes = {c: sum(HEADER_SIZE + f.length for f in w.frames) for c, w in self.streams.items()}
        control = sum(HEADER_SIZE + f.length for f in self.control)
        assert self.turns.control == control
        assert self.turns.total == control + sum(sizes.values())
        assert all(self.turns.backlog(c) == sizes.get(c, 0) for c in range(1, 5))
        assert bool(self.turns) is bool(self.control or self.streams)
        assert self.turns.largest()[1] == max(sizes.values(), default=0)


TestTurns = TurnsModel.TestCase


def shares(sizes: list[int], turns: int) -> list[int]:
    """Bytes that each of several circuits gets, circuit n with frames of `sizes[n]`, always something waiting."""
    link = Turns()
    for circuit, size in enumerate(sizes, 1):
        for length in (0, size, size):  # the very first has a head start, so it is small
            link.push(frame(Kind.DATA, circuit, 0, length))
    for _ in sizes:
        link.pop()
    got = [0] * len(sizes)
    for _ in range(turns):
        one = link.pop()
        assert one is not None
        got[one.circuit - 1] += HEADER_SIZE + one.length
        link.push(one)
    return got


@given(st.lists(st.integers(1, limits.MAX_DATA), min_size=2, max_size=12), st.integers(1, 300))
def test_no_circuit_is_ever_more_than_two_frames_ahead(sizes: list[int], turns: int):
    got = shares(sizes, turns)
    for one, had in zip(sizes, got, strict=True):
        for other, others in zip(sizes, got, strict=True):
            assert had - others <= one + other + 2 * HEADER_SIZE


@pytest.mark.parametrize("streams", [2, 8, 64])
def test_small_writers_next_to_large_frames_get_their_share(streams: int):
    sizes = [limits.MAX_DATA if n % 2 else 1000 for n in range(streams)]
    got = shares(sizes, 40_000)
    assert sum(got) ** 2 / (streams * sum(one * one for one in got)) > 0.99


def test_who_had_nothing_waiting_is_next():
    turns = Turns()
    for circuit in range(1, 65):
        for number in range(5):
            turns.push(frame(Kind.DATA, circuit, number, 50_000))
    for _ in range(200):
        turns.pop()
    turns.push(frame(Kind.DATA, 100, 7, 12))
    one = turns.pop()
    assert one is not None
    assert (one.circuit, one.sequence) == (100, 7)
    turns.push(frame(Kind.DATA, 100, 8, 12))
    one = turns.pop()
    assert one is not None
    assert one.circuit != 100  # it has had its turn: it does not overtake for ever


def test_ever_new_circuits_do_not_starve_the_others():
    turns = Turns()
    got = {True: 0, False: 0}
    for number in range(3):
        turns.push(frame(Kind.DATA, 1, number, 50_000))
    for circuit in range(2, 3_000):
        turns.push(frame(Kind.DATA, circuit, 0, 50_000))
        one = turns.pop()
        assert one is not None
        got[one.circuit == 1] += 1
        if one.circuit == 1:
            turns.push(one)
    assert got[True] > 900  # of 3,000; all others had one frame each


def test_a_link_that_never_rests_keeps_nothing_of_circuits_that_are_over():
    turns = Turns()
    for circuit in range(1, 3):
        for number in range(2):
            turns.push(frame(Kind.DATA, circuit, number))
    for circuit in range(3, 20_000):
        turns.push(frame(Kind.DATA, circuit, 0))
        one = turns.pop()
        assert one is not None
        turns.push(one._replace(circuit=1))
        if circuit % 3 == 0:
            turns.push(frame(Kind.DATA, circuit + 10_000, 0))
            turns.drop(circuit + 10_000)
        while len(turns._streams) > 20:
            turns.pop()
        assert len(turns._ends) <= ENDS
        assert len(turns._ready) + len(turns._fresh) < 200


def test_what_is_remembered_of_many_circuits_is_looked_through_rarely():
    turns = Turns()
    for circuit in range(1, 20_000):
        turns.push(frame(Kind.RESET, circuit, 0))
    looks, ends = 0, turns._ends
    while turns.pop() is not None:
        looks += turns._ends is not ends
        ends = turns._ends
    assert looks < 100


# --- datagrams ----------------------------------------------------------------------------------------


def numbers(turns: Turns) -> list[int]:
    """Sequences of all that waits, in the order in which it leaves."""
    return [one.sequence for one in iter(turns.pop, None)]


def test_of_too_many_datagrams_the_oldest_give_way():
    turns = Turns()
    gone = [turns.push(frame(Kind.DATAGRAM, 1, n, 100)) for n in range(limits.DATAGRAM_QUEUE + 10)]
    assert gone == [0] * limits.DATAGRAM_QUEUE + [1] * 10
    assert turns.backlog(1) == limits.DATAGRAM_QUEUE * (HEADER_SIZE + 100) == turns.total
    assert numbers(turns) == list(range(10, limits.DATAGRAM_QUEUE + 10))


def test_datagrams_are_bounded_by_bytes_and_the_newest_always_has_a_place():
    turns = Turns()
    gone = [
        turns.push(frame(Kind.DATAGRAM, 1, n, limits.DATAGRAM_QUEUE_BYTES // 4)) for n in range(9)
    ]
    assert sum(gone) == 6  # with their headers four are too much
    assert turns.crowded(1, limits.DATAGRAM_QUEUE_BYTES // 4)
    assert not turns.crowded(1, 1000)
    assert turns.push(frame(Kind.DATAGRAM, 1, 99, limits.DATAGRAM_QUEUE_BYTES)) == 3
    assert numbers(turns) == [99]
    assert turns.total == 0


def test_datagrams_drive_out_nothing_but_datagrams_of_their_own_circuit():
    turns = Turns()
    turns.push(frame(Kind.DATAGRAM, 2, 500, 100))
    turns.push(frame(Kind.CHECKPOINT, 1, 1000))
    for n in range(limits.DATAGRAM_QUEUE):
        assert turns.push(frame(Kind.DATAGRAM, 1, n, 100)) == 0
    assert turns.push(frame(Kind.CLOSE, 1, 1001)) == 0
    assert turns.push(frame(Kind.DATAGRAM, 1, 1002, 100)) == 1
    left = numbers(turns)
    assert {500, 1000, 1001, 1002} <= set(left)
    assert 0 not in left
    assert 1 in left


def test_datagrams_and_streams_share_like_circuits():
    turns = Turns()
    for n in range(100):
        turns.push(frame(Kind.DATAGRAM, 1, n, 2000))
        turns.push(frame(Kind.DATA, 2, n, 2000))
        turns.push(frame(Kind.DATA, 3, n, 2000))
    first = [one.circuit for one in (turns.pop() for _ in range(150)) if one is not None]
    assert [first.count(circuit) for circuit in (1, 2, 3)] == [50, 50, 50]


def test_the_datagrams_of_a_circuit_can_be_given_up():
    turns = Turns()
    for n in range(5):
        turns.push(frame(Kind.DATAGRAM, 1, n, 100))
    turns.push(frame(Kind.CLOSE, 1, 9))
    turns.push(frame(Kind.DATAGRAM, 2, 20, 100))
    assert turns.drop_datagrams(1) == 5
    assert turns.drop_datagrams(2) == 1
    assert turns.drop_datagrams(3) == 0
    assert turns.total == turns.backlog(1) == HEADER_SIZE + 10
    assert numbers(turns) == [9]


def test_a_reset_stays_behind_its_circuit_and_control_overtakes_all():
    turns = Turns()
    turns.push(frame(Kind.DATA, 1, 1))
    turns.push(frame(Kind.RESET, 1, 2))
    turns.push(frame(Kind.CREDIT, 1, 3))
    assert [turns.pop().kind for _ in range(3)] == [Kind.CREDIT, Kind.DATA, Kind.RESET]  # type: ignore[union-attr]


@pytest.mark.parametrize("streams", [1, 8, 64])
@pytest.mark.parametrize("mixed", [False, True])
def test_streams_share_fairly_and_each_turn_is_used(streams: int, mixed: bool):
    """Jain's index of the bytes of 1 to 64 streams that always have something waiting, whatever the sizes of their
    frames, and a link that is never idle meanwhile."""
    sizes = [4096, 16_384, 65_536, limits.MAX_DATA] if mixed else [limits.MAX_DATA]
    turns = Turns()
    for circuit in range(1, streams + 1):
        for number in range(2):
            turns.push(frame(Kind.DATA, circuit, number, sizes[circuit % len(sizes)]))
    sent = [0] * streams
    wanted = 100 * streams * limits.MAX_DATA
    while sum(sent) < wanted:
        one = turns.pop()
        assert one is not None, "something waits, so something leaves"
        sent[one.circuit - 1] += HEADER_SIZE + one.length
        turns.push(one)
    assert sum(sent) ** 2 / (streams * sum(each * each for each in sent)) >= 0.99
    assert sum(sent) < wanted + HEADER_SIZE + limits.MAX_DATA
