"""What one direction of a bad wire does to packets, in virtual time."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.impairment import core
from bench.impairment.core import Direction, Impairment

PACKET = bytes(1000)


def direction(seed: int = 1, **how) -> Direction:
    return Direction(Impairment(**how), Random(seed))


def departures(one: Direction, arrivals: list[float], size: int = 1000) -> list[tuple[float, int]]:
    """(time, number of the packet) of all that arrives; packets carry their number."""
    found = []
    events = list(enumerate(arrivals))
    while events or one.next() is not None:
        due = one.next()
        if events and (due is None or events[0][1] <= due):
            number, now = events.pop(0)
            one.arrive(number.to_bytes(4, "big") + bytes(size - 4), now)
        else:
            assert due is not None
            found += [(due, int.from_bytes(packet[:4], "big")) for packet in one.due(due)]
    return found


def test_a_perfect_wire_delivers_at_once_and_in_order():
    assert departures(direction(), [1.0, 1.0, 2.0]) == [(1.0, 0), (1.0, 1), (2.0, 2)]


def test_delay_is_added_and_nothing_arrives_before():
    one = direction(delay=0.1)
    one.arrive(PACKET, 5.0)
    assert one.due(5.099) == []
    assert one.next() == pytest.approx(5.1)
    assert one.due(5.1) == [PACKET]


def test_jitter_spreads_the_delay_and_nobody_overtakes():
    found = departures(direction(delay=0.1, jitter=0.05), [n * 0.01 for n in range(500)])
    assert [number for _, number in found] == list(range(500))
    late = [when - number * 0.01 - 0.1 for when, number in found]
    assert all(-1e-9 <= one <= 0.05 + 1e-9 for one in late)
    assert max(late) - min(late) > 0.03


def test_loss_takes_its_share():
    one = direction(loss=0.05)
    found = departures(one, [float(n) for n in range(10_000)])
    assert 300 < one.counts.lost < 700
    assert len(found) + one.counts.lost == 10_000


def test_reordered_packets_are_overtaken_and_all_arrive():
    one = direction(reorder=0.1, reorder_by=0.02)
    found = departures(one, [n * 0.001 for n in range(2000)])
    order = [number for _, number in found]
    assert sorted(order) == list(range(2000))
    assert order != sorted(order)
    assert 120 < one.counts.overtaken < 280


def test_the_line_sends_at_its_rate_after_a_burst():
    one = direction(rate=1e6, burst=3000, queue=1 << 20)
    found = departures(one, [100.0] * 250)
    assert [when for when, _ in found[:3]] == [100.0] * 3, "a burst of 3,000 bytes"
    assert found[-1][0] - 100 == pytest.approx((250 - 3) * 8000 / 1e6)


def test_the_queue_of_the_line_is_bounded_and_counts_what_it_drops():
    one = direction(rate=1e6, burst=1000, queue=10_000)
    found = departures(one, [100.0] * 50)
    assert len(found) == 11, "one in the burst, ten in the queue"
    assert one.counts.overflowed == 39


def test_a_line_that_rested_longer_than_its_burst_saves_up_no_more():
    one = direction(rate=1e6, burst=1000)
    departures(one, [100.0])
    assert [when for when, _ in departures(one, [900.0] * 2)] == pytest.approx([900.0, 900.008])


def test_what_is_on_the_way_is_bounded(monkeypatch):
    monkeypatch.setattr(core, "MOST_WAITING", 5)
    one = direction(delay=1.0)
    assert len(departures(one, [0.0] * 8)) == 5
    assert one.counts.overflowed == 3


def test_a_cut_loses_what_is_on_the_way_and_what_comes_until_it_is_healed():
    one = direction(delay=1.0)
    one.arrive(b"before", 0.0)
    one.change(Impairment(delay=1.0, cut=True), 0.5)
    one.arrive(b"meanwhile", 0.6)
    assert one.next() is None
    one.change(Impairment(delay=1.0), 0.7)
    one.arrive(b"after", 0.8)
    assert one.due(9.0) == [b"after"]
    assert one.counts.cut == 2
    assert (one.counts.delivered, one.counts.bytes) == (1, 5)


def test_a_shorter_delay_is_not_held_back_by_the_longer_one_before():
    one = direction(delay=5.0)
    one.arrive(b"slow", 0.0)
    one.change(Impairment(delay=0.1), 1.0)
    one.arrive(b"quick", 1.0)
    assert one.due(1.2) == [b"quick"]


@given(st.integers(0, 2**32), st.lists(st.floats(0, 0.01), max_size=60))
def test_the_same_seed_gives_the_same_and_every_packet_is_accounted_for(seed, gaps):
    how = {"delay": 0.01, "jitter": 0.01, "loss": 0.2, "reorder": 0.2, "rate": 1e6, "queue": 9000}
    arrivals = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    one, other = direction(seed, **how), direction(seed, **how)
    found = departures(one, arrivals)
    assert found == departures(other, arrivals)
    assert all(when >= arrivals[number] + 0.01 for when, number in found)
    counts = one.counts
    assert counts.delivered + counts.lost + counts.overflowed == len(arrivals)


@pytest.mark.parametrize(
    "how",
    [{"loss": 1.5}, {"loss": float("nan")}, {"delay": -1}, {"rate": float("inf")}, {"queue": 0}],
)
def test_what_makes_no_sense_is_said_in_a_sentence(how):
    assert next(iter(how)).split("_")[0] in Impairment(**how).wrong()


def test_impairments_travel_as_json():
    one = Impairment(delay=0.1, loss=0.02, cut=True)
    assert Impairment(**json.loads(json.dumps(one._asdict()))) == one
    assert one.wrong() == ""
