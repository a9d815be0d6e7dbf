"""Which rule wins for a port, of all rules for one prefix and transport (K-10). Pure."""

import heapq
import itertools
from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from overlay.policy.interception import Rule


class Target(NamedTuple):
    """Where a rule leads."""

    service: str
    asset: str
    who: str
    mode: int
    several: bool
    held: bool = True
    shift: int | None = None
    """What to add to an address of the prefix to get the one in the asset's subnet; None where it is none."""

    def address(self, destination: bytes) -> bytes:
        """The address in the asset's subnet; empty where it is none."""
        if self.shift is None:
            return b""
        size = len(destination)
        return (int.from_bytes(destination, "big") + self.shift).to_bytes(size, "big")


class Ports:
    """All ports of one prefix and transport: segments that do not overlap, each with the rule that wins in it.

    They are made when it is first asked, since most prefixes of a big table never are.
    """

    __slots__ = ("_ends", "_rules", "_starts", "_targets")

    def __init__(self, rules: list[tuple[Rule, Target]]) -> None:
        self._rules = rules
        self._starts: list[int] = []
        self._ends: list[int] = []
        self._targets: list[Target] = []

    def _sweep(self) -> None:
        """Rules of equal rank do not overlap (`settle`)."""
        if len(self._rules) == 1:
            [(rule, target)], self._rules = self._rules, []
            self._starts, self._ends, self._targets = [rule.port], [rule.port_end], [target]
            return
        begins = sorted(self._rules, key=lambda pair: pair[0].port)
        self._rules = []
        edges = sorted({port for rule, _ in begins for port in (rule.port, rule.port_end + 1)})
        running: list[tuple[int, bool, int, int, Target]] = []
        at = 0
        for start, after in itertools.pairwise(edges):
            while at < len(begins) and begins[at][0].port == start:
                rule, target = begins[at]
                width, exact = rule.beats()
                heapq.heappush(running, (-width, not exact, at, rule.port_end, target))
                at += 1
            while running and running[0][3] < start:
                heapq.heappop(running)
            if running:
                self._starts.append(start)
                self._ends.append(after - 1)
                self._targets.append(running[0][4])

    def segments(self) -> Iterable[tuple[int, int, Target]]:
        """First and last port, and the rule that wins there."""
        if self._rules:
            self._sweep()
        return zip(self._starts, self._ends, self._targets, strict=True)

    def find(self, port: int) -> Target | None:
        """The rule that wins for a port."""
        if self._rules:
            self._sweep()
        at = bisect_right(self._starts, port) - 1
        return self._targets[at] if at >= 0 and port <= self._ends[at] else None
