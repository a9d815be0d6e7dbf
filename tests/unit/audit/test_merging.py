"""Merging of repeated denials: U-06."""

import pytest

from overlay.audit import merging
from overlay.audit.event import EventName, Outcome
from overlay.audit.merging import BURST, KINDS, LONGEST_WINDOW, PER_SECOND, Merger

DENIED = (EventName.CIRCUIT_OPEN, Outcome.DENIED)


def knock(merger: Merger, times: int, now: float, **fields: str) -> int:
    return sum(merger.offer(*DENIED, fields, now) is not None for _ in range(times))


def test_a_few_pass_one_by_one_with_all_they_say():
    merger = Merger()
    for _ in range(BURST):
        passed = merger.offer(*DENIED, {"who": "hmi", "circuit": "c1"}, 0.0)
        assert passed is not None
        assert passed.fields == {"who": "hmi", "circuit": "c1", "count": 1}
    assert not merger.waiting
    assert merger.due(9.0) == []


def test_more_are_merged_and_none_is_lost():
    merger = Merger()
    passed = knock(merger, 1000, 0.0, who="hmi", service="plc.s7")
    assert passed == BURST
    assert merger.due(0.5) == []
    (merged,) = merger.due(1.0)
    assert merged.fields == {"who": "hmi", "service": "plc.s7", "count": 1000 - BURST}
    assert merger.due(2.0) == []


def test_while_some_wait_others_join_them_so_that_order_holds():
    merger = Merger()
    knock(merger, BURST + 1, 0.0, who="hmi")
    assert knock(merger, 1, 0.9, who="hmi") == 0
    assert merger.due(1.0)[0].fields["count"] == 2


def test_after_a_quiet_time_they_pass_again():
    merger = Merger()
    knock(merger, 1000, 0.0, who="hmi")
    merger.due(1.0)
    assert knock(merger, 100, 1000.0, who="hmi") == BURST


def test_who_knocks_a_little_too_often_makes_no_more_records_than_the_rate():
    merger, records = Merger(), 0
    for quarter in range(4 * 300):
        records += knock(merger, 1, quarter / 4, who="hmi") + len(merger.due(quarter / 4))
    assert records <= BURST + PER_SECOND * 300


def test_different_kinds_do_not_share_a_limit():
    merger = Merger()
    knock(merger, 1000, 0.0, who="hmi-a")
    assert knock(merger, 5, 0.0, who="hmi-b") == 5


def test_only_denials_are_merged():
    merger = Merger()
    for _ in range(1000):
        assert merger.offer(EventName.CIRCUIT_OPEN, Outcome.ALLOWED, {}, 0.0) is not None
        assert merger.offer(EventName.CIRCUIT_CLOSE, Outcome.DONE, {}, 0.0) is not None
        assert merger.offer(EventName.LOCAL_KILL, Outcome.DENIED, {}, 0.0) is not None


def test_kinds_are_bounded_and_still_nothing_is_lost():
    merger = Merger()
    total = passed = 0
    for number in range(4 * KINDS):
        passed += knock(merger, 1, 0.0, who=f"w{number}", service=f"s{number % 1500}")
        total += 1
    assert len(merger._kinds) <= 2 * KINDS + 1
    merged = sum(int(one.fields["count"]) for one in merger.due(5.0))
    assert passed + merged == total
    merger.due(1000.0)
    assert len(merger._kinds) == 0, "quiet kinds are forgotten"


def test_all_come_out_at_the_end():
    merger = Merger()
    knock(merger, BURST + 3, 0.0, who="hmi")
    assert merger.due(0.0, all_of_them=True)[0].fields["count"] == 3
    assert merging.WINDOW > 0


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize(
    "what",
    [
        (EventName.SECURITY_REFUSED, Outcome.DENIED),
        (EventName.CIRCUIT_OPEN, Outcome.DENIED),
        (EventName.CIRCUIT_OPEN, Outcome.FAILED),
    ],
)
def test_a_machine_that_knocks_all_day_fills_no_audit_and_none_of_its_knocks_is_lost(
    what: tuple[EventName, Outcome], every: int
):
    merger, records, counted = Merger(), 0, 0
    for second in range(0, 86_400, every):
        passed = merger.offer(*what, {"who": "edge-c"}, float(second))
        for one in [*([passed] if passed else []), *merger.due(float(second))]:
            records += 1
            counted += int(one.fields["count"])
    counted += sum(int(one.fields["count"]) for one in merger.due(86_400.0, all_of_them=True))
    assert counted == 86_400 // every
    assert records < BURST + 10 + 86_400 / LONGEST_WINDOW
