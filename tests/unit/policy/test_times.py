"""Durations and times as people type them, and time in JSON."""

from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import DecodeError, InputError
from overlay.policy import times
from overlay.wire.timestamps import LAST, SECOND, format_time, read_time

BERLIN = "Europe/Berlin"


def at(text: str) -> int:
    """Microseconds of an ISO time, UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


NOW = at("2026-08-05T10:00:00")  # a Wednesday, noon in Berlin


def said_in_one_line(error: InputError) -> None:
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("2h", 7200), ("3d", 259200), ("1h30m", 5400), ("1D2H3M4S", 93784)],
)
def test_durations(text, seconds):
    assert times.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "2", "h", "2x", "1m1h", "1h1h", "-2h", "1.5h", "2h ago", "1 h", "٣h", "forever"]
)
def test_what_is_no_duration_says_how_to_write_one(text):
    with pytest.raises(InputError, match="is not a duration: write 90s"):
        times.parse_duration(text)


@pytest.mark.parametrize("text", ["0s", "0d0h", "3651d", "999999999d"])
def test_durations_are_bounded(text):
    with pytest.raises(InputError, match="between 1s and 3650d"):
        times.parse_duration(text)


@given(st.integers(1, times.MAX_DURATION))
def test_durations_survive_writing_and_reading(seconds):
    assert times.parse_duration(times.format_duration(seconds)) == seconds


def test_rough_durations():
    assert times.rough_duration(-5) == "0 s"
    assert times.rough_duration(119 * SECOND) == "119 s"
    assert times.rough_duration(2 * 3600 * SECOND) == "2 hours"
    assert times.rough_duration(50 * 3600 * SECOND) == "2 days"


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:00", "2026-08-05T16:00:00"),
        ("11:00", "2026-08-06T09:00:00"),  # has passed today
        ("12:00", "2026-08-06T10:00:00"),  # is now: the next one
        ("9:05:30", "2026-08-06T07:05:30"),
        ("friday 18:00", "2026-08-07T16:00:00"),
        ("FRI 18:00", "2026-08-07T16:00:00"),
        ("wednesday 18:00", "2026-08-05T16:00:00"),
        ("wednesday 11:00", "2026-08-12T09:00:00"),
        ("tuesday 18:00", "2026-08-11T16:00:00"),
        ("tomorrow 00:00", "2026-08-05T22:00:00"),
        ("today 11:00", "2026-08-05T09:00:00"),
        ("2026-08-07T18:00", "2026-08-07T16:00:00"),
        ("2026-08-07 18:00", "2026-08-07T16:00:00"),
        ("2026-08-07", "2026-08-06T22:00:00"),
        ("2026-08-07T18:00:00Z", "2026-08-07T18:00:00"),
        ("2026-08-07t18:00:00+05:30", "2026-08-07T12:30:00"),
        ("2026-12-24T18:00", "2026-12-24T17:00:00"),
    ],
)
def test_times_are_read_in_the_plants_time_zone(text, moment):
    assert times.parse_time(text, NOW, BERLIN) == at(moment)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("18:00", "2026-08-04T16:00:00"),
        ("12:00", "2026-08-05T10:00:00"),
        ("friday 18:00", "2026-07-31T16:00:00"),
        ("wednesday 11:00", "2026-08-05T09:00:00"),
        ("wednesday 18:00", "2026-07-29T16:00:00"),
        ("yesterday 18:00", "2026-08-04T16:00:00"),
        ("2h", "2026-08-05T08:00:00"),
        ("1d30m", "2026-08-04T09:30:00"),
        ("2026-08-01", "2026-07-31T22:00:00"),
    ],
)
def test_past_times_look_back_and_a_duration_means_that_long_ago(text, moment):
    assert times.parse_since(text, NOW, BERLIN) == at(moment)


@pytest.mark.parametrize(
    "text",
    ["", "friday", "25:00", "18", "18:60", "frday 18:00", "now", "2026-13-01", "20260807",
     "2026-08-07T", "0001-01-01T00:00+14:00", "1969-12-31T00:00Z", "18:00 friday", "a-b", "١٨:٠٠"],
)  # fmt: skip
def test_what_is_no_time_is_refused(text):
    with pytest.raises(InputError):
        times.parse_time(text, NOW, BERLIN)


def test_the_end_of_something_lies_in_the_future_and_is_no_duration():
    assert times.parse_until("18:00", NOW, BERLIN) == at("2026-08-05T16:00:00")
    with pytest.raises(InputError, match=r"has passed: it means Wednesday 2026-08-05 11:00 CEST"):
        times.parse_until("today 11:00", NOW, BERLIN)
    with pytest.raises(InputError, match="write --for 2h instead of --until"):
        times.parse_until("2h", NOW, BERLIN)


def test_summer_time_changes():
    spring = at("2026-03-28T12:00:00")
    assert times.parse_time("03:30", spring, BERLIN) == at("2026-03-29T01:30:00")
    autumn = at("2026-10-24T12:00:00")  # 02:30 comes twice on the 25th: the first counts
    assert times.parse_time("02:30", autumn, BERLIN) == at("2026-10-25T00:30:00")


@given(st.integers(NOW, NOW + 366 * 86400 * SECOND), st.integers(0, 6), st.integers(0, 23))
def test_the_next_and_the_last_weekday_lie_on_their_sides_of_now(now, day, hour):
    text = f"{('mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun')[day]} {hour}:30"
    week = 7 * 86400 * SECOND + 2 * 3600 * SECOND
    assert now < times.parse_time(text, now, BERLIN) <= now + week
    assert now - week <= times.parse_time(text, now, BERLIN, past=True) <= now


@given(st.text(max_size=40))
def test_any_text_is_a_time_or_one_error(text):
    for read in (times.parse_time, times.parse_until, times.parse_since):
        try:
            assert read(text, NOW, BERLIN) >= 0
        except InputError as error:
            said_in_one_line(error)


def test_who_gets_a_past_time_wrong_is_told_of_durations():
    with pytest.raises(
        InputError, match=r"'yesterday' is not a time: .* how long ago, such as 24h"
    ):
        times.parse_since("yesterday", NOW, BERLIN)


def test_an_unknown_time_zone_says_what_to_do():
    with pytest.raises(InputError, match="time zone 'Mars/Olympus' is not known here"):
        times.parse_time("18:00", NOW, "Mars/Olympus")
    with pytest.raises(InputError):
        times.time_zone("../../etc/passwd")
    assert times.parse_time("18:00", NOW, "UTC") == at("2026-08-05T18:00:00")


def test_what_people_see():
    assert times.format_local(at("2026-08-07T16:00:00"), BERLIN) == "Friday 2026-08-07 18:00 CEST"
    assert (
        times.format_local(at("2026-01-01T00:00:07"), "UTC") == "Thursday 2026-01-01 00:00:07 UTC"
    )


@given(st.integers(0, LAST))
def test_json_times_survive(micros):
    text = format_time(micros)
    assert len(text) == 27
    assert read_time(text) == micros


@given(st.one_of(st.text(max_size=40), st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{1,6}Z")))
def test_any_other_text_is_no_json_time(text):
    with suppress(DecodeError):
        assert format_time(read_time(text)) == text


def test_json_times_beyond_the_year_9999_are_shown_as_its_end():
    assert format_time(1 << 62) == "9999-12-31T23:59:59.999999Z"
    assert format_time(0) == "1970-01-01T00:00:00.000000Z"
