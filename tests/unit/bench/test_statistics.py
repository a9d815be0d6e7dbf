"""Medians, fairness, and the test that tells noise from a change."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.statistics import Spread, differ, jain, least_p, midranks, ratios

SOME = st.lists(st.floats(0.1, 1e6), min_size=1, max_size=6)


def test_a_spread_is_median_least_and_greatest():
    assert Spread.of([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0, 3)


def test_ratios_take_the_rounds_that_both_sides_have():
    assert ratios({1: 4.0, 2: 9.0, 3: 1.0}, {1: 2.0, 2: 3.0, 4: 7.0}) == [2.0, 3.0]


def test_a_ratio_to_nothing_is_left_out():
    assert ratios({1: 4.0}, {1: 0.0}) == []


@pytest.mark.parametrize(
    ("shares", "index"),
    [([1, 1, 1, 1], 1.0), ([4, 0, 0, 0], 0.25), ([2, 1], 0.9), ([7], 1.0), ([0, 0], 0.0)],
)
def test_fairness_is_jains_index(shares: list[int], index: float):
    assert jain(shares) == pytest.approx(index)


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=64))
def test_fairness_lies_between_one_nth_and_one(shares: list[int]):
    if any(shares):
        assert 1 / len(shares) - 1e-9 <= jain(shares) <= 1 + 1e-9


def test_equal_values_share_the_mean_of_their_ranks():
    assert midranks([10.0, 20.0, 10.0, 30.0]) == [1.5, 3.0, 1.5, 4.0]


def test_the_smallest_p_is_what_counting_all_divisions_gives():
    assert (
        differ([1, 2, 3, 4], [5, 6, 7, 8]) == pytest.approx(least_p(4, 4)) == pytest.approx(2 / 70)
    )


def test_three_rounds_cannot_show_anything():
    assert least_p(3, 3) > 0.05
    assert least_p(4, 4) < 0.05


def test_the_exact_test_has_the_critical_value_of_the_tables():
    """For 5 and 5 rounds, two-sided 5 %, the tables give U = 2."""
    assert differ([1, 2, 3, 4, 7], [5, 6, 8, 9, 10]) == pytest.approx(8 / 252)
    assert differ([1, 2, 3, 4, 8], [5, 6, 7, 9, 10]) == pytest.approx(14 / 252)


@given(SOME, SOME)
def test_the_order_of_the_two_sides_does_not_matter(one: list[float], other: list[float]):
    assert differ(one, other) == pytest.approx(differ(other, one))


@given(SOME)
def test_a_set_does_not_differ_from_itself(values: list[float]):
    assert differ(values, values) == 1.0


def test_many_rounds_use_the_approximation_and_agree():
    dice = random.Random(1)
    one = [dice.gauss(10, 1) for _ in range(40)]
    assert differ(one, [value + 3 for value in one]) < 1e-6
    assert differ(one, [dice.gauss(10, 1) for _ in range(40)]) > 0.01


def test_chance_alone_is_called_a_change_as_rarely_as_promised():
    dice = random.Random(2)
    draws = [
        differ([dice.random() for _ in range(5)], [dice.random() for _ in range(5)]) <= 0.05
        for _ in range(1000)
    ]
    assert sum(draws) / len(draws) <= 0.05 + 0.02
