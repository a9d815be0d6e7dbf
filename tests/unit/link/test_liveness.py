"""Keepalive and suspicion of a link (L-31, L-35)."""

from collections.abc import Callable

import pytest

from overlay import limits
from overlay.link.liveness import (
    FORGIVE_AFTER,
    MUCH_AHEAD,
    PROBE_AFTER,
    QUIET_AFTER,
    SECOND_LOOK,
    SUSPECT_AFTER,
    SUSPECT_AT_MOST,
    Liveness,
    Verdict,
)


class Side:
    """One side of a link with circuits, whose `deadline` is kept to the letter. `way`: bytes that it has said, and those
    that the other side's kernel has at some time.
    """

    def __init__(
        self,
        *,
        eager: bool = True,
        busy: bool = True,
        way: Callable[[float], tuple[int, int]] = lambda _: (0, 0),
    ) -> None:
        self.way = way
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
            self.live.carried(due, *self.way(due))
            verdict = self.live.look(self.now, busy=self.busy)
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
        """A circuit does; the last look was before."""
        self.live.said = at
        self.live.ask(at)

    def hear(self, at: float) -> bool:
        self.live.heard = at
        return self.live.recover()


def test_what_is_said_and_not_answered_is_asked_for_and_then_suspected():
    side = Side()
    side.hear(0.5)
    side.until(0.6)
    side.say(0.6)
    side.until(3.0)
    assert side.first(Verdict.PING) == pytest.approx(0.6 + PROBE_AFTER)
    suspected = side.first(Verdict.SUSPECT)
    assert SUSPECT_AFTER <= suspected - side.first(Verdict.PING) < SUSPECT_AFTER + 0.05
    assert suspected < 0.6 + 0.35
    assert [one for _, one in side.log].count(Verdict.SUSPECT) == 1


def test_silence_after_much_traffic_is_asked_about_soon():
    side = Side()
    side.live.moving(1.1, 1_000_000)
    side.live.said = 1.1
    side.hear(1.1)
    side.until(3.0)
    assert side.first(Verdict.PING) == pytest.approx(1.1 + QUIET_AFTER)
    assert side.first(Verdict.SUSPECT) < 1.1 + QUIET_AFTER + SUSPECT_AFTER + 0.05


@pytest.mark.parametrize("busy", [True, False])
def test_an_idle_link_is_found_in_time(busy: bool):
    side = Side(busy=busy)
    side.until(10.0)
    assert side.first(Verdict.SUSPECT) <= limits.PING_INTERVAL + SUSPECT_AFTER + 0.2
    assert side.log[-1][1] is Verdict.DEAD
    assert side.log[-1][0] <= limits.DEAD_AFTER + 0.1


def test_nobody_is_waked_for_an_idle_link_but_by_the_keepalive():
    """Two sides that suspect early, as routers among each other, and circuits that say nothing."""
    sides = [Liveness(0.0, eager=True), Liveness(0.0, eager=True)]
    due, looks, pings = [0.0, 0.0], 0, 0
    while (now := min(due)) < 20.0:
        turn = due.index(now)
        looks += 1
        if sides[turn].look(now, busy=True) is Verdict.PING:
            pings += 1
            for side in sides:
                side.said = side.heard = now + 0.001
        due[turn] = max(sides[turn].deadline(now, busy=True), now + SECOND_LOOK)
    assert 18 <= pings <= 22
    assert looks <= 3 * pings + 6


def test_of_two_sides_that_say_nothing_one_asks():
    """As an edge and a router: the one that leads, at whole seconds; the other one only when it does not."""
    leads, waits = Liveness(0.3, leads=True, eager=True), Liveness(0.3, leads=False)
    pings, now = [], 0.3
    while now < 9.0:
        now = min(leads.deadline(now, busy=False), waits.deadline(now, busy=False))
        assert waits.look(now, busy=False) is None
        if leads.look(now, busy=False) is Verdict.PING:
            pings.append(now)
            for side in (leads, waits):
                side.said = side.heard = now
            leads.answered(0.0)
    assert pings == [float(one) for one in range(1, 10)]
    found: list[tuple[float, Verdict | None]] = []
    while Verdict.DEAD not in [one for _, one in found]:
        now = waits.deadline(now, busy=False)
        verdict = waits.look(now, busy=False)
        found.append((now, verdict))
        waits.said = now if verdict is Verdict.PING else waits.said
    assert (11.0, Verdict.PING) in found, "the other side may be of a version that does not lead"
    assert found[-1][0] <= 9.0 + limits.DEAD_AFTER


def test_an_answer_to_ping_wants_no_answer():
    side = Side()
    side.hear(1.0)
    side.live.said = 1.001
    side.until(1.9)
    assert side.log == []


@pytest.mark.parametrize("busy", [True, False])
def test_an_answer_within_the_grain_of_the_clock_is_one(busy: bool):
    """An event loop's clock stands still for a millisecond, in which a router on the same host answers."""
    side = Side(busy=busy)
    for _ in range(5):
        began = len(side.log)
        while not any(one is Verdict.PING for _, one in side.log[began:]):
            side.until(side.now + 0.05)
        side.hear(side.log[-1][0])
        side.live.answered(1e-7)
        side.until(side.now + SUSPECT_AFTER + 5 * SECOND_LOOK)
    assert Verdict.SUSPECT not in [one for _, one in side.log]
    assert side.live.timeout == SUSPECT_AFTER
    side.until(side.now + limits.DEAD_AFTER)
    assert Verdict.SUSPECT in [one for _, one in side.log], "and silence is none"


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
        asked = began + 0.01 + PROBE_AFTER
        while not side.live.suspect:
            side.until(side.now + SECOND_LOOK)
        waits.append(side.now - asked)
        assert side.hear(side.now)
        assert not side.hear(side.now)
    assert waits == sorted(waits)
    assert waits[0] < 0.3
    assert SUSPECT_AT_MOST <= waits[-1] < SUSPECT_AT_MOST + 0.1
    for _ in range(400):  # and calm makes up for it
        side.hear(side.now + FORGIVE_AFTER / 100)
        side.until(side.now + FORGIVE_AFTER / 100)
    assert side.live.timeout == pytest.approx(SUSPECT_AFTER)


def test_a_silence_that_no_patience_would_have_outlasted_changes_nothing():
    """The other side was frozen for 2 s, and answers all PINGs of that time at once."""
    side = Side()
    side.live.answered(0.01)
    before = side.live.timeout
    side.say(0.1)
    side.until(2.1)
    assert side.live.suspect
    assert side.hear(2.1)
    for when, one in side.log:
        if one is Verdict.PING:
            side.live.answered(2.1 - when)
    assert side.live.timeout == before
    side.hear(3.0)
    side.live.answered(0.4)
    assert side.live.timeout > before, "what is asked from then on counts"


def test_a_slow_link_is_given_round_trips():
    side = Side()
    for _ in range(20):
        side.live.answered(0.3)
    assert side.live.timeout == pytest.approx(1.2)
    for _ in range(20):
        side.live.answered(0.6)
    assert side.live.timeout == SUSPECT_AT_MOST


def test_one_slow_answer_makes_nobody_patient_for_long():
    """A router that has just begun answers late, and then no silence would ever ask for another measurement."""
    side = Side()
    side.hear(0.9)
    side.live.answered(0.4)
    assert side.live.timeout == SUSPECT_AT_MOST
    pings = 0
    for tenth in range(10, 50):  # polls, all of them answered
        side.say(tenth / 10)
        side.hear(tenth / 10 + 0.001)
        side.until(tenth / 10 + 0.09)
        for _, one in side.log[pings:]:
            assert one is Verdict.PING
            side.live.answered(0.001)
        pings = len(side.log)
    assert 3 <= pings <= 5, "once a second"
    assert side.live.timeout == SUSPECT_AFTER


def test_this_programs_own_pause_suspects_nobody():
    """It was held up for a second; the answer waits to be read."""
    side = Side()
    side.say(0.1)
    side.until(0.25)
    assert side.log[-1][1] is Verdict.PING
    side.now = 1.5  # nothing ran for so long
    assert side.live.look(side.now, busy=True) is None
    side.hear(side.now)
    assert side.live.look(side.now + 0.02, busy=True) is not Verdict.SUSPECT
    assert not side.live.suspect


# --- a slow way ---------------------------------------------------------------------------------------


def line(size: int, rate: int, until: float = 99.0) -> Callable[[float], tuple[int, int]]:
    """So many bytes are said at 0.6 s and leave at so many a second, until the way is cut."""

    def way(now: float) -> tuple[int, int]:
        passed = int(max(0.0, min(now, until) - 0.6) * rate)
        return (0, 0) if now < 0.6 else (size, min(size, passed))

    return way


@pytest.mark.parametrize("eager", [True, False])
def test_a_slow_way_is_no_silent_peer_until_the_ping_has_arrived(eager: bool):
    """500 kB in the kernel's buffer, before a line of 1 Mbit/s."""
    side = Side(eager=eager, way=line(500_000, 125_000))
    side.hear(0.5)
    side.until(0.6)
    side.say(0.6)
    side.until(4.6)
    assert {one for _, one in side.log} == {Verdict.PING}
    side.until(9.0)
    if eager:
        assert 4.6 < side.first(Verdict.SUSPECT) < 4.6 + SUSPECT_AFTER + 0.1
    assert 4.6 < side.first(Verdict.DEAD) < 4.6 + limits.DEAD_AFTER + 0.1


def test_a_slow_way_that_is_cut_is_suspected_as_soon_as_any_other():
    side = Side(way=line(500_000, 125_000, until=2.0))
    side.hear(0.5)
    side.until(0.6)
    side.say(0.6)
    side.until(9.0)
    assert 2.0 < side.first(Verdict.SUSPECT) < 2.0 + SUSPECT_AFTER + 0.1
    assert side.first(Verdict.DEAD) < 2.0 + limits.DEAD_AFTER + 0.1
    before = Side(way=line(500_000, 125_000, until=0.6))
    before.hear(0.5)
    before.until(0.6)
    before.say(0.6)
    before.until(2.0)
    assert before.first(Verdict.SUSPECT) < 0.6 + 0.35


def test_a_kernel_that_takes_little_for_a_program_that_hangs_buys_it_no_time():
    """The last poll was on its way when PING was said, and arrived."""
    side = Side(way=line(MUCH_AHEAD, MUCH_AHEAD * 5))
    side.hear(0.5)
    side.until(0.6)
    side.say(0.6)
    side.until(2.0)
    assert side.first(Verdict.SUSPECT) < 0.6 + 0.35


# --- something changed at this host (L-39) --------------------------------------------------------------


def at_rest(trip: float = 0.01) -> Side:
    """No circuit is open, and the last PONG came a moment ago."""
    side = Side(busy=False)
    side.now = 10.0
    side.hear(10.0)
    side.live.answered(trip)
    return side


def test_a_link_that_is_asked_and_does_not_answer_is_suspect_also_at_rest():
    side = at_rest()
    assert side.live.doubt(10.1, lost=False)
    side.until(10.5)
    assert [one for _, one in side.log] == [Verdict.SUSPECT]
    assert side.first(Verdict.SUSPECT) == pytest.approx(
        10.1 + SUSPECT_AFTER + SECOND_LOOK, abs=0.03
    )
    assert side.hear(10.6)


def test_a_link_whose_way_is_another_is_over_without_a_pong():
    side = at_rest()
    assert side.live.doubt(10.1, lost=True)
    side.until(10.6)
    assert side.first(Verdict.LOST) == pytest.approx(10.1 + SUSPECT_AFTER + SECOND_LOOK, abs=0.03)


def test_a_pong_says_that_the_way_holds():
    side = at_rest()
    assert side.live.doubt(10.1, lost=True)
    side.hear(10.15)
    side.live.answered(0.05)
    side.until(12.4)
    assert not {Verdict.LOST, Verdict.SUSPECT} & {one for _, one in side.log if _ < 11.2}
    assert Verdict.LOST not in {one for _, one in side.log}


def test_what_was_on_its_way_before_is_no_pong_and_buys_a_second():
    side = at_rest()
    assert side.live.doubt(10.1, lost=True)
    side.hear(10.12)
    side.live.answered(0.5)  # of a PING from before
    for tenth in range(2, 16):
        side.until(10 + tenth / 10)
        side.hear(10 + tenth / 10)  # data that was sent before, again and again
    assert Verdict.LOST not in {one for _, one in side.log}
    side.until(12.0)
    assert side.first(Verdict.LOST) == pytest.approx(10.1 + SUSPECT_AT_MOST + SECOND_LOOK, abs=0.05)


def test_a_program_that_was_held_up_looks_twice_before_it_ends_a_link():
    side = at_rest()
    assert side.live.doubt(10.1, lost=True)
    assert side.live.look(11.5, busy=False) is None  # nothing ran for so long
    side.hear(11.51)
    side.live.answered(1.41)
    assert side.live.look(11.53, busy=False) is not Verdict.LOST


def test_changes_in_masses_make_one_ping_a_second():
    side = at_rest()
    said = 0
    for hundredth in range(500):
        now = 10.1 + hundredth / 100
        said += side.live.doubt(now, lost=False)
        side.hear(now + 0.001)
    assert said == 5


def test_a_way_that_becomes_another_between_is_asked_at_once():
    side = at_rest()
    assert side.live.doubt(10.1, lost=False)
    side.hear(10.11)
    side.live.answered(0.01)
    assert not side.live.doubt(10.2, lost=False)
    assert side.live.doubt(10.3, lost=True)
    side.until(10.8)
    assert side.first(Verdict.LOST) < 10.6
