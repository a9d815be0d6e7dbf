"""Latency of polls the size of a Modbus read request: 12 bytes there and back."""

from functools import partial
from typing import Any

from bench.candidates.base import Candidate
from bench.load import Generator, Load, Watched
from bench.scenarios.bulk import CLOSE, SECONDS_PER_STREAM, load
from bench.scenarios.scenario import EVERYBODY, OURS, REFERENCES, VARIANTS, Measured, Scenario

VIDEO = 200e6
"""Bit/s of the stream that stands for a video camera or a backup with a limit."""
VIDEO_WRITE = 16 * 1024
BULK_STREAMS = 4
MANY = 64

# A percentile needs so many polls before it says anything.
PERCENTILES = (
    ("50", "p50_us", 1),
    ("90", "p90_us", 20),
    ("99", "p99_us", 100),
    ("99.9", "p99_9_us", 1000),
)


def latencies(times: dict[str, Any]) -> dict[str, float]:
    """The figures of one run of polls or connections; a percentile that the count does not carry is left out."""
    figures = {
        name: times["ranks"][rank] for rank, name, least in PERCENTILES if times["count"] >= least
    }
    figures["max_us"] = times["ranks"]["100"]
    figures["jitter_us"] = times["jitter_us"]
    if "late_p99_us" in times:
        figures["late_p99_us"] = times["late_p99_us"]
    return figures


def poll(
    generator: Generator,
    candidate: Candidate,
    seconds: float,
    *,
    rate: float = 0,
    connections: int = 1,
    beside: str = "",
) -> Measured:
    """Polls at a rate on each connection (0: one after the other), alone, or beside `bulk` or `video`."""
    loads = [Load("poll", (str(connections), f"{rate:g}"), candidate.address)]
    streams = 0
    if beside == "bulk":
        streams = BULK_STREAMS
        loads.append(load(candidate, BULK_STREAMS, "u"))
    elif beside == "video":
        streams = 1
        loads.append(load(candidate, 1, "u", VIDEO_WRITE, VIDEO))
    results, watched = generator.run(
        candidate, loads, seconds, set_up=(streams + connections) * SECONDS_PER_STREAM
    )
    times = results[0]
    figures = latencies(times) | {"polls_per_s": times["count"] / times["seconds"]}
    if beside:
        rate_beside = sum(results[1]["up"]) * 8 / results[1]["seconds"]
        if beside == "bulk":
            figures["bulk_gbit_per_s"] = rate_beside / 1e9
        else:
            figures["stream_mbit_per_s"] = rate_beside / 1e6
    return Measured(figures, watched, times["ranks"])


def busiest(watched: Watched, seconds: float) -> float:
    """CPU of the program that used most, in percent of a core."""
    return max(watched.cpu.values()) / seconds * 100


def paced(rate: int) -> Scenario:
    """Polls at a fixed rate."""
    return Scenario(
        f"poll-{rate}",
        f"{rate:,} polls a second, nothing else",
        partial(poll, rate=rate),
        REFERENCES | OURS,
    )


SCENARIOS = (
    Scenario("poll", "polls one after the other, nothing else", partial(poll), EVERYBODY),
    paced(10),
    paced(100),
    paced(1000),
    Scenario(
        "poll-bulk",
        "polls one after the other, next to four unlimited streams",
        partial(poll, beside="bulk"),
        EVERYBODY - VARIANTS,
        factor=3,  # with busy cores a poll takes long, and p99 needs a hundred of them
        extra=BULK_STREAMS * SECONDS_PER_STREAM,
    ),
    Scenario(
        "poll-video",
        "polls one after the other, next to one stream of 200 Mbit/s",
        partial(poll, beside="video"),
        EVERYBODY - VARIANTS,
    ),
    Scenario(
        "poll-64",
        "64 connections that poll one after the other, nothing else",
        partial(poll, connections=MANY),
        CLOSE,
        extra=MANY * SECONDS_PER_STREAM,
    ),
    Scenario(
        "poll-64-video",
        "64 connections that poll one after the other, next to one stream of 200 Mbit/s",
        partial(poll, connections=MANY, beside="video"),
        CLOSE,
        extra=MANY * SECONDS_PER_STREAM,
    ),
)
