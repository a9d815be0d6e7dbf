"""Keepalive and suspicion of a link (L-31, L-35)."""

import pytest

from overlay import limits
from overlay.link.liveness import (
    FORGIVE_AFTER,
    LOOK,
    PROBE_AFTER,
    QUIET_AFTER,
    SECOND_LOOK,
    SUSPECT_AFTER,
    SUSPECT_AT_MOST,
    Liveness,
    Verdict,
)


class Side:
    """One side of a link with circuits, whose `deadline` is kept to the letter."""

    def __init__(self, *, eager: bool = True, busy: bool = True) -> None:
        self.live = Liveness(0.0, eager=eager)
        self.busy = busy
        self.now = 0.0
        self.log: list[tuple[float, Verdict]] = []

    def until(self, end: float) -> "Side":
        """Look whenever it is due."""
        while True:
            due = max(self.live.deadline(self.now, busy=self.busy), self.now + SECOND_LOOK)
            if due > end:
                break
            self.now = due
            verdict = self.live.look(self.now, paused=False, busy=self.busy)
            if verdict is not None:
                self.log.append((self.now, verdict))
            if verdict is Verdict.PING:
                self.live.said = self.now
            if verdict is Verdict.DEAD:
                return self
        self.now = end
        return self

    def first(self, verdict: Verdict) -> float:
        return next(when for when, one in self.log if one is verdict)

    def say(self, at: float) -> None:
        self.live.said = at

    def hear(self, at: float) -> bool:
        self.live.heard = at
        return self.live.recover()


def test_what_is_said_and_not_answered_is_asked_for_and_then_suspected():
    side = Side()
    side.hear(0.5)
    side.until(0.6)
    side.say(0.6)
    side.until(3.0)
    assert side.first(Verdict.PING) <= 0.6 + PROBE_AFTER + LOOK
    suspected = side.first(Verdict.SUSPECT)
    assert SUSPECT_AFTER <= suspected - side.first(Verdict.PING) < SUSPECT_AFTER + 0.05
    assert suspected < 0.6 + 0.45
    assert [one for _, one in side.log].count(Verdict.SUSPECT) == 1


def test_silence_after_much_traffic_is_asked_about_soon():
    side = Side()
    side.live.moving(0.9, 1_000_000)
    side.hear(0.9)
    side.until(3.0)
    assert side.first(Verdict.PING) <= 0.9 + QUIET_AFTER + LOOK
    assert side.first(Verdict.SUSPECT) < 0.9 + QUIET_AFTER + SUSPECT_AFTER + 0.1


@pytest.mark.parametrize("busy", [True, False])
def test_an_idle_link_is_found_in_time(busy: bool):
    side = Side(busy=busy)
    side.live._active = -100.0
    side.until(10.0)
    assert side.first(Verdict.SUSPECT) <= limits.PING_INTERVAL + SUSPECT_AFTER + 0.2
    assert side.log[-1][1] is Verdict.DEAD
    assert side.log[-1][0] <= limits.DEAD_AFTER + 0.1


def test_who_has_no_other_way_suspects_nobody():
    side = Side(eager=False)
    side.say(0.5)
    side.until(10.0)
    assert Verdict.SUSPECT not in [one for _, one in side.log]
    assert side.log[-1][1] is Verdict.DEAD


def test_whoever_answers_late_is_forgiven_and_then_awaited_for_longer():
    side = Side()
    waits = []
    for _ in range(5):
        began = side.now
        side.say(began + 0.01)
        side.until(began + 2.5)
        waits.append(
            next(t for t, one in side.log if one is Verdict.SUSPECT and t > began)
            - next(t for t, one in side.log if one is Verdict.PING and t > began)
        )
        assert side.hear(side.now)
        assert not side.hear(side.now)
    assert waits == sorted(waits)
    assert waits[0] < 0.3
    assert SUSPECT_AT_MOST <= waits[-1] < SUSPECT_AT_MOST + 0.1
    for _ in range(400):  # and calm makes up for it
        side.hear(side.now + FORGIVE_AFTER / 100)
        side.until(side.now + FORGIVE_AFTER / 100)
    assert side.live.timeout == pytest.approx(SUSPECT_AFTER)


def test_a_slow_link_is_given_round_trips():
    side = Side()
    for _ in range(20):
        side.live.answered(0.3)
    assert side.live.timeout == pytest.approx(1.2)
    for _ in range(20):
        side.live.answered(0.6)
    assert side.live.timeout == SUSPECT_AT_MOST


def test_this_programs_own_pause_suspects_nobody():
    """It was held up for a second; the answer waits to be read."""
    side = Side()
    side.say(0.1)
    side.until(0.25)
    assert side.log[-1][1] is Verdict.PING
    side.now = 1.5  # nothing ran for so long
    assert side.live.look(side.now, paused=False, busy=True) is None
    side.hear(side.now)
    assert side.live.look(side.now + 0.02, paused=False, busy=True) is not Verdict.SUSPECT
    assert not side.live.suspect


def test_time_in_which_this_side_does_not_read_does_not_count():
    side = Side()
    for tenth in range(1, 100):
        verdict = side.live.look(tenth / 10, paused=True, busy=True)
        assert verdict in (None, Verdict.PING)
