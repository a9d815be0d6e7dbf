"""One seed, one run: a simulation gives the same frames at the same times in every process (ADR 0002)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_a_seed_gives_the_same_trace_whatever_order_sets_have():
    check(["tests.support.traced", "3"])


@pytest.mark.timeout(300)
def test_a_plant_under_faults_goes_the_same_way_again():
    """Seed 8 is a mesh of four routers that dial each other, and was told in two ways."""
    check(["tests.simulation", "--seed", "8", "--brief"], least=70)


def check(words: list[str], *, least: int = 1000) -> None:
    """What the module prints is the same in two processes, and has at least so many lines."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", *words],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    one, other = (process.communicate()[0].splitlines() for process in running)
    assert [process.returncode for process in running] == [0, 0]
    assert len(one) > least, "the story was told"
    differing = [at for at, lines in enumerate(zip(one, other, strict=False)) if len({*lines}) > 1]
    assert one == other, f"the first difference is in line {differing[:1]}"
