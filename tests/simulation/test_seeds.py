"""Whole plants under seeded faults; `make simulate` runs thousands. What is broken on purpose is found."""

import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.simulation.many import Tally
from tests.simulation.planted import BUGS
from tests.simulation.run import Result, run
from tests.simulation.striking import Aim

ROOT = Path(__file__).parents[2]
SEEDS = 200
AT_ONCE = 20
MOST = 12
"""Seeds of which one has to find a planted bug: the first five find each."""
RESTORES = Aim(("backup", "backup", "kill", "withdraw", "crash"), every=200)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_whatever_goes_wrong_nothing_is_lost_repeated_left_open_or_stuck(first: int):
    results = [run(seed, brief=True) for seed in range(first, first + AT_ONCE)]
    wrong = [result for result in results if result.kind]
    assert not wrong, "\n".join([*wrong[0].trace, str(wrong[0])])
    assert sum(result.well for result in results) > AT_ONCE, "people got their work done"
    crossed = sum((result.crossed for result in results), Counter())
    assert all(crossed[routers] for routers in (1, 2, 3)), "by one router, two and three"
    struck = sum(any("! fault" in line for line in result.trace) for result in results)
    assert struck > AT_ONCE // 2, "and not because nothing went wrong"


@pytest.mark.timeout(300)
def test_a_controller_that_is_restored_keeps_what_was_promised():
    """Its log is shorter, which each node that saw more says; nothing else is lost, and all goes on."""
    results = [run(seed, RESTORES, brief=True) for seed in range(AT_ONCE // 2)]
    wrong = [result for result in results if result.kind]
    assert not wrong, "\n".join([*wrong[0].trace, str(wrong[0])])
    told = [line for result in results for line in result.trace]
    assert sum("people restore the controller" in line for line in told) > AT_ONCE // 2
    assert any("security.fork" in line for line in told)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(monkeypatch: pytest.MonkeyPatch, name: str):
    bug = BUGS[name]
    bug.plant(monkeypatch)
    result = next(
        filter(lambda one: one.kind, (run(seed, bug.aim, brief=True) for seed in range(MOST))), None
    )
    assert result is not None, f"{MOST} seeds did not find it"
    assert result.kind == bug.kind, str(result)
    assert any(word in result.wrong for word in bug.words), str(result)
    told = [line for line in result.trace if "✗" in line]
    assert len(told) == 1
    assert bug.kind in told[0]
    assert any("dials" in line or "sends" in line for line in result.trace)


@pytest.mark.timeout(300)
def test_a_seed_replays_exactly_in_every_process():
    command = [sys.executable, "-m", "tests.simulation", "--seed", "5"]
    running = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    one, other = (process.communicate()[0].splitlines() for process in running)
    assert len(one) > 50, "the story was told"
    assert one == other


def _simulate(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.simulation", "--brief", "--jobs", "1", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.mark.timeout(300)
def test_many_seeds_are_counted_and_an_interruption_tells_what_ran():
    few = _simulate("--seeds", "2", "--first", "7")
    told = few.communicate()[0]
    assert "2 of 2 seeds ran, 0 failed" in told
    assert few.returncode == 0

    endless = _simulate("--seeds", "1000000")
    assert endless.stdout is not None
    assert " of 1000000 seeds, 0 failed" in endless.stdout.readline()
    os.killpg(endless.pid, signal.SIGINT)  # as Ctrl-C does
    told = endless.communicate()[0]
    assert "interrupted" in told
    assert " of 1000000 seeds ran, 0 failed" in told
    assert endless.returncode == 130


def test_a_seed_that_fails_is_named_and_counted(capsys: pytest.CaptureFixture[str]):
    tally = Tally(5)
    tally.add(Result(8, "progress", "stuck"))
    tally.add(Result(7, "progress", "stuck"))
    tally.add(Result(9))
    assert "seed 8: progress: stuck" in capsys.readouterr().out
    told = tally.summary()
    assert "3 of 5 seeds ran, 2 failed" in told
    assert "2 × progress" in told
    assert "failed: 7 8" in told
    assert "make simulate SEED=7" in told
