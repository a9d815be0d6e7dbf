"""Pure: which differences between two runs are noise, and which are not, in words."""

from typing import NamedTuple

from bench.candidates.registry import REFERENCE
from bench.metrics import METRICS
from bench.report.tables import number, shown
from bench.results import Result
from bench.scenarios.registry import SCENARIOS
from bench.statistics import Spread, differ, least_p, ratios

SIGNIFICANT = 0.05
SMALLEST = 0.02
"""A smaller change of the median is nobody's concern, however sure it is."""
FEW = 10
"""So many things that one run lacks are named."""
ONCE = frozenset(scenario.name for scenario in SCENARIOS if scenario.once)


class Difference(NamedTuple):
    """One figure of both runs; `change` is the second median over the first, less one; `p` as in `differ`, of which
    `least_p` is the smallest that so many values can give."""

    scenario: str
    candidate: str
    figure: str
    before: Spread
    after: Spread
    change: float
    p: float
    least_p: float

    @property
    def is_noise(self) -> bool:
        """Chance explains it, or it is too small to matter."""
        return self.p > SIGNIFICANT or abs(self.change) < SMALLEST

    @property
    def verdict(self) -> str:
        """In words."""
        if self.is_noise:
            return "noise"
        better = METRICS[self.figure].better * self.change > 0
        return "BETTER" if better else "WORSE"


def different_machines(before: Result, after: Result) -> list[str]:
    """What tells the two machines apart, in words; empty when it is the same."""
    one, other = before.machine, after.machine
    named = (
        ("processor", one.cpu, other.cpu),
        ("cores", one.cores, other.cores),
        ("memory in GB", one.memory_gb, other.memory_gb),
        ("machine", one.identity, other.identity),
    )
    return [f"{name}: {first} and {second}" for name, first, second in named if first != second]


def same_machine_changed(before: Result, after: Result) -> list[str]:
    """What changed on the same machine that may explain a difference as well as our sources."""
    one, other = before.machine, after.machine
    named = (
        ("kernel", one.kernel, other.kernel),
        ("Python", one.python, other.python),
        ("frequency governor", one.governor, other.governor),
        ("profile", before.profile, after.profile),
        ("seconds of a measurement", before.seconds, after.seconds),
    )
    found = [f"{name}: {first}, then {second}" for name, first, second in named if first != second]
    for name in before.versions.keys() & after.versions.keys():
        if before.versions[name] != after.versions[name]:
            found.append(f"{name}: {before.versions[name]}, then {after.versions[name]}")
    return sorted(found)


def relative(result: Result, scenario: str, candidate: str, figure: str) -> dict[int, float]:
    """A candidate's values over those of the relay chain of the same rounds."""
    values = result.values(scenario, candidate, figure)
    base = result.values(scenario, REFERENCE, figure)
    rounds = [number for number in values if base.get(number)]
    return dict(zip(rounds, ratios(values, base), strict=True))


def differences(before: Result, after: Result, *, as_ratios: bool) -> list[Difference]:
    """Every figure that both runs have; as ratios to the relay chain when the machines differ."""
    found = []
    for scenario in before.scenarios():
        for candidate in before.versions:
            for figure, metric in METRICS.items():
                if not metric.better:
                    continue
                if as_ratios:
                    if candidate == REFERENCE:
                        continue
                    first = relative(before, scenario, candidate, figure)
                    second = relative(after, scenario, candidate, figure)
                else:
                    first = before.values(scenario, candidate, figure)
                    second = after.values(scenario, candidate, figure)
                if first and second:
                    old, new = Spread.of(first.values()), Spread.of(second.values())
                    change = new.median / old.median - 1 if old.median else float(new.median > 0)
                    # Faults make one figure of all rounds together: it is what they are made of that is told apart.
                    one = before.samples(scenario, candidate) or [*first.values()]
                    other = after.samples(scenario, candidate) or [*second.values()]
                    p, least = differ(one, other), least_p(len(one), len(other))
                    found.append(
                        Difference(scenario, candidate, figure, old, new, change, p, least)
                    )
    return found


def only_in_one(before: Result, after: Result) -> list[str]:
    """What one of the two runs did not measure, in words."""
    one, other = ({(m.scenario, m.candidate) for m in run.measurements} for run in (before, after))
    found = []
    for name, missing in (("first", other - one), ("second", one - other)):
        if missing:
            rows = ", ".join(f"{scenario} of {who}" for scenario, who in sorted(missing)[:FEW])
            more = f" and {len(missing) - FEW} more" if len(missing) > FEW else ""
            found.append(f"Not measured in the {name} run: {rows}{more}.")
    return found


def row(one: Difference) -> str:
    """One line of the comparison."""
    metric = METRICS[one.figure]
    return (
        f"  {one.verdict:7} {one.scenario}, {one.candidate}, {metric.title}: {shown(one.before)} -> "
        f"{shown(one.after, metric.unit)}, {one.change * 100:+.1f} %, p = {one.p:.3f}"
    )


def explain(before: Result, after: Result, *, as_ratios: bool) -> list[str]:
    """The comparison, line by line."""
    found = differences(before, after, as_ratios=as_ratios)
    real = [one for one in found if not one.is_noise]
    what = "ratios to the relay chain of the same run" if as_ratios else "values"
    lines = [
        f"first:  {before.started}, commit {before.version.commit}, {before.rounds} rounds",
        f"second: {after.started}, commit {after.version.commit}, {after.rounds} rounds",
        f"{len(found)} figures compared ({what}), {len(real)} differ beyond noise:",
    ]
    lines += [row(one) for one in sorted(real, key=lambda one: -abs(one.change))] or ["  none"]
    lines.append("")
    lines += caveats(before, after, found, real)
    return lines


def caveats(
    before: Result, after: Result, found: list[Difference], real: list[Difference]
) -> list[str]:
    """How far the comparison can be believed."""
    lines = [
        (
            "Noise: a Mann-Whitney test over the rounds, of faults over all stalls, does not tell the two apart "
            f"(p > 0.05), or the medians differ by less than {SMALLEST:.0%}."
        )
    ]
    tested = [one for one in found if one.least_p <= SIGNIFICANT]
    few = [one for one in found if one.least_p > SIGNIFICANT]
    once = [one for one in few if one.scenario in ONCE]
    if len(few) > len(once):
        lines.append(
            f"{len(few) - len(once)} of the figures have too few rounds or faults for any verdict but noise "
            "(4 and 4, or 3 and 5, are the least): run with --rounds 5 or more, and as many --faults."
        )
    if once:
        lines.append(
            f"{len(once)} of the figures are measured once in a run, whatever its rounds: no verdict but noise."
        )
    by_chance = SIGNIFICANT * len(tested)
    if tested:
        believed = (
            "that is about what was found: do not believe single ones"
            if len(real) <= 1.5 * by_chance
            else ("more were found, so most of them are real")
        )
        lines.append(
            f"Of {len(tested)} comparisons, chance alone makes about {number(by_chance)} look real; {believed}."
        )
    for name, result in (("first", before), ("second", after)):
        if not result.complete:
            lines.append(f"The {name} run was stopped before its end.")
        if result.noisy_rounds():
            rounds = ", ".join(map(str, result.noisy_rounds()))
            lines.append(
                f"The machine was not quiet in the {name} run (rounds {rounds}): repeat it before judging."
            )
    lines += only_in_one(before, after)
    changed = same_machine_changed(before, after)
    if changed:
        lines.append("Not only our sources changed: " + "; ".join(changed) + ".")
    return lines
