"""Plant time at its source."""

from controller.clock import WRONG_BY, PlantClock
from tests.support.controllers import HandClock
from tests.support.pki import NOW, SECOND


def test_it_follows_the_wall_clock_forward():
    hand = HandClock()
    clock = PlantClock(hand)
    assert clock.now() == NOW
    hand.pass_(5)
    assert clock.now() == NOW + 5 * SECOND
    hand.micros += 3600 * SECOND  # set forward
    assert clock.now() == NOW + 3605 * SECOND


def test_it_never_goes_back_and_never_stands_still():
    hand = HandClock()
    clock = PlantClock(hand)
    clock.now()
    hand.micros -= 100 * SECOND
    assert clock.now() == NOW
    hand.pass_(50)
    assert clock.now() == NOW + 25 * SECOND
    hand.pass_(150)  # 200 s have passed: the wall clock is at +100 s, half speed too
    assert clock.now() == NOW + 100 * SECOND
    hand.pass_(10)
    assert clock.now() == NOW + 110 * SECOND


def test_it_never_begins_below_what_the_store_knows():
    hand = HandClock()
    assert PlantClock(hand, NOW + 7 * SECOND).now() == NOW + 7 * SECOND


def test_it_says_how_far_the_machine_is_behind():
    hand = HandClock()
    clock = PlantClock(hand)
    assert clock.behind() == 0
    hand.micros -= 400 * SECOND
    assert clock.behind() >= WRONG_BY
    hand.micros += 500 * SECOND
    assert clock.behind() == 0
