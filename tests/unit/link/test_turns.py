"""The order in which frames leave, against a plain model (L-23)."""

from collections import deque

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from overlay.link.turns import STREAM_KINDS, Frame, Turns
from overlay.wire.header import HEADER_SIZE, Kind

KINDS = [Kind.OPEN, Kind.CREDIT, Kind.DATA, Kind.CLOSE, Kind.RESET, Kind.CONTROL]


def frame(kind: Kind, circuit: int, number: int, size: int = 10) -> Frame:
    return Frame(kind, 0, size, circuit, number, bytes(size))


class TurnsModel(RuleBasedStateMachine):
    """Two lists: control, and circuits in the order in which their turn comes."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = Turns()
        self.control: deque[Frame] = deque()
        self.streams: dict[int, deque[Frame]] = {}
        self.number = 0

    @rule(kind=st.sampled_from(KINDS), circuit=st.integers(1, 4), size=st.integers(0, 300))
    def push(self, kind: Kind, circuit: int, size: int) -> None:
        self.number += 1
        one = frame(kind, circuit, self.number, size)
        self.turns.push(one)
        if kind in STREAM_KINDS:
            self.streams.setdefault(circuit, deque()).append(one)
        else:
            self.control.append(one)

    @rule()
    def pop(self) -> None:
        got = self.turns.pop()
        if self.control:
            assert got == self.control.popleft()
        elif self.streams:
            circuit, queue = next(iter(self.streams.items()))
            assert got == queue.popleft()
            del self.streams[circuit]
            if queue:
                self.streams[circuit] = queue  # its next turn comes after all others
        else:
            assert got is None

    @rule(circuit=st.integers(1, 4))
    def drop(self, circuit: int) -> None:
        self.turns.drop(circuit)
        self.streams.pop(circuit, None)

    @rule(circuit=st.integers(1, 4))
    def abandon(self, circuit: int) -> None:
        self.turns.abandon(circuit)
        last = [f for f in self.streams.pop(circuit, ()) if f.kind is Kind.RESET]
        if last:
            self.streams[circuit] = deque(last)

    @rule()
    def drop_streams(self) -> None:
        self.turns.drop_streams()
        self.streams.clear()

    @invariant()
    def counts(self) -> None:
        sizes = {c: sum(HEADER_SIZE + f.length for f in q) for c, q in self.streams.items()}
        control = sum(HEADER_SIZE + f.length for f in self.control)
        assert self.turns.control == control
        assert self.turns.total == control + sum(sizes.values())
        assert all(self.turns.backlog(c) == sizes.get(c, 0) for c in range(1, 5))
        assert bool(self.turns) is bool(self.control or self.streams)
        assert self.turns.largest()[1] == max(sizes.values(), default=0)


TestTurns = TurnsModel.TestCase


@given(st.lists(st.integers(1, 5), min_size=1, max_size=60))
def test_circuits_share_fairly_and_keep_their_order(circuits: list[int]):
    turns = Turns()
    for number, circuit in enumerate(circuits):
        turns.push(frame(Kind.DATA, circuit, number))
    out: list[Frame] = []
    while (one := turns.pop()) is not None:
        out.append(one)
    for circuit in set(circuits):
        mine = [f.sequence for f in out if f.circuit == circuit]
        assert mine == sorted(mine)
    # Until a circuit has no more to send, none is more than one frame ahead of it.
    for place in range(len(out)):
        seen = [f.circuit for f in out[: place + 1]]
        waiting = {f.circuit for f in out[place + 1 :]}
        for circuit in waiting:
            assert max(seen.count(c) for c in set(circuits)) - seen.count(circuit) <= 1


def test_a_reset_stays_behind_its_circuit_and_control_overtakes_all():
    turns = Turns()
    turns.push(frame(Kind.DATA, 1, 1))
    turns.push(frame(Kind.RESET, 1, 2))
    turns.push(frame(Kind.CREDIT, 1, 3))
    assert [turns.pop().kind for _ in range(3)] == [Kind.CREDIT, Kind.DATA, Kind.RESET]  # type: ignore[union-attr]
