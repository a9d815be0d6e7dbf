"""Both ends of one circuit and the hops between them, as far as each does its part: what it says, takes and keeps."""

from collections import deque
from typing import Any

from overlay import limits
from overlay.circuit import sending
from overlay.circuit.acceptance import Acceptance
from overlay.circuit.events import Delivered, HalfClosed, Opened, Over
from overlay.crypto.checkpoint import CALLER, HOST
from overlay.errors import Code
from overlay.wire.header import Flag, Header
from tests.model.scenario import WHO, Broken, End, Hop, Item, Scenario
from tests.model.stand_ins import meaning

HOPS = 2
"""So many paths there are at once."""


class Ends:
    """All that a state is made of."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.ends = (End(CALLER, scenario), End(HOST, scenario))
        self.hops: list[Hop | None] = [None] * HOPS
        self.left = {
            "cut": scenario.cuts, "hasty": scenario.hasty, "move": scenario.moves,
            "crash caller": scenario.crashes[0], "crash host": scenario.crashes[1],
            "abort": scenario.aborts, "outlast": scenario.outlasted, "refresh": scenario.refreshes,
            "ask": scenario.asks,
        }  # fmt: skip
        self.questions: deque[Item] = deque()
        """Of the host, on hops of their own, which never become a path."""
        self.said = 0
        """How often OPEN was said."""
        self.accepted = False
        self.first_accept = b""
        self.known = not scenario.opening
        """The host has the circuit."""
        self.restarted = False
        self.acceptance = Acceptance(b"2" * 32, due=not scenario.early)
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

    def _hop_of(self, end: End) -> Hop | None:
        return None if end.hop is None else self.hops[end.hop]

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
        if hop is None or not hop.alive:
            return
        said, heard = hop.said[end.role], hop.heard[end.role]
        if said and (item.what != "RESET" or heard):
            return  # the link says nothing more
        hop.said[end.role] = item.header is not None and bool(item.header.flags & Flag.LAST)
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
            if end.got >= other.sent or one != byte_of(end.got)[0]:
                raise Broken(f"{who} got byte {chr(one)} where {byte_of(end.got).decode()} is next")
            end.got += 1
        end.unread += len(data)
        if not self.scenario.slow_reader:
            self._read(end, end.unread)

    def _read(self, end: End, count: int) -> None:
        end.unread -= count
        end.core.consumed(count, 0.0)
        self._flush(end)

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


def byte_of(number: int) -> bytes:
    """What a program writes as its so many-th byte."""
    return bytes((ord("0") + number,))
