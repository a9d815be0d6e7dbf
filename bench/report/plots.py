"""Pure: plots as SVG inside the page; in shades and patterns that survive a black-and-white printer."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from bench.statistics import Spread

BAR, GAP, LABEL, WIDTH, TEXT = 18, 6, 130, 720, 190


class Bar(NamedTuple):
    """One candidate; `ours` is drawn darker."""

    label: str
    spread: Spread
    shown: str
    ours: bool


def bars(values: Sequence[Bar], title: str) -> str:
    """Horizontal bars of the medians from nought, with the range as a whisker."""
    most = max((bar.spread.high for bar in values), default=0) or 1.0
    space = WIDTH - LABEL - TEXT
    height = len(values) * (BAR + GAP) + GAP
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title, quote=True)}">'
    ]
    for place, bar in enumerate(values):
        top = GAP + place * (BAR + GAP)
        middle = top + BAR / 2
        length = bar.spread.median / most * space
        low, high = (LABEL + value / most * space for value in (bar.spread.low, bar.spread.high))
        parts += [
            f'<text x="{LABEL - 6}" y="{middle + 4:.1f}" text-anchor="end">{escape(bar.label)}</text>',
            (
                f'<rect class="{"ours" if bar.ours else "peer"}" x="{LABEL}" y="{top}" '
                f'width="{max(length, 0.5):.1f}" height="{BAR}"/>'
            ),
            (
                f'<path class="range" d="M{low:.1f} {middle:.1f}H{high:.1f}'
                f'M{low:.1f} {top + 4}v{BAR - 8}M{high:.1f} {top + 4}v{BAR - 8}"/>'
            ),
            f'<text x="{max(high, LABEL + length) + 6:.1f}" y="{middle + 4:.1f}">{escape(bar.shown)}</text>',
        ]
    return "".join([*parts, "</svg>"])


class Curve(NamedTuple):
    """Latencies of one candidate: percentile and microseconds, by rising percentile."""

    label: str
    points: list[tuple[float, float]]
    ours: bool


DASHES = ("", "6 3", "2 3", "8 3 2 3", "1 2", "10 4", "4 1 1 1", "12 2 2 2", "3 6")
TOP, BOTTOM, LEFT, RIGHT, TALL = 10, 30, 70, 150, 300
NINES = 4.0
"""The axis of percentiles ends at 99.99: each nine takes as much room as the one before."""


def nines(percentile: float) -> float:
    """Where a percentile is on the axis: 0 at the fastest, 1 at 90, 2 at 99, 3 at 99.9."""
    return NINES if percentile >= 100 - 10 ** (2 - NINES) else -math.log10(1 - percentile / 100)


def curves(values: Sequence[Curve], title: str) -> str:
    """Latency over percentile, both logarithmic: the tail is on the right."""
    known = [micro for curve in values for _, micro in curve.points if micro > 0]
    if not known:
        return ""
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    high = max(high, low + 1)
    width, height = WIDTH - LEFT - RIGHT, TALL - TOP - BOTTOM

    def at(percentile: float, micro: float) -> tuple[float, float]:
        across = LEFT + nines(percentile) / NINES * width
        return across, TOP + (high - math.log10(max(micro, 0.1))) / (high - low) * height

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {TALL}" role="img" aria-label="{escape(title, quote=True)}">'
    ]
    for power in range(low, high + 1):
        _, y = at(50, 10.0**power)
        parts += [
            f'<path class="grid" d="M{LEFT} {y:.1f}h{width}"/>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{time_text(10.0**power)}</text>',
        ]
    for percentile, name in ((50, "p50"), (90, "p90"), (99, "p99"), (99.9, "p99.9"), (100, "max")):
        x, _ = at(percentile, 1)
        parts += [
            f'<path class="grid" d="M{x:.1f} {TOP}v{height}"/>',
            f'<text x="{x:.1f}" y="{TALL - 10}" text-anchor="middle">{name}</text>',
        ]
    for place, curve in enumerate(values):
        spots = [at(*point) for point in curve.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        dash = f' stroke-dasharray="{DASHES[place % len(DASHES)]}"' if not curve.ours else ""
        parts.append(f'<path class="{"ours" if curve.ours else "peer"} line"{dash} d="{path}"/>')
        y = TOP + 14 + place * 18
        begin = WIDTH - RIGHT + 10
        parts += [
            f'<path class="{"ours" if curve.ours else "peer"} line"{dash} d="M{begin} {y}h26"/>',
            f'<text x="{begin + 32}" y="{y + 4}">{escape(curve.label)}</text>',
        ]
    return "".join([*parts, "</svg>"])


def time_text(micro: float) -> str:
    """A round number of microseconds in the unit that people use."""
    for limit, unit in ((1e6, "s"), (1e3, "ms")):
        if micro >= limit:
            return f"{micro / limit:g} {unit}"
    return f"{micro:g} µs"
