"""Pure: what both reports show, as rows of text."""

from typing import NamedTuple

from bench.candidates.registry import OURS, REFERENCE
from bench.figures import Verdict, judge_all
from bench.metrics import METRICS, Metric
from bench.results import Result
from bench.scenarios.registry import BY_NAME
from bench.statistics import Spread


class Row(NamedTuple):
    """One candidate in one scenario, one figure."""

    candidate: str
    spread: Spread
    ratio: Spread | None


class Table(NamedTuple):
    """One scenario, one figure, all candidates."""

    scenario: str
    figure: str
    metric: Metric
    rows: list[Row]


def number(value: float) -> str:
    """Three digits that say something, with separators for thousands."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def shown(spread: Spread, unit: str = "") -> str:
    """`5.1 (4.9 to 5.3) Gbit/s`; no range where there is one round."""
    text = number(spread.median)
    if spread.rounds > 1:
        text += f" ({number(spread.low)} to {number(spread.high)})"
    return f"{text} {unit}".strip()


def title(scenario: str) -> str:
    """A scenario's sentence, also of one that this build no longer has."""
    return BY_NAME[scenario].title if scenario in BY_NAME else scenario


def tables(result: Result, scenario: str) -> list[Table]:
    """One table per figure that the scenario measured."""
    found = []
    for figure, metric in METRICS.items():
        rows = []
        for candidate in result.versions:
            spread = result.spread(scenario, candidate, figure)
            if spread is not None:
                over, under = (scenario, candidate, figure), (scenario, REFERENCE, figure)
                rows.append(Row(candidate, spread, result.ratio(over, under)))
        if rows:
            found.append(Table(scenario, figure, metric, rows))
    return found


def figure_rows(result: Result) -> list[tuple[str, str, str, str, str]]:
    """Title, must, goal, measured, reached: every row of the figures to reach."""
    return [figure_row(verdict) for verdict in judge_all(result)]


def figure_row(verdict: Verdict) -> tuple[str, str, str, str, str]:
    """One of them."""
    figure = verdict.figure
    sign = "≤" if figure.less else "≥"
    unit = "" if figure.unit == "×" else f" {figure.unit}"
    measured = "–" if verdict.measured is None else shown(verdict.measured)
    reached = {"goal": "goal reached", "must": "must reached", "no": "NOT reached"}
    return (
        figure.title,
        f"{sign} {number(figure.must)}{unit}",
        f"{sign} {number(figure.goal)}{unit}",
        measured,
        reached.get(verdict.reached, verdict.reached),
    )


def machine_lines(result: Result) -> list[tuple[str, str]]:
    """The machine and what ran on it."""
    machine = result.machine
    changed = " with changes that are not committed" if result.version.changed else ""
    return [
        ("processor", f"{machine.cpu}, {machine.cores} cores" + (", AES" if machine.aes else ", no AES")),
        ("memory", f"{machine.memory_gb} GB"),
        ("system", f"{machine.system}, Linux {machine.kernel}" + (", virtual" if machine.virtual else "")),
        ("frequency governor", machine.governor),
        ("Python", machine.python),
        ("commit", result.version.commit + changed),
        ("run", f"{result.started}, profile {result.profile}, {result.rounds} rounds of {result.seconds:g} s, "
                f"{result.took / 60:.0f} min" + ("" if result.complete else ", NOT COMPLETE")),
        ("load average", (f"{' '.join(f'{v:.2f}' for v in result.load_before)} before, "
                         f"{' '.join(f'{v:.2f}' for v in result.load_after)} after")),
    ]  # fmt: skip


def warnings(result: Result) -> list[str]:
    """What a reader has to know before believing a figure."""
    found = []
    noisy = [one for one in result.measurements if one.noisy]
    if noisy:
        rounds = ", ".join(map(str, result.noisy_rounds()))
        most = max(max(one.others, one.steal) for one in noisy)
        found.append(
            f"The machine was not quiet: in {len(noisy)} of {len(result.measurements)} measurements (rounds {rounds}) "
            f"others used more than 0.3 cores, up to {most:.1f}. Trust ratios more than values, and neither much."
        )
    if not result.complete:
        found.append("The run was stopped before its end: what is missing was not measured.")
    if result.rounds < 3:
        found.append(f"{result.rounds} round(s): medians and ranges say little below three.")
    if result.version.changed:
        found.append("The sources had changes that no commit holds: nobody can repeat this run.")
    return found


def generator_lines(result: Result) -> list[str]:
    """What the load generator itself does, seen on the direct path: nothing measured can be better than that."""
    lines = []
    rate, latency = (
        result.spread("bulk-1-up", "kernel", "gbit_per_s"),
        result.spread("poll", "kernel", "p50_us"),
    )
    if rate:
        lines.append(f"direct path, one stream: {shown(rate, 'Gbit/s')}")
    other = result.spread("iperf3-1-up", "kernel", "iperf_gbit_per_s")
    if other:
        lines.append(f"the same with iperf3 instead of our generator: {shown(other, 'Gbit/s')}")
    if latency:
        lines.append(f"direct path, a poll there and back: {shown(latency, 'µs')} at the median")
    for scenario in ("poll-10", "poll-100", "poll-1000"):
        late = result.spread(scenario, OURS, "late_p99_us")
        if late:
            lines.append(
                f"{title(scenario)}: 99 % were sent within {shown(late, 'µs')} of when they were due"
            )
    shares = [
        one.generator / (one.generator + sum(one.cpu.values()))
        for one in result.measurements
        if one.scenario == "bulk-1-up" and one.candidate == OURS and one.cpu
    ]
    if shares:
        lines.append(
            f"one stream through Ferrule: client and server of the generator used {max(shares) * 100:.0f} % of the CPU "
            "time at most, the programs the rest"
        )
    return lines
