"""What circuits cost that are merely open: resident memory, and CPU time while nothing happens."""

import select
import subprocess
import time

from bench import processes
from bench.candidates.base import Candidate
from bench.errors import BenchError
from bench.load import Generator, Load
from bench.scenarios.bulk import SECONDS_PER_STREAM, load
from bench.scenarios.scenario import EVERYBODY, INTERCEPTS, VARIANTS, Measured, Scenario

CIRCUITS = 1000
BUSY = 64
SECONDS_TO_OPEN = 120
SETTLE = 5.0
"""Until the events of 1,000 openings are recorded and the memory of their handshakes is free."""
IDLE = 15.0
"""Three times the longest period of what a node does by itself: shorter looks see more or less of it by chance."""
PART = 1.5
"""Of the seconds of a measurement, ten times the run's, where they are few: both are whole where a run measures for a
second or longer, while the short profile asks only whether it runs."""
EDGE, ROUTER = "a", "r"


def programs(candidate: Candidate) -> dict[str, set[int]]:
    """Each program's processes, children included."""
    everything = processes.all_processes()
    return {name: processes.tree(everything, [pid]) for name, pid in candidate.pids().items()}


def resident(candidate: Candidate) -> dict[str, int]:
    """Resident bytes of each program."""
    return {name: processes.resident(pids) for name, pids in programs(candidate).items()}


def idle_cpu(candidate: Candidate, seconds: float) -> float:
    """CPU of all its programs together, in percent of a core."""
    pids = set().union(*programs(candidate).values())
    before, begun = processes.running_time(pids), time.monotonic()
    time.sleep(seconds)
    return (processes.running_time(pids) - before) / (time.monotonic() - begun) * 100


def open_circuits(generator: Generator, candidate: Candidate, seconds: float) -> Measured:
    """1,000 connections with one poll each, then nothing; then 64 busy streams besides."""
    before = resident(candidate)
    command = generator.command(Load("hold", (str(CIRCUITS),), candidate.address), 0, 0)
    holder = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    try:
        ready, _, _ = select.select([holder.stdout], [], [], SECONDS_TO_OPEN)
        if not ready or not holder.stdout.readline():
            holder.kill()
            words = holder.stderr.read().decode(errors="replace").strip()
            raise BenchError(
                words or f"{CIRCUITS} connections: not open within {SECONDS_TO_OPEN} s"
            )
        time.sleep(min(SETTLE, PART * seconds))
        idle = resident(candidate)
        figures = {"idle_cpu_percent": idle_cpu(candidate, max(seconds, min(IDLE, PART * seconds)))}
        _, watched = generator.run(
            candidate, [load(candidate, BUSY, "u")], 1.0, set_up=BUSY * SECONDS_PER_STREAM
        )
    finally:
        holder.kill()
        holder.communicate()
    for title, name in (("edge", EDGE), ("router", ROUTER)):
        if name in before:
            figures[f"{title}_mb"] = idle[name] / 1e6
            figures[f"{title}_kb_idle"] = (idle[name] - before[name]) / CIRCUITS / 1e3
            figures[f"{title}_kb_busy"] = (watched.memory[name] - idle[name]) / BUSY / 1e3
    return Measured(figures, watched)


SCENARIOS = (
    Scenario(
        "circuits-1000",
        "1,000 open circuits, of which nobody uses any; then 64 busy ones besides",
        open_circuits,
        EVERYBODY - VARIANTS - INTERCEPTS,
        factor=10.0,
        extra=6.0,
        once=True,
        suits=lambda candidate: bool(candidate.pids()),
    ),
)
