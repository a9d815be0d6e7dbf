"""Both ends of one circuit, the hops between them, and all that can happen next: the states that the search visits.

The ends are the real cores (`overlay.circuit`), sealing with the real keys. What stands around them is what the asyncio
side does with hops (`overlay.aio.circuit_driver`, `caller_paths`, `host_paths`, `hosting`), in as few words as
possible. Signatures and SHA-256 are replaced by stand-ins that can be copied and cost nothing. Time stands still but
where an action lets it pass.
"""

from collections import deque
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple
from unittest.mock import patch

from overlay import limits
from overlay.circuit import receiving, sending
from overlay.circuit.events import Delivered, HalfClosed, Opened, Over
from overlay.crypto.checkpoint import CALLER, HOST
from overlay.errors import Code, FerruleError, ProtocolError, TamperError
from overlay.wire.bodies import Resume, ResumeIntent
from overlay.wire.codec import decode, encode
from overlay.wire.header import Flag, Header
from tests.model.stand_ins import NAMES, meaning, new_core

INTENT = encode(ResumeIntent(*NAMES[:5], b""))
EARLY = b"0" + bytes(limits.TAG_SIZE)
GRANT = b"another grant"
WHO = ("caller", "host")
HOPS = 2
"""So many paths there are at once."""


class Broken(Exception):
    """An invariant does not hold."""


@dataclass(frozen=True)
class Scenario:
    """What may happen, how often. The numbers of `writes` and `closes` are the caller's and the host's.

    Args:
        writes: frames that each program sends, a byte each.
        ends: whether each program half-closes at last.
        cuts: paths that are lost with all that is on them.
        hasty: times that the caller gives up a path that only was slow.
        moves: times that the caller leaves a path that is good (another lane, a router that drains).
        crashes: (callers, hosts) that die.
        aborts: programs that end the circuit in the middle.
        outlasted: ends that wait for a path or a last word until their time is up.
        refreshes: other grants that the caller sends along.
        slow_reader: programs read a byte when they like, else all at once as it comes.
        checkpoints: the timer may ask for a checkpoint at any time, else only CLOSE has one.
        opening: begin with OPEN ("later": of a living association, "handshake": the first one), else after READY.
        early: OPEN carries a byte of data.
        window: bytes that the other end may send at first.
    """

    writes: tuple[int, int] = (1, 0)
    ends: tuple[bool, bool] = (True, True)
    cuts: int = 1
    hasty: int = 0
    moves: int = 0
    crashes: tuple[int, int] = (0, 0)
    aborts: int = 0
    outlasted: int = 0
    refreshes: int = 0
    slow_reader: bool = False
    checkpoints: bool = False
    opening: str = ""
    early: bool = False
    window: int = 4


class Item(NamedTuple):
    """Something on its way over one hop: a frame, or OPEN, ACCEPT, REFUSE, RESET, of which only that counts."""

    what: str
    header: Any = None
    payload: bytes = b""
    meaning: tuple[Any, ...] = ()
    """What a control frame says, and its number."""


class Hop:
    """One path: what is on its way to the host and back, and what the host takes it for."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.alive = True
        self.wires: tuple[deque[Item], deque[Item]] = (deque(), deque())
        self.waits = ""
        """At the host: "arriving" or "candidate" while it is not the circuit's."""


class End:
    """One core, its program, and the hop that it is on."""

    def __init__(self, role: int, scenario: Scenario) -> None:
        self.role = role
        self.core: Any = new_core(role)
        self.hop: int | None = None
        self.to_write = scenario.writes[role]
        self.will_end = scenario.ends[role]
        self.sent = 0
        self.got = 0
        self.unread = 0
        self.heard_end = False
        self.over: Any = None
        self.marks = (0, 0, 0, 0)


class State:
    """Everything. `apply` does one of `actions`."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.ends = (End(CALLER, scenario), End(HOST, scenario))
        self.hops: list[Hop | None] = [None] * HOPS
        self.left = {
            "cut": scenario.cuts, "hasty": scenario.hasty, "move": scenario.moves,
            "crash caller": scenario.crashes[0], "crash host": scenario.crashes[1],
            "abort": scenario.aborts, "outlast": scenario.outlasted, "refresh": scenario.refreshes,
        }  # fmt: skip
        self.said = 0
        """How often OPEN was said."""
        self.accepted = False
        self.known = not scenario.opening
        """The host has the circuit."""
        self.restarted = False
        if not scenario.opening:
            self._new_hop()
            for end in self.ends:
                end.hop = 0
                end.core.opened = True
            self.accepted = True
        else:
            self.caller.sent = int(scenario.early)
            self._say_open(0)

    @property
    def caller(self) -> End:
        return self.ends[CALLER]

    @property
    def host(self) -> End:
        return self.ends[HOST]

    # --- what may happen next -----------------------------------------------------------------------

    def actions(self) -> list[tuple[str, bool]]:
        """(name, whether it is a fault) of all that may happen now."""
        found: list[tuple[str, bool]] = []
        for end in self.ends:
            here = self.accepted if end.role == CALLER else self.known
            if here and end.core is not None:
                self._of_program(end, found)
                self._of_time(end, found)
        for hop in self.hops:
            if hop is not None and hop.alive:
                for role, wire in enumerate(hop.wires):
                    if wire:
                        found.append((f"deliver to {WHO[1 - role]} on path {hop.number}", False))
                if self.left["cut"]:
                    found.append((f"cut path {hop.number}", True))
        for end in self.ends:
            hop = self._hop_of(end)
            if hop is not None and not hop.alive:
                found.append((f"{WHO[end.role]} notices", False))
        self._of_caller(found)
        for role, who in enumerate(WHO):
            if self.left[f"crash {who}"] and self.ends[role].core is not None and self.known:
                found.append((f"crash {who}", True))
        return found

    def _of_program(self, end: End, found: list[tuple[str, bool]]) -> None:
        who, core = WHO[end.role], end.core
        if end.over is not None:
            return
        if end.role == HOST and not core.opened:
            found.append(("host is ready", False))
        if end.unread:
            found.append((f"{who} reads", False))
        talks = end.role == CALLER or core.opened
        if talks and end.to_write and end.hop is not None and core.room():
            found.append((f"{who} writes", False))
        if talks and end.will_end and not end.to_write and not core._sending.closed:
            found.append((f"{who} closes", False))
        if self.left["abort"] and core.opened:
            found.append((f"{who} aborts", True))
        if self.left["refresh"] and end.role == CALLER and core.opened:
            found.append(("caller refreshes", True))

    def _of_time(self, end: End, found: list[tuple[str, bool]]) -> None:
        who, core, other = WHO[end.role], end.core, self.ends[1 - end.role].core
        due = core._sending.deadline is not None and not core.suspended and end.hop is not None
        if due and self.scenario.checkpoints:
            found.append((f"{who} checkpoints", False))
        waits = core._resume_until is not None or (core._linger is not None and not core.finished)
        if waits:
            nobody = other is None or other.finished or (core.over and other.over)
            if nobody or self.left["outlast"]:
                found.append((f"{who} waits no longer", not nobody))

    def _of_caller(self, found: list[tuple[str, bool]]) -> None:
        end, core = self.caller, self.caller.core
        if core is None or end.over is not None:
            return
        hop = self._hop_of(end)
        if hop is not None and hop.alive:
            waits = core.suspended or not core.opened
            if self.left["hasty"] and waits:
                found.append((f"caller gives path {hop.number} up", True))
            if self.left["move"] and core.opened and not core.suspended:
                found.append((f"caller steps off path {hop.number}", True))
        if end.hop is None and (core.suspended or not self.accepted):
            for number, slot in enumerate(self.hops):
                if slot is None or self._idle(slot):
                    word = "resumes" if core.opened else "opens again"
                    found.append((f"caller {word} on path {number}", False))
                    break

    def _idle(self, hop: Hop) -> bool:
        if any(end.hop == hop.number for end in self.ends):
            return False
        return not hop.alive or not any(hop.wires)

    def _hop_of(self, end: End) -> Hop | None:
        return None if end.hop is None else self.hops[end.hop]

    # --- doing it -----------------------------------------------------------------------------------

    def apply(self, action: str, fault: bool) -> None:
        """Do one of `actions`, and check what must hold always.

        Raises:
            Broken: it does not.
        """
        first, *words = action.split()
        end = self.ends[WHO.index(first)] if first in WHO else self.caller
        if first == "deliver":
            self._deliver(self.ends[WHO.index(words[1])], int(words[-1]))
        elif first == "cut":
            self.left["cut"] -= 1
            hop = self._hop(int(words[-1]))
            hop.alive = False
            for wire in hop.wires:
                wire.clear()
        elif first == "crash":
            self.left[action] -= 1
            self._crash(self.ends[WHO.index(words[0])])
        else:
            self._program(end, words, fault)
        self.check()

    def _program(self, end: End, words: list[str], fault: bool) -> None:
        core = end.core
        match words:
            case ["notices"]:
                self._lose(end)
            case ["is", "ready"]:
                core.ready(1)
                self._flush(end)
            case ["reads"]:
                self._read(end, 1)
            case ["writes"]:
                end.to_write -= 1
                end.sent += 1
                core.send(_byte(end.sent - 1), 0.0)
                self._flush(end)
            case ["closes"]:
                self._handle(end, core.end(0.0))
            case ["aborts"]:
                self.left["abort"] -= 1
                self._handle(end, core.abort(Code.KILLED, "", 0.0))
            case ["refreshes"]:
                self.left["refresh"] -= 1
                core.refresh(GRANT)
                self._flush(end)
            case ["checkpoints"]:
                self._handle(end, core.tick(core._sending.deadline))
            case ["waits", *_]:
                self.left["outlast"] -= fault
                self._handle(end, core.tick(core._resume_until or core._linger))
            case ["gives", *_]:
                self.left["hasty"] -= 1
                self._put(end, Item("RESET"))
                self._lose(end)
            case ["steps", *_]:
                self.left["move"] -= 1
                self._step_off(end)
            case ["opens", *_, number]:
                self._new_hop(int(number))
                self._say_open(int(number))
            case ["resumes", *_, number]:
                self._new_hop(int(number))
                frame = core.resume(INTENT, (), ())
                end.hop = int(number)
                self._send(end, frame)
            case _:
                raise ValueError(f"nobody knows how to do {words}")

    def _new_hop(self, number: int = 0) -> None:
        self.hops[number] = Hop(number)

    def _hop(self, number: int) -> Hop:
        hop = self.hops[number]
        assert hop is not None
        return hop

    def _say_open(self, number: int) -> None:
        if self.hops[number] is None:
            self._new_hop(number)
        self.said += 1
        self.caller.hop = number
        self._put(self.caller, Item("OPEN"))

    def _put(self, end: End, item: Item) -> None:
        hop = self._hop_of(end)
        if hop is not None and hop.alive:
            hop.wires[end.role].append(item)

    def _send(self, end: End, frame: Any) -> None:
        payload = bytes(frame.payload)
        header = Header(frame.kind, frame.flags, len(payload), 0, frame.sequence)
        self._put(end, Item(frame.kind.name, header, payload, meaning(end.role, header, payload)))

    def _flush(self, end: End) -> None:
        core = end.core
        for frame in core.take():
            self._send(end, frame)
        if core.finished:
            self._leave(end)

    def _leave(self, end: End) -> None:
        self._put(end, Item("RESET"))
        end.hop = None

    def _step_off(self, end: End) -> None:
        """As `_leave`, but what waits on the hop is not said any more: it is said again elsewhere."""
        hop = self._hop_of(end)
        if hop is not None:
            hop.wires[end.role].clear()
        self._leave(end)
        self._handle(end, end.core.path_lost(0.0))

    def _lose(self, end: End) -> None:
        end.hop = None
        if self.accepted or end.role == HOST:
            self._handle(end, end.core.path_lost(0.0))

    def _crash(self, end: End) -> None:
        end.core, end.hop = None, None
        self.restarted = self.restarted or end.role == HOST
        for hop in self.hops:
            if hop is not None:  # the connections of its links are reset
                hop.alive = False
                for wire in hop.wires:
                    wire.clear()

    def _handle(self, end: End, events: list[Any]) -> None:
        for event in events:
            if isinstance(event, Delivered):
                self._take(end, event.data)
            elif isinstance(event, HalfClosed):
                end.heard_end = True
            elif isinstance(event, Over):
                if end.over is not None:
                    raise Broken(f"{WHO[end.role]} ended twice")
                end.over = event
            elif isinstance(event, Opened) and event.boot != 1:
                raise Broken("READY of another boot")
        self._flush(end)

    def _take(self, end: End, data: bytes) -> None:
        who, other = WHO[end.role], self.ends[1 - end.role]
        if end.over is not None:
            raise Broken(f"{who} got bytes after the end")
        if end.heard_end:
            raise Broken(f"{who} got bytes after the other's CLOSE")
        for one in data:
            if end.got >= other.sent or one != _byte(end.got)[0]:
                raise Broken(f"{who} got byte {chr(one)} where {_byte(end.got).decode()} is next")
            end.got += 1
        end.unread += len(data)
        if not self.scenario.slow_reader:
            self._read(end, end.unread)

    def _read(self, end: End, count: int) -> None:
        end.unread -= count
        end.core.consumed(count, 0.0)
        self._flush(end)

    # --- what arrives -------------------------------------------------------------------------------

    def _deliver(self, end: End, number: int) -> None:
        hop = self._hop(number)
        item = hop.wires[1 - end.role].popleft()
        if end.role == HOST:
            self._at_host(end, hop, item)
        elif end.core is not None and end.hop == number:
            self._at_caller(end, item)

    def _at_caller(self, end: End, item: Item) -> None:
        core = end.core
        if item.what == "ACCEPT":
            if self.accepted:
                core.reopened()
            else:
                self.accepted = True
                if self.scenario.early:
                    core.early_sent(EARLY, 0.0)
                if self.scenario.opening == "handshake" or self.said > 1:
                    core.announce(b"flight" if self.scenario.opening == "handshake" else b"")
            self._flush(end)
        elif item.what == "RESET":
            self._lose(end)
        elif item.what == "REFUSE":
            self._lose(end)
            if self.restarted and end.over is None:  # a fresh association shows another boot (C-62)
                self._handle(end, core.unreachable(Code.RESTARTED, ""))
        else:
            self._frame(end, item)

    def _at_host(self, end: End, hop: Hop, item: Item) -> None:
        here = end.hop == hop.number
        if item.what == "OPEN":
            self._opened(end, hop)
        elif item.what == "RESUME":
            self._resumed(end, hop, item)
        elif end.core is None:
            self._turn_away(hop, "RESET")
        elif item.what == "RESET":
            hop.waits = ""
            if here:
                self._lose(end)
        elif here:
            self._frame(end, item)
        elif hop.waits == "arriving":
            self._complete(end, hop, item)
        elif hop.waits == "candidate":
            self._adopt(end, hop, item)

    def _turn_away(self, hop: Hop, what: str) -> None:
        if hop.alive:
            hop.wires[HOST].append(Item(what))

    def _opened(self, end: End, hop: Hop) -> None:
        if end.core is None:
            self._turn_away(hop, "REFUSE")
            return
        hop.wires[HOST].append(Item("ACCEPT"))
        if self.known:
            hop.waits = "candidate"
        elif self.scenario.opening == "handshake":
            hop.waits = "arriving"
        else:
            self.known = True
            end.hop = hop.number
            if self.scenario.early:
                end.core.early_received(b"0", EARLY)
                self._take(end, b"0")
            self._flush(end)

    def _complete(self, end: End, hop: Hop, item: Item) -> None:
        if item.what != "CREDIT" or not item.header.flags & Flag.FLIGHT:
            raise Broken(f"{item.what} came before the handshake was done")
        self.known = True
        for other in self.hops:
            if other is not None and other.waits == "arriving":
                other.waits = ""
                if other is not hop:
                    self._turn_away(other, "RESET")
        end.hop = hop.number
        self._handle(end, end.core.open_credit(item.header, memoryview(item.payload), 0.0))

    def _adopt(self, end: End, hop: Hop, item: Item) -> None:
        hop.waits = ""
        if item.what != "CREDIT":
            self._turn_away(hop, "RESET")
            return
        try:
            events = end.core.adopt(item.header, memoryview(item.payload))
        except FerruleError as error:
            if not end.core.generation:  # else the caller has RESUMEd since it said that (C-15)
                raise Broken(f"the host did not adopt an honest path: {error}") from None
            self._turn_away(hop, "REFUSE")
            return
        self._leave(end)
        end.hop = hop.number
        self._handle(end, events)

    def _resumed(self, end: End, hop: Hop, item: Item) -> None:
        core = end.core
        if core is None or not self.known or not core.opened:
            self._turn_away(hop, "REFUSE")
            return
        try:
            events = core.resumed(item.header, decode(Resume, item.payload), 0.0)
        except (TamperError, ProtocolError) as error:
            # One that the caller has given up came late (C-61); of the others each must be believed.
            if item.meaning[2] >= self.caller.core.generation:
                raise Broken(f"the host did not believe an honest RESUME: {error}") from None
            self._turn_away(hop, "REFUSE")
            return
        self._leave(end)
        end.hop = hop.number
        self._handle(end, events)

    def _frame(self, end: End, item: Item) -> None:
        core = end.core
        if core.finished:
            return
        try:
            events = core.receive(item.header, memoryview(item.payload), 0.0)
        except (TamperError, ProtocolError) as error:
            if core.over is not None:
                return
            raise Broken(f"{WHO[end.role]} took an honest frame amiss: {error}") from None
        self._handle(end, events)

    # --- what must hold -----------------------------------------------------------------------------

    def check(self) -> None:
        """What must hold in every state.

        Raises:
            Broken: it does not.
        """
        for end in self.ends:
            core = end.core
            if core is None:
                continue
            who, half, other = WHO[end.role], core._sending, self.ends[1 - end.role]
            if len(half._kept) > sending.KEPT_FRAMES + 3 or core.kept_bytes > limits.MAX_WINDOW:
                raise Broken(f"{who} keeps {len(half._kept)} frames, {core.kept_bytes} bytes")
            if end.unread > core._receiving.window:
                raise Broken(f"{who} holds {end.unread} bytes that nobody read")
            if (
                other.core is not None
                and half._acknowledged > other.core._receiving._opener.expected
            ):
                raise Broken(f"{who} thinks that frames arrived which did not")
            marks = (
                half._acknowledged, half.limit, core._receiving._opener.expected, core.generation
            )  # fmt: skip
            if any(now < before for now, before in zip(marks, end.marks, strict=True)):
                raise Broken(f"at {who} what was acknowledged went back: {end.marks}, then {marks}")
            end.marks = marks
            self._check_end(end, other)

    def _check_end(self, end: End, other: End) -> None:
        if end.over is None or end.over.code is not Code.NORMAL:
            return
        who = WHO[end.role]
        if not end.heard_end or end.got != other.sent:
            raise Broken(f"{who} ended well with {end.got} of {other.sent} bytes")
        if other.got != end.sent:
            raise Broken(f"{who} ended well, {other.got} of its {end.sent} bytes arrived")

    def complete(self) -> bool:
        """Nothing is to be done any more: all that are alive have ended, and know it."""
        return all(end.core is None or end.core.finished for end in self.ends)

    # --- telling states apart -----------------------------------------------------------------------

    def facts(self) -> tuple[Any, ...]:
        """By which two states are the same: everything on which the future depends.

        Numbers of control keys and generations count by their distance only: what one end uses next, from what the
        other takes next.
        """
        first = [
            0 if end.core is None else end.core._controls._opener.expected for end in self.ends
        ]
        if not all(end.core is None or end.core.opened for end in self.ends):
            first = [0, 0]
        generation = 0 if self.host.core is None else self.host.core.generation
        ends = tuple(
            (
                end.hop, end.to_write, end.sent, end.got, end.unread, end.heard_end,
                end.core and facts_of(end.core, first[1 - end.role], generation),
            )
            for end in self.ends
        )  # fmt: skip
        hops = tuple(
            hop and (hop.alive, hop.waits, *(
                tuple(_told(item, first[1 - role], generation) for item in wire)
                for role, wire in enumerate(hop.wires)
            ))
            for hop in self.hops
        )  # fmt: skip
        return (
            ends, hops, tuple(self.left.values()), self.said > 1, self.accepted, self.known,
            self.restarted,
        )  # fmt: skip

    def __str__(self) -> str:
        lines = []
        for end in self.ends:
            if end.core is None:
                lines.append(f"{WHO[end.role]} dead")
                continue
            half, core = end.core._sending, end.core
            state = "over" if core.over else "suspended" if core.suspended else "running"
            where = "nowhere" if end.hop is None else f"on {end.hop}"
            lines.append(
                f"{WHO[end.role]} {state} {where}: sent {end.sent}, keeps {len(half._kept)}, got {end.got}"
            )
        for hop in self.hops:
            if hop is not None:
                ways = (
                    f"{arrow} {' '.join(map(_short, wire)) or '-'}"
                    for arrow, wire in zip(("→", "←"), hop.wires, strict=True)
                )
                lines.append(
                    f"path {hop.number}{'' if hop.alive else ' (lost)'}: {'  '.join(ways)}"
                )
        return " | ".join(lines)


COUNTED = frozenset(
    {
        # of the circuit
        "opened", "over", "finished", "suspended", "generation", "_linger", "_resume_until", "_answer_awaited",
        "_answer", "_first_credit", "_first_credit_hash", "_controls", "_sending", "_receiving",
        # of its halves
        "_acknowledged", "_kept", "_running", "_sealer", "_since", "closed", "deadline", "kept_bytes", "limit",
        "_consumed", "_due", "_opener", "_repeats", "_told_ack", "_told_limit", "closing",
    }
)  # fmt: skip
"""Attributes that `facts_of` tells apart."""
LEFT_OUT = frozenset(
    {
        "names", "role", "_signing", "_verifying", "_strict",  # never change
        "datagrams",  # none are sent
        "resumes",
        "resent",
        "stalled",  # counts for people
        "_out",  # empty between actions
        "_pace", "_window", "_memory", "_now",  # time stands still, so they never change
        "last",  # follows from what was sent and received
    }
)  # fmt: skip


def facts_of(core: Any, numbered_from: int, generation: int) -> tuple[Any, ...]:
    """One core."""
    half, other = core._sending, core._receiving
    first = core._first_credit
    return (
        core.opened, core.over and core.over.code, core.finished, core.suspended,
        core.generation - generation, core._linger is None, core._resume_until is None,
        core._answer_awaited, core._answer is None, first and (first.sequence, bytes(first.payload)),
        core._first_credit_hash, core._controls._sealer.sequence - numbered_from,
        half._acknowledged, len(half._kept), half._running.size, half._sealer.sequence, half._since,
        half.closed, half.deadline is None, half.limit,
        other._consumed, other._due, other._opener.expected, other._repeats, other._running.size,
        other._since, other._told_ack, other._told_limit, other.closing and other.closing.code,
    )  # fmt: skip


def _told(item: Item, numbered_from: int, generation: int) -> tuple[Any, ...]:
    if item.header is None:
        return (item.what,)
    if not item.meaning:
        return (item.what, item.header.sequence)
    what, number, *rest = item.meaning
    if item.what == "RESUME":
        rest[0] -= generation
    return (what, max(number - numbered_from, -1), *rest)


def _short(item: Item) -> str:
    if item.header is None:
        return item.what
    said = item.meaning[2:] if item.meaning else (item.header.sequence,)
    return f"{item.what}({','.join(map(str, said))})"


def _byte(number: int) -> bytes:
    return bytes((ord("0") + number,))


@contextmanager
def small_numbers(scenario: Scenario) -> Any:
    """With limits so low that few frames reach them."""
    with ExitStack() as stack:
        for module, name, value in (
            (limits, "INITIAL_WINDOW", scenario.window), (limits, "MAX_WINDOW", 4096),
            (limits, "CHECKPOINT_BYTES", 1 << 20), (sending, "SMALL_CREDIT", 1),
            (sending, "KEPT_FRAMES", 3), (receiving, "ACKNOWLEDGE_FRAMES", 2),
        ):  # fmt: skip
            stack.enter_context(patch.object(module, name, value))
        yield
