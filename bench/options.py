"""Profiles and options: what a run measures, how often, for how long."""

import argparse
from pathlib import Path
from typing import NamedTuple

from bench.candidates import registry as candidates
from bench.scenarios import registry as scenarios
from bench.scenarios.scenario import OURS, REFERENCES, VARIANTS, Scenario

OVERHEAD = 0.35
"""Seconds that one measurement takes besides its own time: processes that start and are counted."""
START_UP = 6.0
"""Seconds that a candidate takes to start, as a rule."""


class Profile(NamedTuple):
    """What an option that is not given falls back to."""

    rounds: int
    seconds: float
    warm_up: float
    candidates: tuple[str, ...]


PROFILES = {
    "short": Profile(1, 0.3, 0.1, tuple(sorted(REFERENCES | OURS | VARIANTS))),
    "standard": Profile(5, 2.0, 0.5, candidates.NAMES),
    "long": Profile(10, 5.0, 1.0, candidates.NAMES),
}


class Plan(NamedTuple):
    """What a run does."""

    profile: str
    rounds: int
    seconds: float
    warm_up: float
    candidates: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    output: Path

    def cost(self, scenario: Scenario) -> float:
        """Seconds that one measurement of it takes, about."""
        return self.warm_up + self.seconds * scenario.factor + scenario.extra + OVERHEAD

    def estimate(self, names: list[str]) -> float:
        """Seconds that all rounds with these candidates take, about."""
        total = 0.0
        for scenario in self.scenarios:
            rounds = 1 if scenario.once else self.rounds
            total += rounds * self.cost(scenario) * len([n for n in names if n in scenario.who])
        return total


def several(text: str, known: tuple[str, ...], what: str) -> tuple[str, ...]:
    """Names divided by commas, in the order of `known`; a trailing `*` stands for all that begin so."""
    chosen: set[str] = set()
    for word in (part.strip() for part in text.split(",")):
        found = [n for n in known if n == word or (word.endswith("*") and n.startswith(word[:-1]))]
        if not found:
            raise argparse.ArgumentTypeError(f"no {what} {word!r}; there are: {', '.join(known)}")
        chosen.update(found)
    return tuple(name for name in known if name in chosen)


def positive(text: str) -> float:
    """A number above nought."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number between 0 and 3600")
    return value


def add_to(parser: argparse.ArgumentParser) -> None:
    """The options of a run."""
    names = tuple(scenarios.BY_NAME)
    parser.add_argument("--profile", choices=PROFILES, default="standard")
    parser.add_argument("--rounds", type=lambda text: int(positive(text)), metavar="N")
    parser.add_argument("--seconds", type=positive, help="of each measurement")
    parser.add_argument(
        "--candidates",
        type=lambda text: several(text, candidates.NAMES, "candidate"),
        metavar="A,B",
        help="also with * at the end; --list shows them",
    )
    parser.add_argument(
        "--scenarios",
        type=lambda text: several(text, names, "scenario"),
        default=names,
        metavar="A,B",
        help="also with * at the end; --list shows them",
    )
    parser.add_argument("--output", type=Path, default=Path("bench-results"), metavar="FOLDER")
    parser.add_argument("--list", action="store_true", help="show candidates and scenarios")


def plan(options: argparse.Namespace) -> Plan:
    """What the options say, the profile where they say nothing."""
    profile = PROFILES[options.profile]
    return Plan(
        options.profile,
        options.rounds or profile.rounds,
        options.seconds or profile.seconds,
        profile.warm_up,
        options.candidates or profile.candidates,
        tuple(scenarios.BY_NAME[name] for name in options.scenarios),
        options.output,
    )
