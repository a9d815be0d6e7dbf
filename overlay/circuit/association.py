"""Associations: what one end-to-end handshake leaves behind for later circuits (docs/protocol/circuit.md, C-01
to C-05, C-15).

Both tables are in memory only. Times `now` are seconds of one monotonic clock.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from overlay import limits
from overlay.circuit.acceptance import Acceptance
from overlay.identity.certificate import Leaf
from overlay.identity.trust import Credentials

EARLY_SECONDS = 1.0
"""Early data is sent so soon after the host's last sealed answer: no host begins anew within that time (C-16)."""
HANDSHAKE_NUMBER = 0
"""The circuit that carried the handshake (C-04)."""


@dataclass(slots=True)
class CallerAssociation:
    """The caller's side. `peer` is the host's verified leaf, `until` when no circuit may be opened with it any
    more (s).
    """

    id: bytes
    secret: bytes
    peer: Leaf
    own: Leaf | None
    key_exchange: str
    until: float
    boot: int = -1
    heard: float = -math.inf
    """When the host said READY last, seconds."""
    _next: int = HANDSHAKE_NUMBER + 1
    _unanswered: set[int] = field(default_factory=set)

    def usable(self, now: float) -> bool:
        """False once it is over, or while the oldest unanswered circuit is a whole window behind (C-15)."""
        if now >= self.until:
            return False
        oldest = min(self._unanswered, default=self._next)
        return self._next - oldest < limits.CIRCUIT_NUMBER_WINDOW

    def takes_early(self, now: float) -> bool:
        """The host is the one that answered, so early data will not end the circuit (C-16)."""
        return now - self.heard <= EARLY_SECONDS

    def take_number(self) -> int:
        """The next circuit number; it stays unanswered until `answered`."""
        number = self._next
        self._next += 1
        self._unanswered.add(number)
        return number

    def answered(self, number: int) -> None:
        """The host answered this circuit's OPEN, or the circuit was given up."""
        self._unanswered.discard(number)


class CallerAssociations:
    """The associations that this node made, at most one per host."""

    def __init__(self) -> None:
        self._by_host: OrderedDict[str, CallerAssociation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_host)

    def find(
        self, hosts: tuple[str, ...] | None, own: Leaf | None, now: float
    ) -> CallerAssociation | None:
        """One to a host among `hosts` (None: any controller), made with this node's present leaf."""
        names = hosts if hosts is not None else tuple(self._by_host)
        for name in names:
            found = self._by_host.get(name)
            if found is None or (hosts is None) != (found.peer.identity.role == "controller"):
                continue
            if found.own == own and found.usable(now):
                self._by_host.move_to_end(name)
                return found
        return None

    def add(self, association: CallerAssociation) -> None:
        """Replaces an older one to the same host; beyond the limit the one not used for longest goes."""
        name = association.peer.identity.name
        self._by_host.pop(name, None)
        self._by_host[name] = association
        while len(self._by_host) > limits.ASSOCIATIONS_PER_EDGE:
            self._by_host.popitem(last=False)

    def drop(self, association: CallerAssociation) -> None:
        """The host does not know it any more (C-16)."""
        name = association.peer.identity.name
        if self._by_host.get(name) is association:
            del self._by_host[name]

    def forget(self, matches: Callable[[Leaf], bool]) -> None:
        """Drop those with these hosts: they were revoked, say (C-03)."""
        for name, one in list(self._by_host.items()):
            if matches(one.peer):
                del self._by_host[name]


class Answer(Enum):
    """What the host does with a circuit number (C-15)."""

    NEW = auto()
    REPEATED = auto()
    """Identical: answer the same, execute nothing."""
    REPLAYED = auto()
    """Used with another content: a security event."""
    LATE = auto()
    """Older than the window, so that it is not known any more what it was (`overlay.circuit.host.check_late`); or its
    caller has the ACCEPT, which is not kept any more.
    """


@dataclass(slots=True)
class HostAssociation:
    """The host's side: `caller` is the verified leaf of who may open with it; None for a newcomer, whose
    association is spent. `own` is what this node showed when it was made: the caller knows that key, also after this
    node has renewed (E-08).
    """

    id: bytes
    secret: bytes
    caller: Leaf | None
    caller_public: bytes
    own: Credentials
    key_exchange: str
    until: float
    _answers: OrderedDict[int, tuple[bytes, Acceptance]] = field(default_factory=OrderedDict)
    _highest: int = -1

    def judge(self, number: int, digest: bytes) -> Answer:
        """`digest` is a hash over all of OPEN that the caller made (intent, flight, early data)."""
        seen = self._answers.get(number)
        if seen is not None and seen[0] != digest:
            return Answer.REPLAYED
        if seen is not None:
            return Answer.LATE if seen[1].gone else Answer.REPEATED
        if number <= self._highest - limits.CIRCUIT_NUMBER_WINDOW:
            return Answer.LATE
        return Answer.NEW

    def remember(self, number: int, digest: bytes, accept: Acceptance) -> None:
        """Keep the ACCEPT that this number got; numbers that fell out of the window are forgotten and never
        accepted.
        """
        self._answers[number] = (digest, accept)
        self._highest = max(self._highest, number)
        floor = self._highest - limits.CIRCUIT_NUMBER_WINDOW
        while self._answers and next(iter(self._answers)) <= floor:
            self._answers.popitem(last=False)

    def accept_of(self, number: int) -> bytes:
        """The ACCEPT that was given for a repeated number; one that still waited is said now."""
        return self._answers[number][1].said()


class HostAssociations:
    """All associations of callers with this node, at most `ASSOCIATIONS_PER_EDGE`: of the caller that has the most the
    one not used for longest goes first, so that nobody makes the node forget others (C-05).
    """

    def __init__(self) -> None:
        self._by_id: OrderedDict[bytes, HostAssociation] = OrderedDict()
        self._of: Counter[str] = Counter()
        """How many each caller has, by name."""

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, name: bytes, now: float) -> HostAssociation | None:
        """The living association of this id, now the one used last."""
        found = self._by_id.get(name)
        if found is None:
            return None
        if now >= found.until:
            self._drop(found)
            return None
        self._by_id.move_to_end(name)
        return found

    def add(self, association: HostAssociation) -> None:
        """A handshake was completed."""
        self._by_id[association.id] = association
        self._of[_caller_of(association)] += 1
        if len(self._by_id) > limits.ASSOCIATIONS_PER_EDGE:
            most = max(self._of.values())
            self._drop(
                next(one for one in self._by_id.values() if self._of[_caller_of(one)] == most)
            )

    def forget(self, matches: Callable[[Leaf], bool]) -> None:
        """Drop those with these callers: they were revoked, say (C-03)."""
        for one in list(self._by_id.values()):
            if one.caller is not None and matches(one.caller):
                self._drop(one)

    def _drop(self, association: HostAssociation) -> None:
        del self._by_id[association.id]
        caller = _caller_of(association)
        self._of[caller] -= 1
        if not self._of[caller]:
            del self._of[caller]


def _caller_of(association: HostAssociation) -> str:
    """Newcomers, who have no name yet, count together."""
    return "" if association.caller is None else association.caller.identity.name
