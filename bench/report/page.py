"""Pure: the report as one HTML page that needs nothing else: no script, no font, no picture, no address."""

from collections.abc import Iterable, Sequence
from html import escape
from statistics import median

from bench.candidates.registry import OURS, REFERENCE
from bench.capacity import statements
from bench.report.plots import Bar, Curve, bars, curves
from bench.report.tables import (
    Table,
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

STYLE = """
body{font:15px/1.45 system-ui,sans-serif;color:#111;background:#fff;max-width:60em;margin:2em auto;padding:0 1em}
h1{font-size:1.6em}h2{font-size:1.25em;margin-top:2em;border-bottom:1px solid #999}h3{font-size:1em;margin:1.5em 0 .3em}
table{border-collapse:collapse;font-size:.9em;margin:.5em 0}
th,td{text-align:left;padding:.2em .8em .2em 0;border-bottom:1px solid #ddd;vertical-align:top}
td.no{font-weight:bold}tr.ours td{font-weight:bold}
.warning{border:3px solid #b00;padding:.6em 1em;font-weight:bold;margin:.6em 0}
.small{font-size:.85em;color:#333}
svg{width:100%;max-width:50em;font:12px system-ui,sans-serif;margin:.3em 0}
svg rect.ours{fill:#14507a}svg rect.peer{fill:#b5c7d3}svg .range{stroke:#000;fill:none}
svg .grid{stroke:#ddd;fill:none}svg .line{fill:none;stroke-width:1.5}svg .line.ours{stroke:#14507a;stroke-width:3}
svg .line.peer{stroke:#555}
@media print{body{font-size:10pt;margin:0;max-width:none}h2{break-after:avoid}h3,.warning{break-after:avoid}
svg,table,section{break-inside:avoid}svg rect.peer{fill:#ccc}svg rect.ours{fill:#000}}
"""

PLOTTED = (
    "gbit_per_s",
    "p50_us",
    "per_s",
    "cpu_s_per_gb",
    "datagrams_per_s",
    "edge_mb",
    "polls_per_s",
)
"""Figures that get bars; the others stand in the table."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], strong: str = "") -> str:
    """An HTML table of plain text; the row whose first cell is `strong` stands out."""
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = [f"<table><thead><tr>{cells}</tr></thead><tbody>"]
    for row in rows:
        kind = ' class="ours"' if strong and row[0] == strong else ""
        marks = "".join(
            f"<td{' class=no' if cell.startswith('NOT') else ''}>{escape(cell)}</td>"
            for cell in row
        )
        lines.append(f"<tr{kind}>{marks}</tr>")
    return "".join([*lines, "</tbody></table>"])


def plot(found: Table) -> str:
    """Bars of one figure, the ratio to the relay chain beside the value."""
    values = []
    for row in found.rows:
        ratio = f"  ×{number(row.ratio.median)}" if row.ratio and row.candidate != REFERENCE else ""
        text = f"{number(row.spread.median)} {found.metric.unit}{ratio}"
        values.append(Bar(row.candidate, row.spread, text, row.candidate.startswith(OURS)))
    name = f"{found.metric.title}: {title(found.scenario)}"
    return f'<p class="small">{escape(found.metric.title)}, {escape(found.metric.unit)}</p>{bars(values, name)}'


def latency_plot(result: Result, scenario: str) -> str:
    """Latency over percentile: at each percentile the median of the rounds."""
    found = []
    for candidate in result.versions:
        runs = [
            one.ranks
            for one in result.measurements
            if one.scenario == scenario and one.candidate == candidate and one.ranks
        ]
        if runs:
            shares = sorted(set.intersection(*(set(run) for run in runs)), key=float)
            points = [(float(share), median(run[share] for run in runs)) for share in shares]
            found.append(Curve(candidate, points, candidate == OURS))
    return curves(found, f"latency over percentile: {title(scenario)}") if found else ""


def scenario_section(result: Result, name: str) -> str:
    """Plots and the table of one scenario."""
    found = tables(result, name)
    if not found:
        return ""
    parts = [f"<section><h3>{escape(name)}: {escape(title(name))}</h3>"]
    parts += [plot(one) for one in found if one.figure in PLOTTED and len(one.rows) > 1]
    parts.append(latency_plot(result, name))
    rows = []
    for candidate in result.versions:
        cells = [candidate]
        for one in found:
            row = next((row for row in one.rows if row.candidate == candidate), None)
            cells.append(shown(row.spread) if row else "")
        if any(cells[1:]):
            rows.append(cells)
    head = ["", *(f"{one.metric.title} {one.metric.unit}".strip() for one in found)]
    return "".join([*parts, table(head, rows, OURS), "</section>"])


def page(result: Result) -> str:
    """The whole document."""
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>Ferrule benchmark, {escape(result.started)}</title><style>{STYLE}</style></head><body>",
        "<h1>Ferrule and its peers on one path, in one run</h1>",
    ]
    parts += [f'<p class="warning">{escape(warning)}</p>' for warning in warnings(result)]
    for one in statements(result):
        parts.append(
            f'<p>{escape(one.text)}<br><span class="small">{escape(one.formula)}</span></p>'
        )
    head = ("figure", "must", "goal", "measured", "reached")
    parts += ["<h2>Figures to reach</h2>", table(head, figure_rows(result))]
    parts += ["<h2>Machine</h2>", table(("", ""), machine_lines(result))]
    parts.append(
        "<h2>Measured</h2><p>Median of the rounds, the range in brackets or as a line; × is the ratio to the "
    )
    parts.append("relay chain in the same rounds. Candidates took turns within each round.</p>")
    parts += [scenario_section(result, name) for name in result.scenarios()]
    overhead = "".join(f"<li>{escape(line)}</li>" for line in generator_lines(result))
    parts.append(f"<h2>The load generator itself</h2><ul>{overhead}</ul>")
    rows = [(name, result.versions[name], result.what[name]) for name in result.versions]
    parts += ["<h2>Candidates</h2>", table(("", "version", "set-up"), rows)]
    for name, reasons in (("Left out", result.left_out), ("Failed", result.failed)):
        if reasons:
            parts += [f"<h2>{name}</h2>", table(("", "reason"), sorted(reasons.items()))]
    return "".join([*parts, "</body></html>\n"])
