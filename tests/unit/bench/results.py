"""Results that nobody measured, for tests of what is made of them."""

import random
from typing import Any

import msgspec

from bench.machine import Machine, Version
from bench.results import FORMAT, Measurement, Result

MACHINE = Machine(
    "m1", "Atom", 4, 8, "6.1", "Debian", "3.11", "performance", virtual=False, aes=True
)


def made(rounds: int = 5, **changes: Any) -> Result:
    """A result without measurements."""
    fields: dict[str, Any] = {
        "format": FORMAT,
        "started": "2026-01-01T00:00:00Z",
        "profile": "standard",
        "seconds": 2.0,
        "rounds": rounds,
        "machine": MACHINE,
        "version": Version("abc", changed=False),
        "versions": {"kernel": "6.1", "relay": "2.6", "ferrule": "0.1"},
        "what": {"kernel": "direct", "relay": "a chain", "ferrule": "three <programs>"},
        "left_out": {"frp": "frps, frpc not installed"},
        "failed": {},
        "measurements": [],
        "load_before": (0.0, 0.0, 0.0),
        "complete": True,
    }
    return Result(**(fields | changes))


def add(result: Result, scenario: str, candidate: str, *values: float, **more: Any) -> None:
    """Add one figure, round by round: its name is the only key of `more` that is True, else `gbit_per_s`."""
    figure = more.pop("figure", "gbit_per_s")
    for number, value in enumerate(values, 1):
        for one in result.measurements:
            if (one.round, one.scenario, one.candidate) == (number, scenario, candidate):
                one.figures[figure] = value
                break
        else:
            result.measurements.append(
                Measurement(number, scenario, candidate, {figure: value}, seconds=2.0, **more)
            )


def noise(seed: int, factor: float = 1.0, rounds: int = 6) -> Result:
    """A whole run whose figures waver by 5 %; `factor` scales what Ferrule reaches."""
    dice = random.Random(seed)
    result = made(rounds)

    def draw(middle: float) -> list[float]:
        return [middle * dice.gauss(1, 0.05) for _ in range(rounds)]

    for scenario in ("bulk-1-up", "bulk-1-down", "bulk-8-up"):
        add(result, scenario, "relay", *draw(7))
        add(result, scenario, "ferrule", *draw(7 * factor))
    add(result, "poll", "relay", *draw(120), figure="p50_us")
    add(result, "poll", "ferrule", *draw(200), figure="p50_us")
    return result


def other_machine(result: Result) -> Result:
    """The same, measured elsewhere."""
    return msgspec.structs.replace(
        result, machine=msgspec.structs.replace(MACHINE, identity="m2", cpu="Xeon")
    )
