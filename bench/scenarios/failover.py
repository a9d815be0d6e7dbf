"""How long a poll every 20 ms stalls when a router dies, freezes, or loses a cable; and when silence is noticed.

Three positions in the path: the caller's own router, the one in the middle, the host's own. Each fault hits what
carries the polls at that moment, which the counts of the wires tell, and is taken back before the next one.
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
from deploy.demo.plant import until

PER_SECOND = 10
"""Faults for each of the run's seconds: 3 in the short profile, 20 in the standard one, 50 in the long one."""
SECONDS_PER_FAULT = 6.0
LOOK = 0.3
"""Seconds for which the wires are watched to see which of them carries the polls."""
QUIET = 0.3
"""So long polls have to be answered again before a stall counts as over."""
SETTLE = 0.7
"""Seconds after every link is there again, so that everybody has heard of it."""
BACK = 60.0
"""Seconds that an idle machine may need for that."""
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


Fault = Callable[[Ranks, Path, int], Callable[[], None]]


def whole(candidate: Ranks) -> None:
    """Wait until every link is there.

    Raises:
        BenchError: one does not come back.
    """
    try:
        until(candidate.plant.whole, BACK, "every link")
    except TimeoutError as error:
        raise BenchError(str(error)) from None
    time.sleep(SETTLE)


def stalls(
    generator: Generator, candidate: Candidate, seconds: float, *, fault: Fault, position: int
) -> Measured:
    """Strike what carries the polls, again and again."""
    del generator  # which lives in other namespaces
    assert isinstance(candidate, Ranks)
    found = []
    whole(candidate)
    with Polls(candidate.net.name("a"), candidate.address) as polls:
        polls.stall(time.monotonic(), QUIET)
        for _ in range(count(seconds)):
            path = carriers(candidate)
            struck = time.monotonic()
            take_back = fault(candidate, path, position)
            try:
                found.append(polls.stall(struck, QUIET))
            finally:
                take_back()
            whole(candidate)
    return measured(found)


def noticed(
    generator: Generator, candidate: Candidate, seconds: float, *, fault: Fault
) -> Measured:
    """Strike the caller's router while nothing is on its way, and wait until the edge gives the link up."""
    del generator
    assert isinstance(candidate, Ranks)
    found = []
    whole(candidate)
    with Polls(candidate.net.name("a"), candidate.address) as polls:
        polls.stall(time.monotonic(), QUIET)
        for _ in range(count(seconds)):
            path = carriers(candidate)
            polls.rest()
            time.sleep(1 + SETTLE)
            # A frozen router's kernel goes on accepting, so a new connection proves nothing.
            links = {
                one for one in candidate.plant.connections("a") if one[0] == path.routers[CALLER]
            }
            struck = time.monotonic()
            take_back = fault(candidate, path, CALLER)
            try:
                while links & candidate.plant.connections("a"):
                    if time.monotonic() - struck > UNNOTICED:
                        raise BenchError(f"not noticed within {UNNOTICED:.0f} s")
                    time.sleep(0.01)
                found.append(time.monotonic() - struck)
            finally:
                take_back()
                polls.go_on()
            polls.stall(time.monotonic(), QUIET)
            whole(candidate)
    return measured(found)


def count(seconds: float) -> int:
    """How many faults a run of this length sees in each place."""
    return max(1, round(seconds * PER_SECOND))


def measured(seconds: Sequence[float]) -> Measured:
    """Percentiles by nearest rank: with less than a hundred faults the p99 is the longest."""
    known = sorted(1e3 * one for one in seconds)

    def rank(percent: float) -> float:
        return known[ceil(len(known) * percent / 100) - 1]

    return Measured(
        {
            "stall_p50_ms": rank(50),
            "stall_p99_ms": rank(99),
            "stall_max_ms": known[-1],
            "faults": float(len(known)),
        }
    )


WORDS = {
    "killed": (killed, "router killed"),
    "frozen": (frozen, "router frozen"),
    "cut": (cut, "cable cut, at the router"),
}
PLACES = ("the caller's own", "in the middle", "the host's own")


def scenario(name: str, title: str, measure: Callable[..., Measured]) -> Scenario:
    """One row."""
    return Scenario(
        f"failover-{name}", title, measure, FABRIC, factor=PER_SECOND * SECONDS_PER_FAULT, once=True
    )


SCENARIOS = (
    *(
        scenario(
            f"{kind}-{position}",
            f"{words}, {place}: how long a poll every 20 ms stalls",
            partial(stalls, fault=fault, position=number),
        )
        for kind, (fault, words) in WORDS.items()
        for number, (position, place) in enumerate(zip(POSITIONS, PLACES, strict=True))
    ),
    scenario(
        "idle-frozen",
        "the caller's router frozen while its links are idle: until the edge knows",
        partial(noticed, fault=frozen),
    ),
    scenario(
        "idle-cut",
        "the caller's cable cut while its link is idle: until the edge knows",
        partial(noticed, fault=cut),
    ),
)
