"""Answers are limited for each source and for all, and sources are forgotten, not collected."""

from edge.packets import rate
from edge.packets.rate import RateLimit


def test_a_source_gets_its_burst_and_then_its_rate():
    limit = RateLimit(per_second=10, burst=5)
    assert sum(limit.allows("a", 0.0) for _ in range(100)) == 5
    assert limit.withheld == 95
    assert limit.allows("b", 0.0), "another one is not held back by it"
    assert sum(limit.allows("a", 1.0) for _ in range(100)) == 5
    assert sum(limit.allows("a", 1.25) for _ in range(100)) == 2


def test_all_sources_together_are_limited_and_remembered_up_to_a_bound():
    limit = RateLimit(per_second=10, burst=5)
    allowed = sum(limit.allows(number, 0.0) for number in range(2 * rate.SOURCES))
    assert allowed == rate.ALL_BURST
    assert len(limit) == rate.SOURCES
    assert not limit.allows("late", 0.0)
    again = [limit.allows(number, 1.0) for number in range(rate.SOURCES)]
    assert sum(again) == rate.ALL_PER_SECOND
    later = [limit.allows(number, 60.0) for number in range(2 * rate.SOURCES)]
    assert sum(later) == rate.ALL_BURST, "a quiet hour is not saved up"


def test_what_a_source_gets_where_nothing_else_is_said():
    limit = RateLimit()
    assert sum(limit.allows("a", 0.0) for _ in range(1000)) == rate.BURST
    assert sum(limit.allows("a", 1.0) for _ in range(1000)) == rate.PER_SECOND
