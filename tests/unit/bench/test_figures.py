"""The table of figures to reach, from one run."""

import pytest

from bench.figures import FIGURES, Figure, judge, judge_all
from bench.results import Result
from bench.scenarios.registry import BY_NAME
from tests.unit.bench.results import add, made

BY_TITLE = {figure.title: figure for figure in FIGURES}


def verdict(result: Result, beginning: str) -> tuple[str, float]:
    """What is said about the figure whose title begins so, and the value to six digits."""
    (figure,) = [figure for title, figure in BY_TITLE.items() if title.startswith(beginning)]
    found = judge(figure, result)
    assert found.measured is not None
    return found.reached, round(found.measured.median, 6)


def test_nothing_measured_is_not_reached_and_not_missed():
    assert {one.reached for one in judge_all(made())} == {"not measured"}


@pytest.mark.parametrize(("speed", "reached"), [(7.1, "goal"), (5.6, "must"), (5.0, "no")])
def test_throughput_is_judged_as_a_ratio_to_the_relay(speed: float, reached: str):
    result = made()
    for scenario in ("bulk-1-up", "bulk-1-down"):
        add(result, scenario, "relay", 7.0, 7.0, 7.0)
        add(result, scenario, "ferrule", speed, speed, speed)
    assert verdict(result, "one stream") == (reached, round(speed / 7, 6))


def test_the_worse_direction_counts():
    result = made()
    for scenario, speed in (("bulk-1-up", 7.0), ("bulk-1-down", 3.5)):
        add(result, scenario, "relay", 7.0)
        add(result, scenario, "ferrule", speed)
    assert verdict(result, "one stream") == ("no", 0.5)


def test_one_direction_alone_is_not_measured():
    result = made()
    add(result, "bulk-1-up", "relay", 7.0)
    add(result, "bulk-1-up", "ferrule", 7.0)
    assert judge(BY_TITLE["one stream, up and down (the worse) / relay"], result).measured is None


def test_ratios_are_of_the_same_round_then_the_median():
    result = made()
    add(result, "poll", "relay", 100, 200, 400, figure="p50_us")
    add(result, "poll", "ferrule", 120, 240, 2000, figure="p50_us")
    assert verdict(result, "idle poll") == ("goal", 1.2)


def test_less_is_better_where_it_says_so():
    result = made()
    add(result, "circuits-1000", "ferrule", 100.0, figure="edge_mb")
    assert verdict(result, "memory of one edge") == ("must", 100.0)
    add(result, "circuits-1000", "ferrule", 121.0, figure="edge_mb")
    assert verdict(result, "memory of one edge") == ("no", 121.0)


def test_what_bulk_keeps_is_against_bulk_alone():
    result = made()
    add(result, "bulk-4-up", "ferrule", 8.0, 10.0)
    add(result, "poll-bulk", "ferrule", 6.0, 7.0, figure="bulk_gbit_per_s")
    assert verdict(result, "what those 4 streams keep") == ("goal", 0.725)


def test_strict_is_against_normal():
    result = made()
    add(result, "bulk-1-up", "ferrule", 7.0)
    add(result, "bulk-1-up", "ferrule strict", 4.2)
    assert verdict(result, "strict") == ("must", 0.6)


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.title)
def test_a_goal_is_never_easier_than_what_must_be(figure: Figure):
    assert figure.goal <= figure.must if figure.less else figure.goal >= figure.must


def test_every_figure_of_a_whole_run_is_measured():
    """No figure asks for a scenario, a candidate or a value that nothing measures."""
    result = made()
    values = [
        "gbit_per_s", "jain", "cpu_s_per_gb", "p50_us", "p99_us", "bulk_gbit_per_s", "per_s",
        "edge_mb", "idle_cpu_percent", "loss_percent", "cpu_percent", "of_plain", "stall_p99_ms",
    ]  # fmt: skip
    for scenario in BY_NAME.values():
        for candidate in scenario.who:
            for value in values:
                add(result, scenario.name, candidate, 1.0, figure=value)
    assert "not measured" not in {one.reached for one in judge_all(result)}


def test_the_worst_position_of_a_fault_counts():
    result = made()
    for position, value in (("caller", 40.0), ("middle", 260.0), ("host", 30.0)):
        add(result, f"failover-killed-{position}", "ferrule ranks", value, figure="stall_p99_ms")
    assert verdict(result, "router killed") == ("no", 260.0)
    assert judge(BY_TITLE["cable cut: stall of a poll, p99"], result).measured is None
