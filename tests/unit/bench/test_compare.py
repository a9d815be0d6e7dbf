"""Which differences of two runs are noise."""

import random
from pathlib import Path

import msgspec
import pytest

from bench.__main__ import main
from bench.compare import differences, different_machines, explain
from bench.errors import BenchError
from bench.results import Measurement, Result, read, write
from bench.scenarios.failover import measured
from tests.unit.bench.results import add, made, noise, other_machine


def test_a_run_and_the_same_again_are_noise():
    found = differences(noise(1), noise(1), as_ratios=False)
    assert len(found) == 8
    assert all(one.is_noise for one in found)
    assert "0 differ beyond noise" in "\n".join(explain(noise(1), noise(1), as_ratios=False))


def test_noise_is_called_a_change_no_more_often_than_said():
    found = [
        one
        for seed in range(0, 200, 2)
        for one in differences(noise(seed), noise(seed + 1), as_ratios=False)
    ]
    assert len(found) == 800
    assert sum(not one.is_noise for one in found) / len(found) < 0.065  # 0.041 is meant


def test_a_shifted_run_is_found_and_named():
    found = differences(noise(1), noise(2, factor=0.7), as_ratios=False)
    worse = {(one.scenario, one.candidate) for one in found if one.verdict == "WORSE"}
    assert worse == {
        (scenario, "ferrule") for scenario in ("bulk-1-up", "bulk-1-down", "bulk-8-up")
    }
    assert "BETTER" not in {one.verdict for one in found}


def test_less_is_better_for_times():
    before, after = made(), made()
    add(before, "poll", "ferrule", 300, 301, 302, 303, 304, figure="p50_us")
    add(after, "poll", "ferrule", 200, 201, 202, 203, 204, figure="p50_us")
    (one,) = differences(before, after, as_ratios=False)
    assert one.verdict == "BETTER"
    assert one.change == pytest.approx(-1 / 3, abs=0.01)


def test_a_sure_but_tiny_change_is_nobodys_concern():
    before, after = made(), made()
    add(before, "bulk-1-up", "relay", 7.000, 7.001, 7.002, 7.003, 7.004)
    add(after, "bulk-1-up", "relay", 7.010, 7.011, 7.012, 7.013, 7.014)
    (one,) = differences(before, after, as_ratios=False)
    assert one.p < 0.05
    assert one.is_noise


def test_too_few_rounds_are_said_and_not_judged():
    before, after = noise(1, rounds=3), noise(2, factor=0.1, rounds=3)
    text = "\n".join(explain(before, after, as_ratios=False))
    assert "0 differ beyond noise" in text
    assert "8 of the figures have too few rounds" in text


def stalled(milliseconds: float) -> Result:
    """A run of twenty faults, which are one measurement."""
    result = made()
    dice = random.Random(milliseconds)
    samples = [milliseconds * dice.gauss(1, 0.05) for _ in range(20)]
    found = measured(samples)
    result.measurements.append(
        Measurement(1, "failover-cut-host", "ferrule ranks", found.figures, samples=samples)
    )
    result.versions["ferrule ranks"] = "0.1"
    return result


def test_faults_are_judged_by_all_their_stalls():
    found = differences(stalled(100), stalled(130), as_ratios=False)
    assert {one.figure for one in found} == {"stall_p50_ms", "stall_p99_ms", "stall_max_ms"}
    assert {one.verdict for one in found} == {"WORSE"}
    assert "too few" not in "\n".join(explain(stalled(100), stalled(130), as_ratios=False))
    found = differences(stalled(100), stalled(100), as_ratios=False)
    assert all(one.is_noise for one in found)


def test_what_is_measured_once_in_a_run_is_not_said_to_want_more_rounds():
    before, after = made(), made()
    add(before, "circuits-1000", "ferrule", 80, figure="edge_mb")
    add(after, "circuits-1000", "ferrule", 90, figure="edge_mb")
    text = "\n".join(explain(before, after, as_ratios=False))
    assert "1 of the figures are measured once in a run" in text
    assert "--rounds" not in text


def test_a_run_that_was_stopped_and_what_it_lacks_are_said():
    whole = noise(1)
    stopped = msgspec.structs.replace(noise(2), complete=False)
    stopped.measurements = [one for one in stopped.measurements if one.scenario != "poll"]
    text = "\n".join(explain(whole, stopped, as_ratios=False))
    assert "The second run was stopped before its end." in text
    assert "Not measured in the second run: poll of ferrule, poll of relay." in text
    assert "first run" not in text


def test_a_drift_of_the_whole_machine_cancels_in_ratios():
    before, after = made(), made()
    for result, speed in ((before, 1.0), (after, 0.5)):
        add(result, "bulk-1-up", "relay", *(speed * v for v in (7.0, 7.1, 7.2, 7.3, 7.4)))
        add(result, "bulk-1-up", "ferrule", *(speed * v for v in (5.0, 5.1, 5.2, 5.3, 5.4)))
    assert not any(one.is_noise for one in differences(before, after, as_ratios=False))
    (one,) = differences(before, after, as_ratios=True)
    assert one.is_noise


def test_what_chance_gives_is_said():
    text = "\n".join(explain(noise(1), noise(2), as_ratios=False))
    assert "Of 8 comparisons, chance alone makes about 0.4 look real" in text


def test_what_else_changed_is_said():
    after = msgspec.structs.replace(
        noise(2), versions={"kernel": "6.1", "relay": "3.0", "ferrule": "0.1"}
    )
    text = "\n".join(explain(noise(1), after, as_ratios=False))
    assert "relay: 2.6, then 3.0" in text


def test_noisy_rounds_are_said():
    after = noise(2)
    after.measurements[0].noisy = True
    assert "not quiet in the second run (rounds 1)" in "\n".join(
        explain(noise(1), after, as_ratios=False)
    )


def test_other_machines_are_told_apart():
    assert different_machines(noise(1), noise(2)) == []
    assert different_machines(noise(1), other_machine(noise(2))) == [
        "processor: Atom and Xeon",
        "machine: m1 and m2",
    ]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["bench", "compare", *arguments])
    return main()


def test_other_machines_are_refused_until_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    one, other = str(tmp_path / "a.json"), str(tmp_path / "b.json")
    write(noise(1), Path(one))
    write(other_machine(noise(2)), Path(other))
    assert run(monkeypatch, one, other) == 1
    assert "different machines" in capsys.readouterr().err
    assert run(monkeypatch, one, other, "--across-machines") == 0
    said = capsys.readouterr().out
    assert "DIFFERENT MACHINES" in said
    assert "ratios to the relay chain" in said


def test_a_result_survives_its_file(tmp_path: Path):
    write(noise(1), tmp_path / "a.json")
    assert read(tmp_path / "a.json") == noise(1)


@pytest.mark.parametrize("text", ["", "[]", "{}", "\udcff", '{"format": 1}'])
def test_another_file_is_refused_in_words(tmp_path: Path, text: str):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(BenchError, match="is no result of"):
        read(path)


def test_a_missing_file_is_refused_in_words(tmp_path: Path):
    with pytest.raises(BenchError, match="No such file"):
        read(tmp_path / "a.json")


def test_another_format_is_refused_in_words(tmp_path: Path):
    write(made(format=99), tmp_path / "a.json")
    with pytest.raises(BenchError, match="format 99"):
        read(tmp_path / "a.json")


def test_a_folder_that_cannot_be_made_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").touch()
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/sbin/ip")
    monkeypatch.setattr("sys.argv", ["bench", "--output", str(tmp_path / "file")])
    assert main() == 1
    assert "no folder for the reports: File exists" in capsys.readouterr().err
