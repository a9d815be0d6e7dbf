"""Logs on stderr: one line an entry, as text for people or as JSON for machines.

A log entry is for whoever looks after the machine; what happened in the plant is the audit's. A closed or full stderr
never disturbs the program.
"""

import contextlib
import logging
import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

import structlog

FORMATS = ("text", "json")

Entry = MutableMapping[str, Any]


def get_logger(name: str) -> Any:
    """A logger; `name` says which part of the program speaks (key `part`)."""
    return structlog.get_logger(part=name)


def setup(log_format: str, *, level: int = logging.INFO, stream: TextIO | None = None) -> None:
    """Send structlog's and the standard library's entries to `stream` (default stderr) as one of `FORMATS`."""
    renderer = structlog.processors.JSONRenderer() if log_format == "json" else _render_text
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.dict_tracebacks if log_format == "json" else _where,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Factory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    root.handlers[:] = [_Bridge()]
    root.setLevel(logging.WARNING)


class _Writer:
    """What structlog calls a logger: writes one finished line."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(line + "\n")
            self._stream.flush()

    log = debug = info = warning = warn = error = critical = fatal = failure = msg


class _Factory:
    """Gives every structlog logger the same stream."""

    def __init__(self, stream: TextIO) -> None:
        self._writer = _Writer(stream)

    def __call__(self, *_: object) -> _Writer:
        return self._writer


class _Bridge(logging.Handler):
    """Passes entries of libraries (asyncio, aiohttp) on, so that there is one format and one stream."""

    def emit(self, record: logging.LogRecord) -> None:
        level = logging.getLevelName(record.levelno).lower()
        speak = getattr(get_logger(record.name), level, get_logger(record.name).error)
        with contextlib.suppress(
            Exception
        ):  # a broken format string of a library is not our failure
            if record.exc_info and record.exc_info[1] is not None:
                speak(record.getMessage(), exc_info=record.exc_info[1])
            else:
                speak(record.getMessage())


def _where(_logger: object, _method: str, entry: Entry) -> Entry:
    """People get the place of a failure in a few words instead of a traceback."""
    error = entry.pop("exc_info", None)
    if isinstance(error, BaseException):
        place = place_of(error)
        if place:
            entry["where"] = place
    return entry


def place_of(error: BaseException) -> str:
    """`file.py:line` where `error` was raised, or an empty string."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    name = trace.tb_frame.f_code.co_filename.rpartition("/")[2]
    return f"{name}:{trace.tb_lineno}"


def _render_text(_logger: object, _method: str, entry: Entry) -> str:
    time = entry.pop("timestamp", "")
    level = entry.pop("level", "")
    event = entry.pop("event", "")
    part = entry.pop("part", "")
    words = " ".join(f"{key}={_value(value)}" for key, value in entry.items())
    return f"{time} {level:<7} {part}: {event} {words}".rstrip()


def _value(value: object) -> str:
    text = str(value)
    plain = text.isprintable() and text and not any(sign in text for sign in ' "=')
    return text if plain else repr(text)
