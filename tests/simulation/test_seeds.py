"""Whole plants under seeded faults; `make simulate` runs thousands. What is broken on purpose is found, each kind once."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from edge.enforcement import Enforcer
from overlay.aio.pump import Pump
from overlay.aio.recorder import Recorder
from overlay.audit.event import EventName
from overlay.circuit.circuit import Circuit
from overlay.circuit.receiving import ReceivingHalf
from overlay.circuit.sending import SendingHalf
from tests.simulation.run import Result, run

ROOT = Path(__file__).parents[2]
SEEDS = 24
AT_ONCE = 6


@pytest.mark.timeout(300)
@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
def test_whatever_goes_wrong_nothing_is_lost_repeated_left_open_or_stuck(first: int):
    results = [run(seed) for seed in range(first, first + AT_ONCE)]
    wrong = [result for result in results if result.kind]
    assert not wrong, "\n".join([*wrong[0].trace, str(wrong[0])])
    assert sum(result.well for result in results) > AT_ONCE, "people got their work done"
    assert all(any("! fault" in line for line in result.trace) for result in results)


def found(seeds: range, kind: str) -> Result:
    """Some seed finds it: as this kind, with a trace whose last word it is."""
    for seed in seeds:
        result = run(seed)
        if result.kind:
            assert result.kind == kind, str(result)
            told = [line for line in result.trace if "✗" in line]
            assert len(told) == 1
            assert kind in told[0]
            assert any("dials" in line for line in result.trace)
            return result
    pytest.fail(f"{len(seeds)} seeds did not find it")


@pytest.mark.timeout(300)
def test_bytes_that_are_swallowed_are_found(monkeypatch: pytest.MonkeyPatch):
    real, calls = Pump.data, [0]

    def data(self: Pump, data: Any) -> None:
        calls[0] += 1
        if calls[0] % 25:
            real(self, data)
        else:
            self._stream.consumed(len(data))

    monkeypatch.setattr(Pump, "data", data)
    found(range(10), "exactly once")


@pytest.mark.timeout(300)
def test_circuits_that_nobody_cuts_are_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Enforcer, "review", lambda _: None)
    result = found(range(40), "nothing open")
    assert "open:" in result.wrong


@pytest.mark.timeout(300)
def test_bytes_of_a_circuit_that_was_cut_are_found(monkeypatch: pytest.MonkeyPatch):
    real = Circuit.receive_data

    def receive_data(self: Circuit, *arguments: Any) -> Any:
        over, self.over = self.over, None
        try:
            return real(self, *arguments)
        finally:
            self.over = over or self.over

    monkeypatch.setattr(Circuit, "receive_data", receive_data)
    found(range(60), "no delivery without a grant")


@pytest.mark.timeout(300)
def test_a_window_that_is_not_kept_is_found(monkeypatch: pytest.MonkeyPatch):
    real = ReceivingHalf.credit

    def credit(self: ReceivingHalf) -> tuple[int, int]:
        ack, _ = real(self)
        self._told_limit = max(self._told_limit, self._consumed + self._window.size + (1 << 20))
        return ack, self._told_limit

    monkeypatch.setattr(ReceivingHalf, "credit", credit)
    found(range(15, 60), "bounded")


@pytest.mark.timeout(300)
def test_events_that_are_not_recorded_are_found(monkeypatch: pytest.MonkeyPatch):
    real, calls = Recorder.record, [0]

    def record(self: Recorder, event: EventName, outcome: Any, **fields: Any) -> None:
        calls[0] += event is EventName.CIRCUIT_OPEN
        if event is not EventName.CIRCUIT_OPEN or calls[0] % 4:
            real(self, event, outcome, **fields)

    monkeypatch.setattr(Recorder, "record", record)
    found(range(5, 25), "audit")


@pytest.mark.timeout(300)
def test_a_circuit_that_waits_for_ever_is_found(monkeypatch: pytest.MonkeyPatch):
    real = SendingHalf.acknowledge

    def acknowledge(self: SendingHalf, ack: int, limit: int, now: float | None = None) -> bool:
        return real(self, ack, max(self.limit, min(limit, 300_000)), now)  # credit ends here

    monkeypatch.setattr(SendingHalf, "acknowledge", acknowledge)
    found(range(40), "progress")


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
