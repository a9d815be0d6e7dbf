"""Tables as they stand in docs/scaling.md, line by line: the large sizes take minutes."""

from collections.abc import Iterable


def lines(head: str, rows: Iterable[tuple[object, ...]]) -> Iterable[str]:
    """Each as soon as it is known."""
    names = head.split(" | ")
    for cells in (names, ["---"] * len(names)):
        yield _line(cells)
    for row in rows:
        yield _line(row)


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def kilo(count: float) -> str:
    """Thousands."""
    return f"{count / 1000:.1f}"


def milli(seconds: float) -> str:
    """Thousandths."""
    return f"{seconds * 1000:.1f}"
