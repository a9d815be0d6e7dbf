"""The whole audit: what every node said, and what the log must therefore hold in the end.

Three things are asked, each by itself. What a node put into its recorder is in the log, as often, and nothing else is: but
for what a machine had not written yet when its power was lost. Each circuit that brought a byte to a program was recorded as
opened by its host, and as closed when it is over. Each conversation that ended well has a receipt with exactly its bytes.
"""

import json
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from tests.support.simulation import EPOCH

if TYPE_CHECKING:
    from overlay.aio.circuit_driver import CircuitDriver
    from overlay.aio.node import NodeAgent
    from overlay.aio.spool import Spool
    from overlay.audit.event import Event
    from tests.simulation.plant import WholePlant

Key = tuple[str, str, str]
"""(event, outcome, circuit); the circuit is empty where events may be merged."""
OPENED, CLOSED = ("circuit.open", "allowed"), ("circuit.close", "done")
MERGED = {"circuit.open", "security.refused", "security.tamper"}
OF_ITSELF = {"spool.full"}
"""What a spool records by itself."""
HEAD = 16
"""Bytes with which each conversation begins."""


def key_of(event: str, outcome: str, circuit: str) -> Key:
    """What is counted."""
    return event, outcome, "" if event in MERGED and outcome != "allowed" else circuit


def _mergeable(key: Key) -> bool:
    return key[0] in MERGED and not key[2]


class Ledger:
    """Of one plant. A node's events are `written` once its disk has them all; of those that it had not written when its
    power was lost, each may be in the log or not.
    """

    def __init__(self) -> None:
        self.written: dict[str, Counter[Key]] = defaultdict(Counter)
        self.doubtful: dict[str, Counter[Key]] = defaultdict(Counter)
        self._fresh: dict[str, Counter[Key]] = defaultdict(Counter)
        self._spools: dict[str, Spool | None] = {}
        """Of each node, also while it closes, when its recorder has it no more."""
        self.lossy: set[str] = set()
        """Nodes whose power was lost, or that ended while their disks were full: they may never have said the end of a circuit."""
        self.carried: dict[str, str] = {}
        """Circuits that brought something to a program, each with its host."""
        self._unsaid: set[str] = set()
        """Circuits whose opening was lost with a program; what they carried may still be on its way then."""

    def said(self, node: str, event: str, outcome: str, fields: dict[str, Any]) -> None:
        """An event is put into the recorder of a node."""
        key = key_of(event, outcome, fields.get("circuit", ""))
        self._fresh[node][key] += fields.get("count", 1)

    def step(self, node: str, agent: "NodeAgent") -> None:
        """Something has run there: is all on its disk?"""
        fresh = self._fresh.get(node)
        spool = self._spools[node] = agent.recorder._spool or self._spools.get(node)
        if not fresh or spool is None or spool.durable < spool.last or spool._lost:
            return
        waiting = agent.recorder._merger.waiting
        for key in list(fresh):
            if not (waiting and _mergeable(key)):
                self.written[node][key] += fresh.pop(key)

    def stopped(self, node: str) -> str:
        """Its program is not there any more: what is not on disk may be lost, with it the openings of its circuits. What
        that is.
        """
        fresh = self._fresh.pop(node, Counter())
        self._spools.pop(node, None)
        if fresh:
            self.lossy.add(node)
        self.doubtful[node] += fresh
        self._unsaid.update(circuit for *what, circuit in fresh if tuple(what) == OPENED)
        for circuit, host in list(self.carried.items()):
            if host == node and not self.written[node][*OPENED, circuit]:
                del self.carried[circuit]
        return _told(fresh)

    def carries(self, stream: "CircuitDriver") -> None:
        """A circuit brings something to a program."""
        assert stream.grant is not None
        circuit = stream.circuit_id.hex()
        if circuit not in self._unsaid:
            self.carried[circuit] = stream.grant.hosts[0]

    # --- in the end ---------------------------------------------------------------------------------

    def wrong(self, plant: "WholePlant") -> str:
        """What the log lacks or has too much, since the plant was enrolled; "" when all is right. To be asked when all
        spools are empty.
        """
        left = {name for name in plant.agents if name not in plant.revoked}
        logs = {
            name: [one for one in plant.actions.events(name) if one.time >= EPOCH] for name in left
        }
        found = [
            self._events(name, events, waiting=plant.agents[name].recorder._merger.waiting)
            for name, events in logs.items()
        ]
        hosts = left & set(plant.edges)
        found += [self._circuits(plant, name, logs[name]) for name in hosts]
        found += [_receipts(plant, name, logs[name]) for name in hosts - self.lossy]
        return "; ".join(sorted(filter(None, found)))

    def _events(self, node: str, events: "list[Event]", *, waiting: bool) -> str:
        there: Counter[Key] = Counter()
        for event in events:
            if event.event.value not in OF_ITSELF:
                there[key_of(event.event.value, event.outcome.value, event.circuit)] += event.count
        must = self.written[node] + self._fresh.get(node, Counter())
        missing, more = must - there, there - must - self.doubtful[node]
        if waiting:
            missing = Counter({key: count for key, count in missing.items() if not _mergeable(key)})
        said = [f"{_told(missing)} of {node} not in the log"] if missing else []
        said += [f"{_told(more)} of {node} in the log, and never happened"] if more else []
        return "; ".join(said)

    def _circuits(self, plant: "WholePlant", host: str, events: "list[Event]") -> str:
        # Of each life of its own: a host that has begun anew may open again what its caller never heard of (C-16).
        words: Counter[tuple[int, tuple[str, str], str]] = Counter()
        life = 0
        for one in events:
            life += one.event.value == "node.start"
            words[life, (one.event.value, one.outcome.value), one.circuit] += 1
        opened, closed = (
            {circuit for _, word, circuit in words if word == kind} for kind in (OPENED, CLOSED)
        )
        carried = {circuit for circuit, name in self.carried.items() if name == host}
        alive = {stream.circuit_id.hex() for stream in plant.edges[host].streams()}
        unopened = sorted((carried | closed) - opened)
        twice = sorted(
            circuit
            for (_, word, circuit), count in words.items()
            if count > 1 and word in {OPENED, CLOSED}
        )
        unclosed = sorted(opened - closed - alive)
        if host in self.lossy:  # the one word was lost with it, or the other, or that a life began
            unopened = sorted(carried - opened)
            unclosed = twice = []
        return "; ".join(
            f"{host} {what} {', '.join(one[:6] for one in which)}"
            for what, which in (
                ("carried and did not record", unopened),
                ("recorded twice", twice),
                ("never said the end of", unclosed),
            )
            if which
        )


def _told(keys: Counter[Key]) -> str:
    return ", ".join(
        f"{count} {event} {outcome} {circuit[:6]}".rstrip()
        for (event, outcome, circuit), count in sorted(keys.items())
    )


def _receipts(plant: "WholePlant", host: str, events: "list[Event]") -> str:
    """Each conversation that ended well has one, with the bytes that its program wrote and got.

    Another code than normal is right where a kill came after the last byte and before the last word; and a circuit whose
    caller has ended, and whose path was lost then, still waits for that word.
    """
    there = Counter(
        (one.service, one.bytes_in, one.bytes_out) for one in plant.edges[host].streams()
    )
    for event in events:
        if event.event.value == "circuit.close":
            detail = json.loads(event.detail)
            there[event.service, detail["bytes_in"], detail["bytes_out"]] += 1
    must = Counter(
        (one.service, HEAD + one.to_write, one.to_read)
        for one in plant.clients
        if one.outcome == "well" and plant.host_of(one.service) == host
    )
    lacking = sorted((must - there).elements())
    return f"{host} has no receipt of {lacking}" if lacking else ""
