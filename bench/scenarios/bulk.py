"""Throughput: what the receiving side has taken between two points, by streams, direction and size of writes."""

import json
import subprocess
from collections.abc import Callable
from functools import partial

from bench.candidates.base import Candidate
from bench.errors import BenchError
from bench.load import Generator, Load
from bench.path import inside
from bench.scenarios.scenario import (
    EVERYBODY,
    INTERCEPTS,
    OURS,
    PEERS,
    REFERENCES,
    VARIANTS,
    Measured,
    Scenario,
)
from bench.statistics import jain

KILOBYTE = 1024
WRITE = 256 * KILOBYTE
SECONDS_PER_STREAM = 0.02
"""How long opening one more stream may take."""

Measure = Callable[[Generator, Candidate, float], Measured]


def load(
    candidate: Candidate, streams: int, direction: str, write: int = WRITE, rate: float = 0
) -> Load:
    """The generator's bulk; `rate` in bit/s of each stream, 0: as fast as it goes."""
    arguments = (str(streams), direction, str(write), str(int(rate)))
    return Load("bulk", arguments, candidate.address)


def throughput(
    generator: Generator,
    candidate: Candidate,
    seconds: float,
    *,
    streams: int,
    direction: str,
    write: int = WRITE,
) -> Measured:
    """Bytes in all, how evenly they were shared, and the CPU time that they cost."""
    (counts,), watched = generator.run(
        candidate,
        [load(candidate, streams, direction, write)],
        seconds,
        set_up=streams * SECONDS_PER_STREAM,
    )
    shares = [up + down for up, down in zip(counts["up"], counts["down"], strict=True)]
    total = sum(shares)
    if total == 0:
        raise BenchError("not one byte arrived")
    figures = {"gbit_per_s": total * 8 / 1e9 / counts["seconds"]}
    if direction == "b":
        for way in ("up", "down"):
            figures[f"{way}_gbit_per_s"] = sum(counts[way]) * 8 / 1e9 / counts["seconds"]
    if streams > 1:
        figures["jain"] = jain(shares)
    if candidate.pids():
        figures["cpu_s_per_gb"] = sum(watched.cpu.values()) / (total / 1e9)
    return Measured(figures, watched)


def iperf(generator: Generator, candidate: Candidate, seconds: float) -> Measured:
    """One stream of iperf3, a second opinion on our own generator; whole seconds, at least one."""
    del generator
    assert candidate.iperf_address is not None
    host, port = candidate.iperf_address
    command = ["iperf3", "-c", host, "-p", str(port), "-t", str(max(1, round(seconds))), "-J"]
    try:
        done = subprocess.run(
            [*inside("a"), *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds + 30,
        )
        report = json.loads(done.stdout)
        rate = report["end"]["sum_received"]["bits_per_second"]
    except (subprocess.TimeoutExpired, FileNotFoundError, ValueError, KeyError) as error:
        raise BenchError(f"iperf3: {type(error).__name__}") from None
    return Measured({"iperf_gbit_per_s": rate / 1e9})


def bulk(
    name: str, title: str, who: frozenset[str], streams: int, direction: str, write: int = WRITE
) -> Scenario:
    """One row of the table below."""
    measure = partial(throughput, streams=streams, direction=direction, write=write)
    return Scenario(name, title, measure, who, extra=streams * SECONDS_PER_STREAM)


CLOSE = REFERENCES | OURS | INTERCEPTS

SCENARIOS = (
    bulk("bulk-1-up", "one stream, client to server", EVERYBODY, 1, "u"),
    bulk("bulk-1-down", "one stream, server to client", EVERYBODY, 1, "d"),
    bulk("bulk-1-both", "one stream, both ways at once", REFERENCES | OURS, 1, "b"),
    bulk("bulk-4-up", "four streams, client to server", EVERYBODY - VARIANTS, 4, "u"),
    bulk("bulk-8-up", "eight streams, client to server", EVERYBODY, 8, "u"),
    bulk("bulk-8-down", "eight streams, server to client", REFERENCES | OURS, 8, "d"),
    bulk("bulk-64-up", "64 streams, client to server", EVERYBODY - VARIANTS, 64, "u"),
    bulk("bulk-1-up-1k", "one stream, writes of 1 KiB", CLOSE, 1, "u", KILOBYTE),
    bulk("bulk-1-up-16k", "one stream, writes of 16 KiB", CLOSE, 1, "u", 16 * KILOBYTE),
    Scenario(
        "iperf3-1-up",
        "one stream of iperf3, client to server",
        iperf,
        CLOSE | PEERS,
        extra=1.0,
        suits=lambda candidate: candidate.iperf_address is not None,
    ),
)
