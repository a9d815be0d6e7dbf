"""Associations: what one end-to-end handshake leaves behind for later circuits (docs/protocol/circuit.md, C-01
to C-05, C-15).

Both tables are in memory only. Times `now` are seconds of one monotonic clock.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

from overlay import limits
from overlay.identity.certificate import Leaf

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
    _next: int = HANDSHAKE_NUMBER + 1
    _unanswered: set[int] = field(default_factory=set)

    def usable(self, now: float) -> bool:
        """False once it is over, or while the oldest unanswered circuit is a whole window behind (C-15)."""
        if now >= self.until:
            return False
        oldest = min(self._unanswered, default=self._next)
        return self._next - oldest < limits.CIRCUIT_NUMBER_WINDOW

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
    """Used with another content, or older than the window: a security event."""


@dataclass(slots=True)
class HostAssociation:
    """The host's side: `caller` is the verified leaf of who may open with it; None for a newcomer, whose
    association is spent.
    """

    id: bytes
    secret: bytes
    caller: Leaf | None
    caller_public: bytes
    key_exchange: str
    until: float
    _answers: OrderedDict[int, tuple[bytes, bytes]] = field(default_factory=OrderedDict)
    _highest: int = -1

    def judge(self, number: int, digest: bytes) -> Answer:
        """`digest` is a hash over all of OPEN that the caller made (intent, flight, early data)."""
        seen = self._answers.get(number)
        if seen is not None:
            return Answer.REPEATED if seen[0] == digest else Answer.REPLAYED
        if number <= self._highest - limits.CIRCUIT_NUMBER_WINDOW:
            return Answer.REPLAYED
        return Answer.NEW

    def remember(self, number: int, digest: bytes, accept: bytes) -> None:
        """Keep the ACCEPT that this number got; numbers that fell out of the window are forgotten and never
        accepted.
        """
        self._answers[number] = (digest, accept)
        self._highest = max(self._highest, number)
        floor = self._highest - limits.CIRCUIT_NUMBER_WINDOW
        while self._answers and next(iter(self._answers)) <= floor:
            self._answers.popitem(last=False)

    def accept_of(self, number: int) -> bytes:
        """The ACCEPT that was given for a repeated number."""
        return self._answers[number][1]


class HostAssociations:
    """All associations of callers with this node, at most `ASSOCIATIONS_PER_EDGE`: the oldest idle one goes
    first (C-05).
    """

    def __init__(self) -> None:
        self._by_id: OrderedDict[bytes, HostAssociation] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_id)

    def find(self, name: bytes, now: float) -> HostAssociation | None:
        """The living association of this id, now the one used last."""
        found = self._by_id.get(name)
        if found is None:
            return None
        if now >= found.until:
            del self._by_id[name]
            return None
        self._by_id.move_to_end(name)
        return found

    def add(self, association: HostAssociation) -> None:
        """A handshake was completed."""
        self._by_id[association.id] = association
        while len(self._by_id) > limits.ASSOCIATIONS_PER_EDGE:
            self._by_id.popitem(last=False)

    def forget(self, matches: Callable[[Leaf], bool]) -> None:
        """Drop those with these callers: they were revoked, say (C-03)."""
        for name, one in list(self._by_id.items()):
            if one.caller is not None and matches(one.caller):
                del self._by_id[name]
