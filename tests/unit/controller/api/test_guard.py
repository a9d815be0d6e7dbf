"""Buckets and places: what a caller may spend, and that the tables of callers are bounded."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.api.guard import BUCKETS, WELCOME, Buckets, Places, Rate, source_of

SLOW = Rate(burst=3, per_second=0.5)


def test_a_bucket_gives_its_burst_and_then_its_rate():
    buckets = Buckets(SLOW)
    assert [buckets.take("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert buckets.take("a", 0.0) == pytest.approx(2.0)
    assert buckets.wait("a", 1.0) == pytest.approx(1.0)
    assert buckets.take("a", 2.0) == 0.0
    assert buckets.take("a", 2.0) > 0


def test_a_refused_take_costs_nothing():
    buckets = Buckets(SLOW)
    for _ in range(3):
        buckets.take("a", 0.0)
    for _ in range(100):
        buckets.take("a", 0.0)
    assert buckets.wait("a", 0.0) == pytest.approx(2.0)


def test_asking_takes_nothing_and_keys_are_apart():
    buckets = Buckets(SLOW)
    for _ in range(10):
        assert buckets.wait("a", 0.0) == 0.0
    for _ in range(4):
        buckets.take("a", 0.0)
    assert buckets.take("b", 0.0) == 0.0


def test_a_clock_that_goes_back_gives_nothing():
    buckets = Buckets(SLOW)
    for _ in range(3):
        buckets.take("a", 100.0)
    assert buckets.take("a", 50.0) > 0


def test_the_table_of_buckets_is_bounded_and_forgets_who_was_quiet_longest():
    buckets = Buckets(SLOW)
    for number in range(BUCKETS + 10):
        buckets.take(str(number), 0.0)
    assert len(buckets) == BUCKETS
    assert "0" not in buckets
    assert str(BUCKETS + 9) in buckets


@given(st.lists(st.floats(min_value=0, max_value=1000), min_size=1, max_size=60))
def test_no_more_than_burst_and_rate_whatever_the_times(times: list[float]):
    times.sort()
    buckets = Buckets(SLOW)
    taken = sum(buckets.take("a", moment) == 0.0 for moment in times)
    assert taken <= SLOW.burst + (times[-1] - times[0]) * SLOW.per_second + 1e-6


def test_places_are_counted_in_all_and_per_key():
    places = Places(total=3, per_key=2)
    assert places.enter("a")
    assert places.enter("a")
    assert not places.enter("a")
    assert places.enter("b")
    assert not places.enter("c")
    places.leave("a")
    assert places.enter("c")
    assert places.used == 3


def test_reserved_places_are_for_those_who_logged_in_before():
    places = Places(total=4, per_key=4, reserved=2)
    places.welcome("known")
    assert places.enter("stranger")
    assert places.enter("other")
    assert not places.enter("third")
    assert places.enter("known")
    assert places.enter("known")
    assert not places.enter("known")


def test_the_table_of_known_addresses_is_bounded():
    places = Places(total=1, per_key=1, reserved=1)
    places.welcome("first")
    for number in range(WELCOME):
        places.welcome(str(number))
    assert not places.enter("first")
    assert places.enter("5")


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        ("@", "unknown"),
    ],
)
def test_whom_limits_count(address: str, source: str):
    assert source_of(address) == source
