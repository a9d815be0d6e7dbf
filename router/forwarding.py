"""What a router knows of the circuits that pass through it: pairs of hops, and when their grants end. Pure."""

import heapq
from collections import Counter
from collections.abc import Iterator
from typing import Generic, TypeVar

from overlay.policy.grant import Grant
from overlay.policy.grant_check import valid_until

L = TypeVar("L")
"""A link; the table only compares it."""


class Hop(Generic[L]):
    """One side of a circuit: a number on a link. `last`: who is there has said the last frame (L-38)."""

    __slots__ = ("circuit", "last", "link", "number", "other")

    other: "Hop[L]"
    circuit: "Circuit[L]"

    def __init__(self, link: L, number: int) -> None:
        self.link = link
        self.number = number
        self.last = False


class Circuit(Generic[L]):
    """A circuit that passes. `grant` is None for `_control`; `host` is the edge or controller at its end."""

    __slots__ = ("caller", "grant", "host", "host_name", "id", "until")

    def __init__(
        self, circuit_id: bytes, grant: Grant | None, host_name: str, caller: Hop[L], host: Hop[L]
    ) -> None:
        self.id = circuit_id
        self.grant = grant
        self.host_name = host_name
        self.caller = caller
        self.host = host
        self.until: int | None = None


class Table(Generic[L]):
    """All circuits of one router, by link and number."""

    def __init__(self) -> None:
        self._hops: dict[L, dict[int, Hop[L]]] = {}
        self._calls: Counter[L] = Counter()
        self._circuits: dict[Circuit[L], None] = {}
        self._ends: list[tuple[int, int, Circuit[L]]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._circuits)

    def __iter__(self) -> Iterator[Circuit[L]]:
        return iter(list(self._circuits))

    def of_programs(self) -> int:
        """How many there are but for those of nodes themselves (`_control`), which have no grant."""
        return sum(circuit.grant is not None for circuit in self)

    def hops(self, link: L) -> dict[int, Hop[L]]:
        """The hops of a link by number; kept up to date, do not change it."""
        return self._hops.setdefault(link, {})

    def calls(self, link: L) -> int:
        """Circuits that were opened over this link."""
        return self._calls[link]

    def of_link(self, link: L) -> list[Hop[L]]:
        """The hops of a link now."""
        return list(self._hops.get(link, {}).values())

    def forget_link(self, link: L) -> None:
        """The link is gone and its circuits were removed."""
        self._hops.pop(link, None)
        self._calls.pop(link, None)

    def add(
        self,
        circuit_id: bytes,
        grant: Grant | None,
        host_name: str,
        caller: tuple[L, int],
        host: tuple[L, int],
    ) -> Circuit[L]:
        """A circuit from a hop to a hop, each given as link and number."""
        one, other = Hop(*caller), Hop(*host)
        circuit = Circuit(circuit_id, grant, host_name, one, other)
        one.other, other.other = other, one
        for hop in (one, other):
            hop.circuit = circuit
            self.hops(hop.link)[hop.number] = hop
        self._circuits[circuit] = None
        self._calls[one.link] += 1
        if grant is not None:
            self.refresh(circuit, grant)
        return circuit

    def remove(self, circuit: Circuit[L]) -> None:
        """The circuit is over; nothing when it was removed before."""
        if circuit in self._circuits:
            del self._circuits[circuit]
            circuit.until = None
            self._calls[circuit.caller.link] -= 1
            for hop in (circuit.caller, circuit.host):
                self._hops.get(hop.link, {}).pop(hop.number, None)
            self._compact()

    def last_came(self, hop: Hop[L]) -> None:
        """The last frame came from this hop; the circuit is over when that of the other hop has come, too (L-38)."""
        hop.last = True
        if hop.other.last:
            self.remove(hop.circuit)

    def refresh(self, circuit: Circuit[L], grant: Grant) -> None:
        """A new grant carries the circuit (G-03)."""
        circuit.grant = grant
        until = valid_until(grant, fresh=False)
        if until == circuit.until:
            return  # as it is with each refresh of a grant whose conduit has an end
        circuit.until = until
        self._count += 1
        heapq.heappush(self._ends, (circuit.until, self._count, circuit))
        self._compact()

    def ended(self, now: int) -> list[Circuit[L]]:
        """Circuits whose grant is over now; each is given once."""
        over: list[Circuit[L]] = []
        while self._ends and self._ends[0][0] <= now:
            until, _, circuit = heapq.heappop(self._ends)
            if circuit.until == until:
                over.append(circuit)
        return over

    def next_end(self) -> int | None:
        """Plant time in microseconds at which `ended` may have something."""
        return self._ends[0][0] if self._ends else None

    def _compact(self) -> None:
        """Ends of circuits that are over must not pile up until their time comes; of none that is left, none stays."""
        if not self._circuits or len(self._ends) > 2 * len(self._circuits) + 64:
            self._ends = [end for end in self._ends if end[2].until == end[0]]
            heapq.heapify(self._ends)
