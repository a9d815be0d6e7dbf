"""Everything that can happen to a circuit in small numbers (C-17, C-30 to C-34, C-60 to C-63), and that the search sees
what is broken on purpose.
"""

import pytest

from overlay.circuit.acceptance import Acceptance
from overlay.circuit.controls import Controls
from overlay.circuit.life import CircuitLife
from overlay.circuit.receiving import ReceivingHalf
from overlay.circuit.sending import SendingHalf
from overlay.crypto.checkpoint import CALLER
from overlay.crypto.circuit_keys import StreamOpener
from overlay.errors import Code
from overlay.wire.bodies import Resume, ResumeState
from overlay.wire.header import Header
from tests.model.facts import COUNTED, LEFT_OUT
from tests.model.scenario import Scenario, small_numbers
from tests.model.scenarios import DEEP, QUICK
from tests.model.search import Found, search
from tests.model.stand_ins import freeze, thaw
from tests.model.two_ends import State
from tests.support.planted import take_late_for_forged


@pytest.mark.parametrize("name", QUICK)
def test_nothing_that_can_happen_breaks_it(name: str):
    found = search(QUICK[name])
    assert not found.wrong, str(found)
    assert found.whole
    assert found.states > 50, "the scenario happened"


def test_every_attribute_of_a_core_tells_states_apart_or_has_a_reason_not_to():
    core = State(Scenario()).caller.core
    names = set(vars(core))
    for half in (core._sending, core._receiving):
        names |= set(type(half).__slots__)
    assert names == COUNTED | LEFT_OUT


def test_a_copy_of_a_state_is_the_same_state_and_lives_by_itself():
    scenario = DEEP["bytes both ways, two paths lost"]
    with small_numbers(scenario):
        state = State(scenario)
        frozen = freeze(state)
        one, other = thaw(frozen), thaw(frozen)
        assert one.facts() == other.facts() == state.facts()
        one.apply("caller writes", False)
        assert one.facts() != other.facts() == state.facts()


# --- planted bugs -------------------------------------------------------------------------------------


def broken(scenario: Scenario, *words: str, within: int) -> Found:
    """The search finds it, in so many steps, and tells the way."""
    found = search(scenario, most=20_000)
    assert found.wrong, f"not found in {found.states} states"
    assert any(word in found.wrong for word in words), str(found)
    assert len(found.steps) <= within, str(found)
    told = str(found).splitlines()
    assert len(told) == len(found.steps) + 2, "each step is told, with the state after it"
    assert all(step in line for step, line in zip(found.steps, told[2:], strict=True))
    return found


ANSWERED = "opening, and the answer comes with ACCEPT"
TWO = Scenario(writes=(2, 0), cuts=1)


def test_a_resume_that_says_nothing_again_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SendingHalf, "unacknowledged", lambda _: [])
    broken(Scenario(writes=(1, 0)), "took an honest frame amiss", within=8)


def test_a_resume_that_forgets_the_first_lost_frame_is_found(monkeypatch: pytest.MonkeyPatch):
    whole = SendingHalf.unacknowledged
    monkeypatch.setattr(SendingHalf, "unacknowledged", lambda self: whole(self)[1:])
    broken(TWO, "took an honest frame amiss", within=10)


def test_a_question_that_uses_up_a_number_before_ready_is_found(monkeypatch: pytest.MonkeyPatch):
    real = Controls.peek_resume

    def peek_resume(self: Controls, header: Header, body: Resume) -> ResumeState:
        state = real(self, header, body)
        self._opener.commit(header.sequence)
        return state

    monkeypatch.setattr(Controls, "peek_resume", peek_resume)
    broken(QUICK["the host asks before READY has come"], "came again or late", within=8)


def test_a_path_that_comes_late_and_is_taken_for_forged_is_found(monkeypatch: pytest.MonkeyPatch):
    take_late_for_forged(monkeypatch)
    broken(Scenario(writes=(1, 0), cuts=1, hasty=1), "took an honest RESUME for forged", within=16)


def test_a_receiver_that_takes_any_number_is_found(monkeypatch: pytest.MonkeyPatch):
    def kept(self, ack, limit, now=None):
        return False  # so that all is said again

    monkeypatch.setattr(SendingHalf, "acknowledge", kept)

    def opened(self, header, sealed, fields=None):
        self.expected = header.sequence
        return real(self, header, sealed, fields)

    real = StreamOpener.open
    monkeypatch.setattr(StreamOpener, "open", opened)
    broken(Scenario(writes=(1, 0), ends=(False, False)), "got byte 0 where 1 is next", within=8)


def test_a_resume_that_rewinds_is_found(monkeypatch: pytest.MonkeyPatch):
    def state(self):
        return ResumeState(self.generation, 0, self._receiving.credit()[1])

    monkeypatch.setattr(CircuitLife, "_state", state)
    broken(
        Scenario(writes=(1, 0)),
        "took an honest RESUME for forged",
        "took an honest frame amiss",
        within=12,
    )


def test_frames_that_leave_before_resume_is_answered_are_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(CircuitLife, "_stream", lambda self, frame: self._out.append(frame))
    broken(Scenario(writes=(0, 0)), "took an honest frame amiss", within=9)


def test_an_acknowledgement_of_what_did_not_come_is_found(monkeypatch: pytest.MonkeyPatch):
    real = ReceivingHalf.credit

    def credit(self):
        ack, limit = real(self)
        return ack + 1, limit

    monkeypatch.setattr(ReceivingHalf, "credit", credit)
    broken(TWO, "thinks that frames arrived which did not", "amiss", within=6)


def test_credit_that_is_lost_with_its_path_for_ever_is_found(monkeypatch: pytest.MonkeyPatch):
    real = SendingHalf.acknowledge

    def acknowledge(self, ack, limit, now=None):
        return real(self, ack, self.limit if now is None else limit, now)  # RESUME gives no credit

    monkeypatch.setattr(SendingHalf, "acknowledge", acknowledge)
    broken(QUICK["a slow reader"], "no way leads to the end", within=16)


def test_frames_that_are_kept_for_ever_are_found(monkeypatch: pytest.MonkeyPatch):
    def acknowledge(self, ack, limit, now=None):
        self._acknowledged, self.limit = max(ack, self._acknowledged), limit
        return True

    monkeypatch.setattr(SendingHalf, "acknowledge", acknowledge)
    monkeypatch.setattr(SendingHalf, "room", lambda self: self.limit - self.size)
    broken(Scenario(writes=(8, 0), cuts=0), "keeps 7 frames", within=20)


def test_a_ready_that_came_with_accept_and_is_said_again_is_found(monkeypatch: pytest.MonkeyPatch):
    real = Acceptance.with_frames
    monkeypatch.setattr(Acceptance, "with_frames", lambda self, out: (real(self, out)[0], False))
    broken(QUICK[ANSWERED], "took an honest frame amiss", within=12)


# The three that the search found in the cores; tests/unit/circuit has them one by one.


def test_an_end_that_calls_lost_bytes_a_good_end_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SendingHalf, "data_acknowledged", True)
    broken(QUICK["either end dies"], "ended well", within=11)


def test_an_end_that_runs_out_of_time_without_a_word_is_found(monkeypatch: pytest.MonkeyPatch):
    real = CircuitLife.tick

    def tick(self, now):
        events = real(self, now)
        if self.over is not None and self.over.code is Code.PATH_LOST:
            self._sending._kept.clear()
        return events

    monkeypatch.setattr(CircuitLife, "tick", tick)
    broken(QUICK["no path in time"], "no way leads to the end", within=8)


def test_an_abort_that_is_not_said_after_the_end_is_found(monkeypatch: pytest.MonkeyPatch):
    real = SendingHalf.close

    def close(self, *told, **options):
        return self._kept[-1] if self.closed else real(self, *told, **options)

    monkeypatch.setattr(SendingHalf, "close", close)
    found = broken(
        Scenario(writes=(0, 1), aborts=1, cuts=0), "no way", "amiss", "ended well", within=12
    )
    assert "caller aborts" in found.steps or "host aborts" in found.steps
    assert found.scenario.writes[CALLER] == 0
