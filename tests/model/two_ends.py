"""Both ends of one circuit, the hops between them, and all that can happen next: the states that the search visits.

The ends are the real cores (`overlay.circuit`), sealing with the real keys. What stands around them is what the asyncio
side does with hops (`overlay.aio.circuit_driver`, `caller_paths`, `host_paths`, `hosting`), in as few words as
possible. Signatures and SHA-256 are replaced by stand-ins that can be copied and cost nothing. Time stands still but
where an action lets it pass.
"""

from typing import Any

from overlay.crypto.checkpoint import CALLER, HOST
from overlay.errors import Code, FerruleError
from overlay.wire.bodies import Resume, ResumeIntent
from overlay.wire.codec import decode, encode
from overlay.wire.header import Header
from tests.model.arrivals import Arrivals
from tests.model.ends import byte_of
from tests.model.facts import facts_of_state, told
from tests.model.scenario import WHO, Broken, End, Hop, Item
from tests.model.stand_ins import NAMES, meaning

INTENT = encode(ResumeIntent(*NAMES[:5], b""))
GRANT = b"another grant"


class State(Arrivals):
    """Everything. `apply` does one of `actions`."""

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
        if self.questions and self.caller.core is not None:
            found.append(("question arrives", False))
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
        if core._acceptance is not None and not core._acceptance.due:
            found.append(("host accepts", False))
        if end.unread:
            found.append((f"{who} reads", False))
        talks = end.role == CALLER or core.opened
        if talks and end.to_write and end.hop is not None and core.room():
            found.append((f"{who} writes", False))
        if talks and end.will_end and not end.to_write and not core._sending.closed:
            found.append((f"{who} closes", False))
        if self.left["abort"] and core.opened:
            found.append((f"{who} aborts", True))
        if self.left["ask"] and end.role == HOST and core.opened:
            found.append(("host asks", True))
        if self.left["refresh"] and end.role == CALLER and core.opened:
            found.append(("caller refreshes", True))

    def _of_time(self, end: End, found: list[tuple[str, bool]]) -> None:
        who, core, other = WHO[end.role], end.core, self.ends[1 - end.role].core
        due = core._sending.deadline is not None and not core.suspended and end.hop is not None
        if due and self.scenario.checkpoints:
            found.append((f"{who} checkpoints", False))
        if core._credit_at is not None:
            found.append((f"{who} acknowledges", False))
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
            case ["accepts"]:
                core.accept_now()
                self._flush(end)
            case ["reads"]:
                self._read(end, 1)
            case ["writes"]:
                end.to_write -= 1
                end.sent += 1
                core.send(byte_of(end.sent - 1), 0.0)
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
            case ["acknowledges"]:
                self._handle(end, core.tick(core._credit_at))
            case ["waits", *_]:
                self.left["outlast"] -= fault
                self._handle(end, core.tick(core._resume_until or core._linger))
            case ["asks"]:
                self.left["ask"] -= 1
                frame = core.ask(INTENT, ())
                payload = bytes(frame.payload)
                header = Header(frame.kind, frame.flags, len(payload), 0, frame.sequence)
                self.questions.append(
                    Item("RESUME", header, payload, meaning(HOST, header, payload))
                )
            case ["arrives"]:
                self._asked(end, self.questions.popleft())
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

    def _asked(self, end: End, item: Item) -> None:
        core = end.core
        try:
            wanted = core.asked(item.header, decode(Resume, item.payload))
        except FerruleError as error:
            raise Broken(f"the caller took an honest question for forged: {error}") from None
        if wanted and end.hop is not None and end.over is None:
            self._step_off(end)

    def facts(self) -> tuple[Any, ...]:
        """By which two states are the same."""
        return facts_of_state(self)

    def __str__(self) -> str:
        return told(self)
