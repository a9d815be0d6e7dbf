"""What an end does with what arrives over a hop."""

from typing import Any

from overlay import limits
from overlay.crypto.checkpoint import HOST
from overlay.errors import Code, FerruleError, LateError, ProtocolError, TamperError
from overlay.wire.bodies import Accept, Resume
from overlay.wire.codec import decode
from overlay.wire.header import Flag, Header, Kind
from tests.model.ends import Ends
from tests.model.scenario import WHO, Broken, End, Hop, Item

EARLY = b"0" + bytes(limits.TAG_SIZE)


class Arrivals(Ends):
    """`_deliver` hands the oldest thing on a wire to an end."""

    def _deliver(self, end: End, number: int) -> None:
        hop = self._hop(number)
        item = hop.wires[1 - end.role].popleft()
        if hop.heard[end.role] and item.what != "RESET":
            raise Broken(f"{item.what} came after what {WHO[1 - end.role]} called its last")
        hop.heard[end.role] = item.header is not None and bool(item.header.flags & Flag.LAST)
        if end.role == HOST:
            self._at_host(end, hop, item)
        elif end.core is not None and end.hop == number:
            self._at_caller(end, item)

    def _at_caller(self, end: End, item: Item) -> None:
        core = end.core
        if item.what == "ACCEPT":
            events: list[Any] = []
            if self.accepted:
                if item.payload != self.first_accept:
                    raise Broken("an OPEN that was repeated got another ACCEPT")
                core.reopened(0.0)
            else:
                self.first_accept = item.payload
                self.accepted = True
                if self.scenario.early:
                    core.early_sent(EARLY, 0.0)
                if item.payload:
                    events = self._along(core, decode(Accept, item.payload))
                if self.scenario.opening == "handshake" or self.said > 1:
                    core.announce(b"flight" if self.scenario.opening == "handshake" else b"")
            self._flush(end)
            self._handle(end, events)
        elif item.what == "RESET":
            self._lose(end)
        elif item.what == "REFUSE":
            self._lose(end)
            if self.restarted and end.over is None:  # a fresh association shows another boot (C-62)
                self._handle(end, core.unreachable(Code.RESTARTED, "", 0.0))
        else:
            self._frame(end, item)

    def _along(self, core: Any, body: Accept) -> list[Any]:
        """What came with ACCEPT."""
        try:
            return list(core.accepted(body.ready, body.data, 0.0)) if body.ready else []
        except (TamperError, ProtocolError) as error:
            raise Broken(f"the caller took an honest ACCEPT amiss: {error}") from None

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
        if self.scenario.opening == "handshake":
            hop.wires[HOST].append(Item("ACCEPT"))
            hop.waits = "candidate" if self.known else "arriving"
        elif (
            self.known and self.acceptance.gone
        ):  # the caller showed that it has it: this OPEN is late
            self._turn_away(hop, "RESET")
        elif self.known:
            payload = self.acceptance.said()
            hop.wires[HOST].append(Item("ACCEPT", Header(Kind.ACCEPT, 0, 0, 0, 0), payload))
            hop.waits = "candidate"
        else:
            self.known = True
            end.hop = hop.number
            end.core.accept(self.acceptance)
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
            events = end.core.adopt(item.header, memoryview(item.payload), 0.0)
        except LateError as late:
            if not end.core.generation:  # else the caller has RESUMEd since it said that (C-15)
                raise Broken(f"the host did not adopt an honest path: {late}") from None
            self._turn_away(hop, "RESET")
            return
        except FerruleError as error:
            raise Broken(f"the host took an honest CREDIT for forged: {error}") from None
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
        except LateError as late:
            # One that the caller has given up came late (C-61); of the others each must be believed.
            if item.meaning[2] >= self.caller.core.generation:
                raise Broken(f"the host did not believe an honest RESUME: {late}") from None
            self._turn_away(hop, "RESET")
            return
        except (TamperError, ProtocolError) as error:
            raise Broken(f"the host took an honest RESUME for forged: {error}") from None
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
