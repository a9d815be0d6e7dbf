"""The result of one run: what is written as JSON, read again by `compare`, and shown by the reports."""

from pathlib import Path

import msgspec

from bench.errors import BenchError
from bench.machine import Machine, Version
from bench.statistics import Spread, ratios

FORMAT = 1


class Measurement(msgspec.Struct):
    """One scenario, one candidate, one round. `cpu` by program: seconds between the two points.

    `others`, `background`, `steal`: cores that strangers, idle candidates with the benchmark itself, and the machine
    below used meanwhile. `noisy` says that it was too much.
    """

    round: int
    scenario: str
    candidate: str
    figures: dict[str, float]
    tries: int = 1
    seconds: float = 0.0
    cpu: dict[str, float] = {}
    generator: float = 0.0
    others: float = 0.0
    background: float = 0.0
    steal: float = 0.0
    noisy: bool = False
    ranks: dict[str, float] = {}
    """Percentile and microseconds, where there are latencies."""
    samples: list[float] = []
    """Of faults: milliseconds each, those of all rounds in the first one's measurement."""


class Result(msgspec.Struct):
    """All of a run. `left_out` and `failed`: candidate (or candidate and scenario) and the reason, in words."""

    format: int
    started: str
    profile: str
    seconds: float
    rounds: int
    machine: Machine
    version: Version
    versions: dict[str, str]
    what: dict[str, str]
    left_out: dict[str, str]
    failed: dict[str, str]
    measurements: list[Measurement]
    load_before: tuple[float, float, float]
    load_after: tuple[float, float, float] = (0.0, 0.0, 0.0)
    took: float = 0.0
    complete: bool = False

    def values(self, scenario: str, candidate: str, figure: str) -> dict[int, float]:
        """What was measured, by round; nothing where it was not."""
        return {
            one.round: one.figures[figure]
            for one in self.measurements
            if one.scenario == scenario and one.candidate == candidate and figure in one.figures
        }

    def samples(self, scenario: str, candidate: str) -> list[float]:
        """Of faults: all of them, milliseconds each."""
        return [
            sample
            for one in self.measurements
            if one.scenario == scenario and one.candidate == candidate
            for sample in one.samples
        ]

    def spread(self, scenario: str, candidate: str, figure: str) -> Spread | None:
        """Median and range over the rounds, None: not measured."""
        values = self.values(scenario, candidate, figure)
        return Spread.of(values.values()) if values else None

    def ratio(self, over: tuple[str, str, str], under: tuple[str, str, str]) -> Spread | None:
        """Median and range of the ratios of the same rounds; each side is (scenario, candidate, figure)."""
        found = ratios(self.values(*over), self.values(*under))
        return Spread.of(found) if found else None

    def candidates(self) -> list[str]:
        """Those that were measured, in the order of the report."""
        return [name for name in self.versions if name not in self.left_out]

    def scenarios(self) -> list[str]:
        """Those that were measured, in the order in which they were."""
        return list(dict.fromkeys(one.scenario for one in self.measurements))

    def noisy_rounds(self) -> list[int]:
        """Rounds in which the machine was not ours alone."""
        return sorted({one.round for one in self.measurements if one.noisy})


def write(result: Result, path: Path) -> None:
    """As indented JSON."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")


def read(path: Path) -> Result:
    """A file that `write` wrote.

    Raises:
        BenchError: it is not there, or something else.
    """
    try:
        result = msgspec.json.decode(path.read_bytes(), type=Result)
    except OSError as error:
        raise BenchError(f"{path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} is no result of `make bench`: {error}") from None
    if result.format != FORMAT:
        raise BenchError(
            f"{path} has format {result.format}, this build reads {FORMAT}: run the benchmark again"
        )
    return result
