"""Profiles and options: what a run measures, how often, for how long."""

import argparse
from pathlib import Path
from typing import NamedTuple

from bench.candidates import registry as candidates
from bench.scenarios import registry as scenarios
from bench.scenarios.scenario import OURS, VARIANTS, YARDSTICKS, Scenario

OVERHEAD = 0.35
"""Seconds that one measurement takes besides its own time: processes that start and are counted."""


class Profile(NamedTuple):
    """What an option that is not given falls back to."""

    rounds: int
    seconds: float
    warm_up: float
    faults: int
    candidates: tuple[str, ...]


PROFILES = {
    "short": Profile(1, 0.3, 0.1, 1, tuple(sorted(YARDSTICKS | OURS | VARIANTS))),
    "standard": Profile(5, 2.0, 0.5, 20, candidates.NAMES),
    "long": Profile(10, 5.0, 1.0, 50, candidates.NAMES),
}


class Plan(NamedTuple):
    """What a run does."""

    profile: str
    rounds: int
    seconds: float
    warm_up: float
    faults: int
    candidates: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    output: Path

    def amount(self, scenario: Scenario, number: int) -> float:
        """What a scenario measures in a round, counted from 1: seconds, or faults; 0: nothing."""
        if scenario.pooled is not None:
            return self.faults * number // self.rounds - self.faults * (number - 1) // self.rounds
        return 0.0 if scenario.once and number > 1 else self.seconds * scenario.factor

    def cost(self, scenario: Scenario, number: int) -> float:
        """Seconds that its measurement in a round takes, about."""
        amount = self.amount(scenario, number)
        if not amount:
            return 0.0
        if scenario.pooled is not None:
            return amount * scenario.factor + scenario.extra
        return self.warm_up + amount + scenario.extra + OVERHEAD

    def estimate(self, names: list[str]) -> float:
        """Seconds that all rounds with these candidates take, about."""
        total = 0.0
        for scenario in self.scenarios:
            once = sum(self.cost(scenario, number) for number in range(1, self.rounds + 1))
            total += once * len([n for n in names if n in scenario.who])
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


def count(text: str) -> int:
    """A whole number above nought."""
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number between 1 and 3599")
    return int(positive(text))


def add_to(parser: argparse.ArgumentParser) -> None:
    """The options of a run."""
    names = tuple(scenarios.BY_NAME)
    parser.add_argument(
        "--profile",
        choices=PROFILES,
        default="standard",
        help="rounds, seconds, faults and candidates together: does it run at all (short), an hour (standard, "
        "default), small differences (long)",
    )
    parser.add_argument("--rounds", type=count, metavar="N", help="1, 5 or 10 by profile")
    parser.add_argument(
        "--seconds", type=positive, metavar="S", help="of each measurement: 0.3, 2 or 5 by profile"
    )
    parser.add_argument(
        "--faults",
        type=count,
        metavar="N",
        help="in each place, divided among the rounds: 1, 20 or 50 by profile",
    )
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
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("bench-results"),
        metavar="FOLDER",
        help="of the reports (bench-results)",
    )
    parser.add_argument("--list", action="store_true", help="show candidates and scenarios")


def plan(options: argparse.Namespace) -> Plan:
    """What the options say, the profile where they say nothing."""
    profile = PROFILES[options.profile]
    return Plan(
        options.profile,
        options.rounds or profile.rounds,
        options.seconds or profile.seconds,
        profile.warm_up,
        options.faults or profile.faults,
        options.candidates or profile.candidates,
        tuple(scenarios.BY_NAME[name] for name in options.scenarios),
        options.output,
    )
