"""Pure: what this machine can carry, in words, with the formula."""

from typing import NamedTuple

from bench.results import Result

MARGIN = 0.5
"""The share of what was measured that is promised: half stays free for peaks, alarms and everything else."""
PLCS_PER_HMI = 20
POLLS_PER_PLC = 10
"""A second: one every 100 ms."""
VIDEO_MBIT = 200.0
KEPT = 0.95
"""The video stream counts as carried when so much of its rate arrived."""


class Statement(NamedTuple):
    """One sentence, and how it was computed."""

    text: str
    formula: str


def hmis(polls_per_s: float) -> int:
    """HMIs that each poll so many PLCs so often, of a number of polls a second, margin taken off."""
    return int(MARGIN * polls_per_s / (PLCS_PER_HMI * POLLS_PER_PLC))


def median(result: Result, scenario: str, figure: str) -> float | None:
    """Of our own default set-up."""
    spread = result.spread(scenario, "ferrule", figure)
    return spread.median if spread else None


def edge_cores(result: Result, scenario: str) -> float | None:
    """Cores that edge-a used, median of the rounds."""
    shares = sorted(
        one.cpu["a"] / one.seconds
        for one in result.measurements
        if one.scenario == scenario
        and one.candidate == "ferrule"
        and "a" in one.cpu
        and one.seconds
    )
    return shares[len(shares) // 2] if shares else None


def whole_chain(result: Result) -> Statement | None:
    """Everything on this one machine: client, both edges, router, controller and server."""
    polls = median(result, "poll-64-video", "polls_per_s")
    video = median(result, "poll-64-video", "stream_mbit_per_s")
    p99 = median(result, "poll-64-video", "p99_us")
    if polls is None or video is None:
        return None
    beside = (
        f"next to one {VIDEO_MBIT:.0f} Mbit/s video stream"
        if video >= KEPT * VIDEO_MBIT
        else f"next to a video stream that gets only {video:.0f} of its {VIDEO_MBIT:.0f} Mbit/s"
    )
    slow = f", 99 % of them answered within {p99 / 1e3:.1f} ms at full load" if p99 else ""
    text = (
        f"This box carries about {hmis(polls)} HMIs that each poll {PLCS_PER_HMI} PLCs every "
        f"{1000 // POLLS_PER_PLC} ms, {beside}, with all programs (client, both edges, router, controller, server) "
        f"on it at once{slow}."
    )
    formula = (
        f"HMIs = margin × polls/s ÷ ({PLCS_PER_HMI} PLCs × {POLLS_PER_PLC} polls/s) = "
        f"{MARGIN} × {polls:,.0f} ÷ {PLCS_PER_HMI * POLLS_PER_PLC}; "
        "polls/s: 64 connections, one poll after the other on each (poll-64-video)"
    )
    return Statement(text, formula)


def edge_alone(result: Result) -> Statement | None:
    """The box as one edge, the rest elsewhere: from the CPU time of edge-a."""
    alone, beside = (
        median(result, "poll-64", "polls_per_s"),
        median(result, "poll-64-video", "polls_per_s"),
    )
    cores, with_video = edge_cores(result, "poll-64"), edge_cores(result, "poll-64-video")
    if not alone or beside is None or not cores or with_video is None:
        return None
    per_poll = cores / alone
    video = max(0.0, with_video - beside * per_poll)
    polls = max(0.0, 1 - video) / per_poll
    text = (
        f"As one edge, with router, server and clients on other machines, one core of it carries about {hmis(polls)} "
        f"such HMIs next to that stream."
    )
    formula = (
        f"HMIs = margin × (1 core − video) ÷ CPU per poll ÷ {PLCS_PER_HMI * POLLS_PER_PLC} = {MARGIN} × "
        f"(1 − {video:.2f}) ÷ {per_poll * 1e6:.0f} µs ÷ {PLCS_PER_HMI * POLLS_PER_PLC}; CPU of the clients' edge: per "
        "poll from poll-64, video = what poll-64-video used beyond its polls"
    )
    return Statement(text, formula)


def statements(result: Result) -> list[Statement]:
    """What can be said; nothing where it was not measured."""
    return [one for one in (whole_chain(result), edge_alone(result)) if one is not None]
