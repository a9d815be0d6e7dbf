"""How busy a router says that it is (F-17)."""

import pytest

from overlay import limits
from overlay.link.load import CALMER, COSTS, STEPS, Busy, Level


def test_the_share_of_a_core_is_averaged_over_seconds():
    busy = Busy()
    assert busy.look(0.0, 100.0) == 0.0, "nothing is known from one look"
    for second in range(1, 4):
        busy.look(second, 100.0 + second)
    assert 0.3 < busy.share < 0.6, "a moment is not much"
    for second in range(4, 30):
        busy.look(second, 100.0 + second)
    assert busy.share == pytest.approx(1.0, abs=0.01)
    for second in range(30, 60):
        busy.look(second, 129.0)
    assert busy.share < 0.01
    busy.look(59.0, 500.0)
    assert busy.share < 0.01, "a look at the same time tells nothing"
    busy.look(1000.0, 5000.0)
    assert busy.share <= 1.0


def test_a_level_is_left_only_when_its_step_is_left_clearly():
    level = Level()
    assert not level.look(STEPS[0] - 0.01)
    assert level.look(STEPS[0])
    assert level.now == 1
    for share in (STEPS[0] - CALMER + 0.01, STEPS[1] - 0.01) * 5:  # to and fro
        assert not level.look(share)
    assert level.look(STEPS[0] - CALMER - 0.01)
    assert level.now == 0


def test_levels_may_be_left_several_at_once_and_end_where_costs_end():
    level = Level()
    assert level.look(1.0)
    assert level.now == limits.LOAD_MOST == len(STEPS) == len(COSTS) - 1
    assert not level.look(1.0)
    assert level.look(0.0)
    assert level.now == 0
