"""Model test: whatever is sent, read, cut, resumed and delayed, each byte arrives exactly once and in order (C-60, C-61)."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from overlay import limits
from overlay.circuit.sending import KEPT_FRAMES
from overlay.errors import Code
from tests.support.circuit_pair import End, Pair

SIDES = st.sampled_from([0, 1])


class CircuitMachine(RuleBasedStateMachine):
    """Two honest ends and a network that loses paths with all that is on them."""

    @initialize(integrity=SIDES)
    def begin(self, integrity: int) -> None:
        self.pair = Pair(integrity=integrity)
        self.cuts = 0
        self.ended = [False, False]

    def end_of(self, side: int) -> End:
        return self.pair.ends[side]

    @rule(side=SIDES, size=st.integers(1, 70_000), fill=st.integers(0, 255))
    def send(self, side: int, size: int, fill: int) -> None:
        self.end_of(side).send(bytes([fill]) * size)

    @rule(side=SIDES, size=st.integers(1, 300_000))
    def read(self, side: int, size: int) -> None:
        self.end_of(side).read(size)

    @rule(side=SIDES, count=st.integers(1, 5))
    def deliver(self, side: int, count: int) -> None:
        self.pair.deliver(self.end_of(side), count)

    @rule(seconds=st.sampled_from([0.01, 0.1, 1.0]))
    def wait(self, seconds: float) -> None:
        self.pair.pass_time(seconds)

    @rule(side=SIDES)
    def close(self, side: int) -> None:
        end = self.end_of(side)
        self.ended[side] = True
        end.handle(end.core.end(self.pair.now))

    @precondition(lambda self: self.pair.path)
    @rule()
    def cut(self) -> None:
        self.cuts += 1
        self.pair.cut()

    @precondition(lambda self: not self.pair.path and not self.over())
    @rule(lost=st.booleans())
    def resume(self, lost: bool) -> None:
        if lost:  # the RESUME gets nowhere
            self.pair.ask_to_resume()
            self.pair.caller.handle(self.pair.caller.core.path_lost(self.pair.now))
        else:
            self.pair.resume()

    def over(self) -> bool:
        return any(end.end is not None for end in self.pair.ends)

    @invariant()
    def nothing_is_lost_repeated_or_reordered(self) -> None:
        if not hasattr(self, "pair"):
            return
        for end in self.pair.ends:
            assert end.other.sent.startswith(end.got)
            assert not end.faults

    @invariant()
    def what_is_kept_is_bounded(self) -> None:
        if not hasattr(self, "pair"):
            return
        for end in self.pair.ends:
            assert end.core.kept_bytes <= limits.MAX_WINDOW + limits.MAX_DATA
            assert len(end.core._sending._kept) <= KEPT_FRAMES + 4
            assert end.unread <= end.core._receiving.window

    @invariant()
    def it_ends_only_for_a_reason(self) -> None:
        if not hasattr(self, "pair"):
            return
        for end in self.pair.ends:
            if end.end is not None and end.end.code is Code.NORMAL:
                assert all(self.ended)
                assert end.got == end.other.sent
            elif end.end is not None:
                assert end.end.code is Code.PATH_LOST
                assert self.pair.now >= min(limits.RESUME_TIME, 10.0)

    def teardown(self) -> None:
        """Once faults stop, everything arrives and the circuit ends well."""
        if not hasattr(self, "pair") or self.over():
            return
        pair = self.pair
        if not pair.path:
            pair.resume()
        for end in pair.ends:
            end.read(1 << 30)
        pair.settle()
        for end in pair.ends:
            end.handle(end.core.end(pair.now))
        pair.settle()
        for end in pair.ends:
            assert end.got == end.other.sent
            assert end.end is not None
            assert end.end.code is Code.NORMAL
            assert end.core.finished
        assert pair.caller.core.receipt == pair.host.core.receipt
        assert pair.caller.core.receipt.caller.bytes == len(pair.caller.sent)


CircuitMachine.TestCase.settings = settings(stateful_step_count=40)
TestCircuit = CircuitMachine.TestCase
