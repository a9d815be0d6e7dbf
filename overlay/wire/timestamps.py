"""Times in JSON: RFC 3339, UTC, `Z`, always with microseconds. In bodies they are plain numbers (P-15)."""

from datetime import UTC, datetime, timedelta

from overlay.errors import DecodeError

SECOND = 1_000_000
"""Microseconds: the unit of all times in bodies, tables and code."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
LAST = (datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC) - _EPOCH) // _MICROSECOND


def format_time(micros: int) -> str:
    """Microseconds since 1970 as `2026-08-07T16:00:00.000000Z`; what lies beyond the year 9999 is shown as its end."""
    moment = _EPOCH + timedelta(microseconds=min(max(micros, 0), LAST))
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond:06}Z"


def read_time(text: str) -> int:
    """Microseconds since 1970 of what `format_time` wrote.

    Raises:
        DecodeError: any other form.
    """
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        raise DecodeError("not an RFC 3339 time in UTC with microseconds") from None
    micros = (moment - _EPOCH) // _MICROSECOND
    if micros < 0 or format_time(micros) != text:
        raise DecodeError("not an RFC 3339 time in UTC with microseconds")
    return micros
