"""Buckets: what a caller may spend, and that the tables of callers are bounded."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from controller.api import guard
from controller.api.guard import BUCKETS, Buckets, Rate
from controller.api.service import MAX_TOKEN, Service, _bearer

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


def test_connections_of_strangers_leave_room_for_known_addresses_which_are_bounded_too():
    service = Service(cast("Any", None), ())
    slots = service.connections
    for number in range(guard.WELCOME + 5):
        slots.welcome(f"known {number}")
    assert len(slots._welcome) == guard.WELCOME
    taken = sum(slots.enter(f"stranger {number}") for number in range(2 * guard.CONNECTIONS))
    assert taken == guard.CONNECTIONS - guard.CONNECTIONS_RESERVED
    again = sum(slots.enter(f"known {number}") for number in range(5, guard.WELCOME + 5))
    assert again == guard.CONNECTIONS_RESERVED


def test_streams_are_bounded_in_all_and_for_each_login():
    streams = Service(cast("Any", None), ())._streams
    assert sum(streams.enter("one") for _ in range(20)) == guard.STREAMS_PER_LOGIN
    taken = sum(streams.enter(f"login {number}") for number in range(2 * guard.STREAMS))
    assert taken == guard.STREAMS - guard.STREAMS_PER_LOGIN


def test_a_token_that_is_too_long_is_none():
    def token(text: str) -> str:
        headers = CIMultiDict({"Authorization": f"Bearer {text}"})
        return _bearer(cast("Any", SimpleNamespace(headers=headers)))

    assert token("t" * MAX_TOKEN) == "t" * MAX_TOKEN
    assert token("t" * (MAX_TOKEN + 1)) == ""
