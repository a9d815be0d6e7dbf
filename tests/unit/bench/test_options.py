"""What the command line means, and that the lists of candidates and scenarios fit together."""

import argparse

import pytest

from bench.candidates.registry import NAMES, PEERS
from bench.metrics import METRICS
from bench.options import PROFILES, add_to, plan, several
from bench.scenarios.registry import BY_NAME, SCENARIOS
from bench.scenarios.scenario import EVERYBODY, FABRIC, FAR


def parsed(*arguments: str):
    parser = argparse.ArgumentParser()
    add_to(parser)
    return plan(parser.parse_args(arguments))


def test_nothing_said_is_the_standard_profile():
    chosen = parsed()
    assert (chosen.rounds, chosen.seconds) == (5, 2.0)
    assert chosen.candidates == NAMES
    assert chosen.scenarios == SCENARIOS


def test_options_win_over_the_profile():
    chosen = parsed(
        "--profile", "long", "--rounds", "2", "--seconds", "0.5", "--scenarios", "poll*"
    )
    assert (chosen.rounds, chosen.seconds) == (2, 0.5)
    assert {scenario.name[:4] for scenario in chosen.scenarios} == {"poll"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rounds", "0"),
        ("--rounds", "0.5"),
        ("--rounds", "2.7"),
        ("--rounds", "3600"),
        ("--faults", "1e2"),
        ("--seconds", "-1"),
        ("--seconds", "nan"),
        ("--seconds", "soon"),
        ("--candidates", "nonesuch"),
        ("--scenarios", ""),
        ("--profile", "eternal"),
    ],
)
def test_nonsense_is_refused(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        parsed(*arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_names_keep_their_order_and_appear_once():
    assert several("c,a,a*", ("a", "ab", "c"), "thing") == ("a", "ab", "c")


def test_every_candidate_is_known_to_the_scenarios_and_the_other_way_round():
    assert set(NAMES) == EVERYBODY | FABRIC | FAR
    assert all(scenario.who <= set(NAMES) for scenario in SCENARIOS)


def test_names_are_unique():
    assert len(set(NAMES)) == len(NAMES)
    assert len(BY_NAME) == len(SCENARIOS)
    assert all(peer.what for peer in PEERS)


def test_the_short_profile_stays_short():
    """Under three minutes, start and end of everything included."""
    chosen = parsed("--profile", "short")
    assert chosen.estimate(list(chosen.candidates)) < 120


def test_the_estimate_grows_with_what_is_asked():
    chosen = parsed("--profile", "standard")
    names = list(PROFILES["short"].candidates)
    assert chosen.estimate(names) < chosen.estimate(list(NAMES))


def test_every_metric_says_which_direction_is_better():
    assert {metric.better for metric in METRICS.values()} == {-1, 0, 1}
