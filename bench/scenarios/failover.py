"""How long a poll every 20 ms stalls when a router dies, freezes, or loses a cable; and when silence is noticed.

Three positions in the path: the caller's own router, the one in the middle, the host's own. Each fault hits what
carries the polls at that moment, which the counts of the wires tell, and is taken back before the next one. A run's
rounds take turns with the places, so that neither a noisy minute nor what a link remembers of the last fault hits one.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import NamedTuple

from bench import processes
from bench.candidates.base import Candidate
from bench.candidates.fabric import Ranks
from bench.errors import BenchError
from bench.load import Generator
from bench.scenarios.scenario import FABRIC, Measured, Scenario
from bench.traffic import Polls

LOOK = 0.3
"""Seconds for which the wires are watched to see which of them carries the polls."""
QUIET = 0.3
"""So long polls have to be answered again before a stall counts as over."""
SETTLE = 0.4
"""Seconds after every link is there again, so that everybody has heard of it."""
IDLE = 2.0
"""Seconds without a poll after which a link is idle."""
BACK = 60.0
"""Seconds after which a link that is not there again will not come, however loaded the machine is."""
UNNOTICED = 30.0
RANKED = (("r1", "r2"), ("r3", "r4"), ("r5", "r6"))
CALLER, MIDDLE, HOST = range(3)
POSITIONS = ("caller", "middle", "host")


class Path(NamedTuple):
    """The router of each rank that carries the polls now."""

    routers: tuple[str, str, str]

    def cable(self, position: int) -> tuple[str, str]:
        """The two ends of what is cut at a position."""
        caller, middle, host = self.routers
        return (("a", caller), (caller, middle), ("b", host))[position]


def carriers(candidate: Ranks) -> Path:
    """Where the polls go at this moment, by the packets that arrive on every wire."""
    plant, wires = candidate.plant, candidate.net.wires
    before = wires.counts()
    time.sleep(LOOK)
    after = wires.counts()

    def busy(one: str, other: str) -> int:
        name = plant.wire(one, other)
        return sum(after[name + way].delivered - before[name + way].delivered for way in "><")

    caller = max(RANKED[CALLER], key=lambda router: busy("a", router))
    host = max(RANKED[HOST], key=lambda router: busy("b", router))
    middle = max(RANKED[MIDDLE], key=lambda router: busy(caller, router) + busy(host, router))
    return Path((caller, middle, host))


def killed(candidate: Ranks, path: Path, position: int) -> Callable[[], None]:
    """SIGKILL: the kernel closes its sockets. What takes it back."""
    router = path.routers[position]
    candidate.plant.kill(router)
    return partial(candidate.plant.start_again, router)


def frozen(candidate: Ranks, path: Path, position: int) -> Callable[[], None]:
    """SIGSTOP, workers and all: nothing is closed, nobody answers. What takes it back."""
    router = candidate.plant.programs[path.routers[position]].pid
    pids = processes.tree(processes.all_processes(), [router])

    def signal_all(number: int) -> None:
        for pid in pids:
            os.kill(pid, number)

    signal_all(signal.SIGSTOP)
    return partial(signal_all, signal.SIGCONT)


def cut(candidate: Ranks, path: Path, position: int) -> Callable[[], None]:
    """A cable is cut: packets vanish both ways, nobody is told. What takes it back."""
    wire = candidate.plant.wire(*path.cable(position))
    candidate.net.wires.cut(wire)
    return partial(candidate.net.wires.heal, wire)


class Fault(NamedTuple):
    """`strike(candidate, path, position)` returns what takes it back; it lasts `seconds` at least; `whole`: what a
    fault costs in all, for the estimate.
    """

    strike: Callable[[Ranks, Path, int], Callable[[], None]]
    seconds: float
    whole: float
    words: str


FAULTS = {
    "killed": Fault(killed, 0.0, 3.0, "router killed"),
    # Longer than anybody's patience (L-35), so that nobody who gave it up was wrong.
    "frozen": Fault(frozen, 2.0, 3.3, "router frozen"),
    # Until both ends have given the link up (L-31): before, TCP's back-off would be part of the next stall.
    "cut": Fault(cut, 3.0, 4.7, "cable cut, at the router"),
}


def whole(candidate: Ranks) -> None:
    """Wait until every link is there.

    Raises:
        BenchError: one does not come back; says which.
    """
    give_up = time.monotonic() + BACK
    while missing := candidate.plant.missing():
        if time.monotonic() > give_up:
            raise BenchError(f"after {BACK:.0f} s these links are not back: {', '.join(missing)}")
        time.sleep(0.02)
    time.sleep(SETTLE)


def stalls(
    generator: Generator, candidate: Candidate, faults: float, *, fault: Fault, position: int
) -> Measured:
    """Strike what carries the polls, so many times."""
    del generator  # which lives in other namespaces
    assert isinstance(candidate, Ranks)
    found = []
    whole(candidate)
    with Polls(candidate.net.name("a"), candidate.address) as polls:
        polls.stall(time.monotonic(), QUIET)
        for _ in range(round(faults)):
            path = carriers(candidate)
            struck = time.monotonic()
            take_back = fault.strike(candidate, path, position)
            try:
                found.append(1e3 * polls.stall(struck, QUIET))
                time.sleep(max(0.0, struck + fault.seconds - time.monotonic()))
            finally:
                take_back()
            whole(candidate)
    return measured(found)


def noticed(generator: Generator, candidate: Candidate, faults: float, *, fault: Fault) -> Measured:
    """Strike the caller's router while nothing is on its way, and wait until the edge gives the link up."""
    del generator
    assert isinstance(candidate, Ranks)
    found = []
    whole(candidate)
    with Polls(candidate.net.name("a"), candidate.address) as polls:
        polls.stall(time.monotonic(), QUIET)
        for _ in range(round(faults)):
            path = carriers(candidate)
            polls.rest()
            time.sleep(IDLE)
            # A frozen router's kernel goes on accepting, so a new connection proves nothing.
            links = {
                one for one in candidate.plant.connections("a") if one[0] == path.routers[CALLER]
            }
            struck = time.monotonic()
            take_back = fault.strike(candidate, path, CALLER)
            try:
                while links & candidate.plant.connections("a"):
                    if time.monotonic() - struck > UNNOTICED:
                        raise BenchError(f"not noticed within {UNNOTICED:.0f} s")
                    time.sleep(0.01)
                found.append(1e3 * (time.monotonic() - struck))
            finally:
                take_back()
                polls.go_on()
            polls.stall(time.monotonic(), QUIET)
            whole(candidate)
    return measured(found)


def measured(stalls_ms: Sequence[float]) -> Measured:
    """Percentiles by nearest rank: with less than a hundred faults the p99 is the longest."""
    known = sorted(stalls_ms)

    def rank(percent: float) -> float:
        return known[ceil(len(known) * percent / 100) - 1]

    return Measured(
        {
            "stall_p50_ms": rank(50),
            "stall_p99_ms": rank(99),
            "stall_max_ms": known[-1],
            "faults": float(len(known)),
        },
        samples=tuple(stalls_ms),
    )


PLACES = ("the caller's own", "in the middle", "the host's own")


def scenario(name: str, title: str, measure: Callable[..., Measured], seconds: float) -> Scenario:
    """One row, of which a fault takes so many seconds."""
    return Scenario(
        f"failover-{name}", title, measure, FABRIC, factor=seconds, extra=SETTLE, pooled=measured
    )


SCENARIOS = (
    *(
        scenario(
            f"{kind}-{position}",
            f"{fault.words}, {place}: how long a poll every 20 ms stalls",
            partial(stalls, fault=fault, position=number),
            fault.whole,
        )
        for kind, fault in FAULTS.items()
        for number, (position, place) in enumerate(zip(POSITIONS, PLACES, strict=True))
    ),
    scenario(
        "idle-frozen",
        "the caller's router frozen while its links are idle: until the edge knows",
        partial(noticed, fault=FAULTS["frozen"]),
        FAULTS["frozen"].whole + IDLE + QUIET,
    ),
    scenario(
        "idle-cut",
        "the caller's cable cut while its link is idle: until the edge knows",
        partial(noticed, fault=FAULTS["cut"]),
        FAULTS["cut"].whole + IDLE + QUIET,
    ),
)
