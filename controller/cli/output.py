"""What people and programs see: tables in plain words, or JSON. Text from elsewhere cannot drive the terminal."""

import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "-"


_UNSHOWN = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})
"""Unicode categories of what a terminal may obey or end a line at: control, format, unassigned, separators of lines."""


def clean(value: object) -> str:
    """A value as one line of text; control and formatting characters are shown as what they are, never obeyed."""
    if value is None or value in ("", [], {}):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(clean(item) for item in value)
    if isinstance(value, dict):
        return " ".join(f"{key}={clean(item)}" for key, item in value.items())
    return "".join(
        ascii(char)[1:-1] if unicodedata.category(char) in _UNSHOWN else char for char in str(value)
    )


def moment(value: object) -> str:
    """A time of the API (`2026-01-31T17:00:00.000000Z`) to the second."""
    text = clean(value)
    if len(text) > len("2026-01-31T17:00:00") and text.endswith("Z"):
        return text[:10] + " " + text[11:19] + "Z"
    return text


def size(value: object) -> str:
    """A number of bytes in a form that fits a column."""
    if not isinstance(value, int):
        return clean(value)
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return (
                f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
            )
        amount /= 1000
    return f"{amount:.1f} TB"


def say(text: str) -> None:
    """One line, or several."""
    sys.stdout.write(text + "\n")


def now(text: str) -> None:
    """One line that is seen at once, for what follows."""
    say(text)
    sys.stdout.flush()


def as_document(value: Any) -> None:
    """Print a JSON document."""
    say(json.dumps(value, indent=2, ensure_ascii=False))


def as_line(value: Any) -> None:
    """Print one JSON line, now."""
    now(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], empty: str) -> None:
    """Print rows below the names of their columns; `empty` when there are none."""
    if not rows:
        say(empty)
        return
    cells = [[cell(row, column) for column in columns] for row in rows]
    titles = [column.replace("_", " ") for column in columns]
    widths = [max(len(line[i]) for line in (titles, *cells)) for i in range(len(columns))]
    for line in (titles, *cells):
        say("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def card(value: Mapping[str, Any]) -> None:
    """Print one object, a line per key."""
    width = max((len(key) for key in value), default=0)
    for key in value:
        say(f"{key.replace('_', ' ').ljust(width)}  {cell(value, key)}")


_TIMES = frozenset({"time", "since", "until", "started", "ended", "created", "expires"})
_SIZES = frozenset({"bytes_in", "bytes_out"})


def cell(row: Mapping[str, Any], column: str) -> str:
    """One value as people read it; a dotted column looks inside."""
    value: Any = row.get(column)
    if column in _TIMES:
        return moment(value)
    if column in _SIZES:
        return size(value)
    if column == "edges" and isinstance(value, list):
        return ", ".join(_front(edge) for edge in value)
    if column == "path" and isinstance(value, list):
        return " > ".join(clean(name) for name in value) or NOTHING
    return clean(value)


def _front(edge: Mapping[str, Any]) -> str:
    """An edge before an asset as it is written in commands."""
    weight = f":{edge['weight']}" if edge["weight"] else ""
    return f"{edge['edge']}:{edge['priority']}{weight}"
