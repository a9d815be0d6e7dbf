"""Pure: the summary in plain text."""

from collections.abc import Iterable, Sequence

from bench.capacity import statements
from bench.report.tables import (
    figure_rows,
    generator_lines,
    machine_lines,
    number,
    shown,
    tables,
    title,
    warnings,
)
from bench.results import Result


def columns(rows: Sequence[Sequence[str]], indent: str = "  ") -> Iterable[str]:
    """Lines with every column as wide as its widest cell."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield (indent + "  ".join(cells)).rstrip()


def heading(text: str) -> list[str]:
    """A title with a line under it."""
    return ["", text, "=" * len(text)]


def figures_text(result: Result) -> list[str]:
    """The figures to reach."""
    head = ("figure", "must", "goal", "measured", "reached")
    return [*heading("Figures to reach"), *columns([head, *figure_rows(result)])]


def scenario_text(result: Result, name: str) -> list[str]:
    """One scenario: a line per candidate, a column per figure, × the ratio to the relay chain."""
    found = tables(result, name)
    if not found:
        return []
    rows = [["", *(f"{table.metric.title} {table.metric.unit}".strip() for table in found)]]
    for candidate in result.versions:
        cells = []
        for table in found:
            row = next((row for row in table.rows if row.candidate == candidate), None)
            ratio = f" ×{number(row.ratio.median)}" if row and row.ratio else ""
            cells.append(shown(row.spread) + ratio if row else "")
        if any(cells):
            rows.append([candidate, *cells])
    return ["", f"{name}: {title(name)}", *columns(rows)]


def summary(result: Result) -> str:
    """All of it."""
    lines = ["Ferrule and its peers on one path, in one run"]
    lines += [f"!! {warning}" for warning in warnings(result)]
    lines += [*heading("Machine"), *columns(machine_lines(result))]
    lines += figures_text(result)
    said = statements(result)
    if said:
        lines += heading("What this box can carry")
        for one in said:
            lines += [f"  {one.text}", f"    {one.formula}"]
    lines += heading("Measured: median (range), × the relay chain in the same rounds")
    for name in result.scenarios():
        lines += scenario_text(result, name)
    overhead = generator_lines(result)
    if overhead:
        lines += [*heading("The load generator itself"), *(f"  {line}" for line in overhead)]
    lines += heading("Candidates")
    lines += columns(
        [(name, result.versions[name], result.what[name]) for name in result.versions]
        or [("none",)]
    )
    for head, reasons in (("Left out", result.left_out), ("Failed", result.failed)):
        if reasons:
            lines += [*heading(head), *columns(sorted(reasons.items()))]
    return "\n".join(lines) + "\n"
