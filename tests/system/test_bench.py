"""`make bench` runs: its short profile measures everything, and a run that is stopped leaves nothing. Judges no time."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from bench.path import left_behind
from bench.results import read
from bench.scenarios.registry import SCENARIOS
from deploy.demo.plant import until
from tests.support.needs import need_program, need_root

ROOT = Path(__file__).parents[2]
BENCH = [sys.executable, "-m", "bench", "--profile", "short"]


@pytest.fixture(autouse=True)
def _needs() -> None:
    need_root()
    need_program("ip", "iproute2")
    need_program("haproxy", "haproxy")
    need_program("iperf3", "iperf3")
    need_program("cc", "gcc libc6-dev")


def bench_processes() -> list[str]:
    """What still runs of a benchmark, by command line: programs, loads and servers all name its folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (
                    (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
            except OSError:
                continue
            if "/ferrule-bench-" in words:
                found.append(words)
    return found


def nothing_is_left() -> None:
    """No namespace, and soon no process: what was killed is gone a moment later."""
    assert left_behind() == []
    until(lambda: not bench_processes(), 5, "the last of its processes to be gone")


@pytest.mark.timeout(600)
def test_the_short_profile_measures_every_scenario(tmp_path: Path):
    done = subprocess.run(
        [*BENCH, "--candidates", "relay,ferrule", "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=580,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = read(tmp_path / "result.json")
    assert result.complete
    assert result.failed == {}
    assert result.left_out == {}
    measured = {(one.scenario, one.candidate): one.figures for one in result.measurements}
    for scenario in SCENARIOS:
        if "ferrule" in scenario.who:
            assert measured[scenario.name, "ferrule"], scenario.name
    for figures in measured.values():
        assert all(math.isfinite(value) for value in figures.values())
    assert {candidate for _, candidate in measured} == set(result.versions)
    for name in ("report.html", "summary.txt"):
        assert "Figures to reach" in (tmp_path / name).read_text()
    nothing_is_left()


@pytest.mark.timeout(400)
def test_a_fault_of_each_kind_in_each_position_is_measured_and_mended(tmp_path: Path):
    """Each row begins with every link there again after the fault of the one before."""
    rows = {
        f"failover-{name}" for name in ("killed-middle", "frozen-host", "cut-caller", "idle-cut")
    }
    chosen = ["--candidates", "ferrule ranks", "--scenarios", ",".join(rows), "--faults", "1"]
    done = subprocess.run(
        [*BENCH, *chosen, "--output", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=380,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = read(tmp_path / "result.json")
    assert result.failed == {}
    assert result.left_out == {}
    assert {one.scenario: one.figures["faults"] for one in result.measurements} == dict.fromkeys(
        rows, 1
    )
    nothing_is_left()


@pytest.mark.timeout(150)
def test_a_stopped_run_leaves_nothing(tmp_path: Path):
    chosen = ["--candidates", "relay,ferrule", "--scenarios", "bulk-4-up", "--rounds", "1000"]
    with open(tmp_path / "said", "wb") as said:
        run = subprocess.Popen(
            [*BENCH, *chosen, "--output", str(tmp_path)], cwd=ROOT, stdout=said, stderr=said
        )
    try:
        until(lambda: "round 2/" in (tmp_path / "said").read_text(), 90, "the second round")
        assert len(left_behind()) >= 3
        run.terminate()  # as Ctrl-C; but a process in the background may ignore that
        assert run.wait(40) == 130
    finally:
        run.kill()
        run.wait()
    nothing_is_left()
    assert not read(tmp_path / "result.json").complete
