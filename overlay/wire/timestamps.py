"""Times in JSON: RFC 3339, UTC, `Z`, always with microseconds. In bodies they are plain numbers (P-15)."""

from datetime import datetime, timedelta

from overlay.errors import DecodeError

SECOND = 1_000_000
"""Microseconds: the unit of all times in bodies, tables and code."""
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001  (all is UTC)
_MICROSECOND = timedelta(microseconds=1)
LAST = (datetime(9999, 12, 31, 23, 59, 59, 999_999) - _EPOCH) // _MICROSECOND  # noqa: DTZ001


def format_time(micros: int) -> str:
    """Microseconds since 1970 as `2026-08-07T16:00:00.000000Z`; what lies beyond the year 9999 is shown as its end."""
    moment = _EPOCH + timedelta(microseconds=min(max(micros, 0), LAST))
    return moment.isoformat(timespec="microseconds") + "Z"


def read_time(text: str) -> int:
    """Microseconds since 1970 of what `format_time` wrote.

    Raises:
        DecodeError: any other form.
    """
    try:
        # It takes other forms, too, and is ten times as fast as one that does not: what was read is written again.
        moment = datetime.fromisoformat(text.removesuffix("Z"))
        micros = (moment - _EPOCH) // _MICROSECOND
    except (ValueError, TypeError):  # TypeError: with an offset
        raise DecodeError("not an RFC 3339 time in UTC with microseconds") from None
    if micros < 0 or format_time(micros) != text:
        raise DecodeError("not an RFC 3339 time in UTC with microseconds")
    return micros
