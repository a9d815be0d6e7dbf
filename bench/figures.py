"""Pure: the figures that Ferrule is held to, and whether one run reached them."""

from collections.abc import Callable
from typing import NamedTuple

from bench.results import Result
from bench.statistics import Spread

RELAY, OURS, STRICT, TUN = "relay", "ferrule", "ferrule strict", "ferrule tun"
RANKS, FAR = "ferrule ranks", "ferrule far"


class Figure(NamedTuple):
    """One row. `must` and `goal` are least values, or greatest where `less` is better."""

    title: str
    must: float
    goal: float
    less: bool
    unit: str
    measure: Callable[[Result], Spread | None]


class Verdict(NamedTuple):
    """What a run says about a figure; `reached` is "goal", "must", "no", or "not measured"."""

    figure: Figure
    measured: Spread | None
    reached: str


def against(
    candidate: str, scenario: str, figure: str, base: str = RELAY
) -> Callable[[Result], Spread | None]:
    """Our value over that of another candidate, round by round."""
    return lambda result: result.ratio((scenario, candidate, figure), (scenario, base, figure))


def absolute(
    scenario: str, figure: str, scale: float = 1.0, who: str = OURS
) -> Callable[[Result], Spread | None]:
    """A value of ours, in another unit."""

    def measure(result: Result) -> Spread | None:
        values = result.values(scenario, who, figure)
        return Spread.of(value * scale for value in values.values()) if values else None

    return measure


def above(candidate: str, scenario: str, figure: str) -> Callable[[Result], Spread | None]:
    """By how much a value of one variant exceeds that of the proxy listener, round by round."""

    def measure(result: Result) -> Spread | None:
        values, base = (result.values(scenario, who, figure) for who in (candidate, OURS))
        common = values.keys() & base.keys()
        return Spread.of(values[one] - base[one] for one in sorted(common)) if common else None

    return measure


def within(over: tuple[str, str], under: tuple[str, str]) -> Callable[[Result], Spread | None]:
    """One of our values over another of ours, round by round; each is (scenario, figure)."""
    return lambda result: result.ratio((over[0], OURS, over[1]), (under[0], OURS, under[1]))


def worst(*measures: Callable[[Result], Spread | None]) -> Callable[[Result], Spread | None]:
    """The one with the least median; not measured unless all are."""

    def measure(result: Result) -> Spread | None:
        spreads = [one(result) for one in measures]
        known = [spread for spread in spreads if spread is not None]
        return min(known) if len(known) == len(spreads) else None

    return measure


def stall(fault: str) -> Callable[[Result], Spread | None]:
    """The worst position of a fault: its p99 in ms."""

    def measure(result: Result) -> Spread | None:
        spreads = [
            result.spread(one, RANKS, "stall_p99_ms")
            for one in result.scenarios()
            if one.startswith(f"failover-{fault}")
        ]
        return max((one for one in spreads if one is not None), default=None)

    return measure


MORE, LESS = False, True

FIGURES = (
    Figure(
        "one stream, up and down (the worse) / relay",
        0.75,
        1.0,
        MORE,
        "×",
        worst(against(OURS, "bulk-1-up", "gbit_per_s"), against(OURS, "bulk-1-down", "gbit_per_s")),
    ),
    Figure(
        "eight streams / our one stream",
        0.95,
        1.1,
        MORE,
        "×",
        within(("bulk-8-up", "gbit_per_s"), ("bulk-1-up", "gbit_per_s")),
    ),
    Figure(
        "Jain's fairness of 8 and of 64 streams (the worse)",
        0.95,
        0.99,
        MORE,
        "",
        worst(absolute("bulk-8-up", "jain"), absolute("bulk-64-up", "jain")),
    ),
    Figure(
        "CPU seconds per GB, all our programs / relay",
        1.8,
        1.1,
        LESS,
        "×",
        against(OURS, "bulk-1-up", "cpu_s_per_gb"),
    ),
    Figure("idle poll p50 / relay", 2.0, 1.3, LESS, "×", against(OURS, "poll", "p50_us")),
    Figure(
        "poll next to 4 unlimited streams: p50 / relay's",
        0.06,
        0.02,
        LESS,
        "×",
        against(OURS, "poll-bulk", "p50_us"),
    ),
    Figure(
        "poll next to 4 unlimited streams: p99 / relay's",
        0.3,
        0.05,
        LESS,
        "×",
        against(OURS, "poll-bulk", "p99_us"),
    ),
    Figure(
        "what those 4 streams keep of their rate",
        0.7,
        0.7,
        MORE,
        "×",
        within(("poll-bulk", "bulk_gbit_per_s"), ("bulk-4-up", "gbit_per_s")),
    ),
    Figure(
        "poll next to one 200 Mbit/s stream: p99 / idle p99",
        2.0,
        1.3,
        LESS,
        "×",
        within(("poll-video", "p99_us"), ("poll", "p99_us")),
    ),
    Figure(
        "connect + first answer, p50", 1.2, 0.6, LESS, "ms", absolute("connect-1", "p50_us", 1e-3)
    ),
    Figure(
        "connect + poll + close, 50 at a time",
        1500,
        2500,
        MORE,
        "1/s",
        absolute("connect-50", "per_s"),
    ),
    Figure(
        "memory of one edge, 1,000 open circuits",
        120,
        80,
        LESS,
        "MB",
        absolute("circuits-1000", "edge_mb"),
    ),
    Figure(
        "idle CPU of all programs, 1,000 open circuits",
        2.0,
        0.5,
        LESS,
        "% of a core",
        absolute("circuits-1000", "idle_cpu_percent"),
    ),
    Figure(
        "strict / normal integrity, one stream",
        0.5,
        0.8,
        MORE,
        "×",
        against(STRICT, "bulk-1-up", "gbit_per_s", OURS),
    ),
    Figure(
        "interception by tun / proxy, one stream",
        0.7,
        0.81,
        MORE,
        "×",
        against(TUN, "bulk-1-up", "gbit_per_s", OURS),
    ),
    Figure(
        "interception by tun / relay, one stream",
        0.4,
        0.4,
        MORE,
        "×",
        against(TUN, "bulk-1-up", "gbit_per_s"),
    ),
    Figure(
        "interception by tun: connect + first answer, p50, more than proxy",
        150,
        150,
        LESS,
        "µs",
        above(TUN, "connect-1", "p50_us"),
    ),
    Figure(
        "10,000 datagrams a second: lost",
        0.0,
        0.0,
        LESS,
        "%",
        absolute("datagrams-10k", "loss_percent"),
    ),
    Figure(
        "10,000 datagrams a second: busiest program",
        45,
        45,
        LESS,
        "% of a core",
        absolute("datagrams-10k", "cpu_percent"),
    ),
    Figure(
        "the same by tun: lost",
        0.0,
        0.0,
        LESS,
        "%",
        absolute("datagrams-10k", "loss_percent", who=TUN),
    ),
    Figure(
        "the same by tun: busiest program",
        45,
        45,
        LESS,
        "% of a core",
        absolute("datagrams-10k", "cpu_percent", who=TUN),
    ),
    Figure(
        "bulk at 100 ms round trip / plain TCP on the same path",
        0.8,
        1.0,
        MORE,
        "×",
        lambda result: result.spread("bulk-far", FAR, "of_plain"),
    ),
    Figure("router killed: stall of a poll, p99", 250, 50, LESS, "ms", stall("killed")),
    Figure("router frozen: stall of a poll, p99", 1500, 600, LESS, "ms", stall("frozen")),
    Figure("cable cut: stall of a poll, p99", 1500, 600, LESS, "ms", stall("cut")),
    Figure("frozen or cut on an idle link: found, p99", 3000, 3000, LESS, "ms", stall("idle")),
)


def judge(figure: Figure, result: Result) -> Verdict:
    """Whether the median of the rounds reached the figure."""
    measured = figure.measure(result)
    if measured is None:
        return Verdict(figure, None, "not measured")
    value = measured.median

    def reaches(limit: float) -> bool:
        return value <= limit if figure.less else value >= limit

    reached = "goal" if reaches(figure.goal) else "must" if reaches(figure.must) else "no"
    return Verdict(figure, measured, reached)


def judge_all(result: Result) -> list[Verdict]:
    """Every figure of the table."""
    return [judge(figure, result) for figure in FIGURES]
