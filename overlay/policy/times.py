"""Durations and times as people type them, and as they are shown.

Durations are whole seconds, times microseconds since 1970 in plant time (P-15). `zone` is the plant's time zone by its
IANA name (`Europe/Berlin`); "now" is always an argument.
"""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from overlay.errors import InputError
from overlay.policy.names import shown
from overlay.wire.timestamps import SECOND

MAX_DURATION = 3650 * 86_400
_UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)
_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", re.ASCII)
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_RELATIVE = {"yesterday": -1, "today": 0, "tomorrow": 1}
_EXAMPLES = "write 18:00, friday 18:00, or 2026-08-07T18:00"


def parse_duration(text: str) -> int:
    """A DUR (`90s`, `10m`, `2h`, `3d`, `1h30m`) in seconds.

    Raises:
        InputError: another form, nothing at all, or more than ten years.
    """
    match = _DURATION.fullmatch(text.strip().lower())
    if match is None or not any(match.groups()):
        raise InputError(
            f"{shown(text)} is not a duration: write 90s, 10m, 2h, 3d or 1h30m (days, hours, minutes, seconds)"
        )
    seconds = sum(
        int(n or 0) * unit for n, unit in zip(match.groups(), _UNITS.values(), strict=True)
    )
    if not 0 < seconds <= MAX_DURATION:
        raise InputError(f"{shown(text)} is not possible: a duration is between 1s and 3650d")
    return seconds


def format_duration(seconds: int) -> str:
    """Seconds as a DUR, `1h30m`; 0 is `0s`."""
    parts = []
    for letter, unit in _UNITS.items():
        count, seconds = divmod(seconds, unit)
        if count:
            parts.append(f"{count}{letter}")
    return "".join(parts) or "0s"


def rough_duration(micros: int) -> str:
    """A length of time in words, for people: `2 hours`, `35 s`; never more than two figures of precision."""
    seconds = max(0, micros) // SECOND
    for unit, word in ((86_400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds // unit} {word}"
    return f"{seconds} s"


def time_zone(name: str) -> tzinfo:
    """The rules of an IANA time zone.

    Raises:
        InputError: this machine knows no zone of that name.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(
            f"the time zone {shown(name)} is not known here: use a name such as Europe/Berlin or UTC"
            " (and install the system's tzdata)"
        ) from None


def _to_local(micros: int, zone: str) -> datetime:
    return datetime.fromtimestamp(micros // SECOND, time_zone(zone))


def _to_micros(moment: datetime, text: str) -> int:
    try:
        since = moment.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    except OverflowError:
        since = timedelta(-1)
    micros = since // timedelta(microseconds=1)
    if not 0 < micros < 1 << 62:
        raise InputError(f"{shown(text)} lies outside the times that can be used")
    return micros


def parse_time(text: str, now: int, zone: str, *, past: bool = False) -> int:
    """A TIME in microseconds: ISO 8601, `18:00`, `friday 18:00`, `tomorrow 18:00`.

    A form without a date is the next such moment after `now`, or with `past` the last one before it. A form without an
    offset is in the plant's time zone; an hour that occurs twice in autumn counts as its first occurrence.

    Raises:
        InputError: another form, or a moment that is out of range.
    """
    words = text.strip().lower().split()
    clock = _CLOCK.fullmatch(words[-1]) if words else None
    if clock is not None and (len(words) == 1 or (len(words) == 2 and words[0].isalpha())):
        return _next_clock(words[0] if len(words) == 2 else "", clock, text, now, zone, past=past)
    if "-" not in text:  # a weekday alone, a number, an ISO time without a date
        raise InputError(f"{shown(text)} is not a time: {_EXAMPLES}")
    try:
        moment = datetime.fromisoformat(text.strip().upper())
    except ValueError:
        raise InputError(f"{shown(text)} is not a time: {_EXAMPLES}") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=time_zone(zone))
    return _to_micros(moment, text)


def _next_clock(
    day: str, clock: re.Match[str], text: str, now: int, zone: str, *, past: bool
) -> int:
    """The first such moment after `now` (the last one before it), or on the day that is named relative to today."""
    today = _to_local(now, zone)
    hour, minute, second = (int(part or 0) for part in clock.groups())
    if day in _RELATIVE:
        step, first = 1, _RELATIVE[day]
    elif day == "":
        step, first = 1, -1
    else:
        matching = [n for n, name in enumerate(_DAYS) if day == name or day == name[:3]]
        if not matching:
            raise InputError(
                f"{shown(text)} is not a time: {shown(day)} is no weekday; {_EXAMPLES}"
            )
        step, first = 7, (matching[0] - today.weekday()) % 7 - 7
    moments = []
    for days in range(first, first + 2 * step + 1, step):
        date = (today + timedelta(days=days)).date()
        local = datetime(date.year, date.month, date.day, hour, minute, second, tzinfo=today.tzinfo)
        moments.append(_to_micros(local, text))
    if day in _RELATIVE:
        return moments[0]
    if past:
        return max(moment for moment in moments if moment <= now)
    return min(moment for moment in moments if moment > now)


def parse_until(text: str, now: int, zone: str) -> int:
    """A TIME at which something shall end, in microseconds.

    Raises:
        InputError: not a TIME, a duration (said so), or not in the future.
    """
    if _DURATION.fullmatch(text.strip().lower()) and text.strip():
        raise InputError(
            f"{shown(text)} is a duration: write --for {text.strip()} instead of --until"
        )
    moment = parse_time(text, now, zone)
    if moment <= now:
        raise InputError(f"{shown(text)} has passed: it means {format_local(moment, zone)}")
    return moment


def parse_since(text: str, now: int, zone: str) -> int:
    """A past TIME in microseconds; a DUR means that long ago.

    Raises:
        InputError: neither.
    """
    if _DURATION.fullmatch(text.strip().lower()) and text.strip():
        return max(0, now - parse_duration(text) * SECOND)
    try:
        return parse_time(text, now, zone, past=True)
    except InputError as error:
        raise InputError(f"{error}, or how long ago, such as 24h") from None


def format_local(micros: int, zone: str) -> str:
    """A moment for people, in the plant's time zone: `Friday 2026-08-07 18:00 CEST`; seconds where they matter."""
    moment = _to_local(micros, zone)
    clock = f"{moment:%H:%M:%S}" if moment.second else f"{moment:%H:%M}"
    return f"{_DAYS[moment.weekday()].capitalize()} {moment:%Y-%m-%d} {clock} {moment:%Z}"
