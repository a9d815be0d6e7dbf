"""The bulk loop of a node: its links on bulk lanes, and the circuits that are there (ADR 5, L-08).

Everything here runs on that loop. What a node keeps at home (who has which circuit, grants, audit, the futures of
programs) it does not touch: it posts. A circuit without a path goes home, since only there another is found.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.circuit_roles import CircuitEnd, StreamOwner
from overlay.aio.hops import Hops
from overlay.aio.node_links import last_words
from overlay.aio.world import EventLoop
from overlay.circuit.memory import Memory
from overlay.errors import Code
from overlay.wire.bodies import LinkControl
from overlay.wire.header import Header, Kind

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver

GOODBYE_SECONDS = 0.02
"""In which the last frames leave."""
RESUMES_AT_ONCE = 256
"""RESUMEs of all bulk links that the home loop has not judged yet."""

Resume = Callable[["LinkDriver", Header, memoryview], None]
Told = Callable[["LinkDriver", bool], None]


class BulkCircuits(Hops, StreamOwner):
    """Implements `LinkOwner` for the links of bulk lanes.

    Args:
        loop: the bulk loop.
        memory: what its circuits hold, of the node's budget.
        home: what the node keeps on its home loop.
        resume: home loop: judges a RESUME on a hop that is new.
        told: home loop: gets each link with True when it comes up and False when it is gone.
        health: home loop: gets each link whose `sound` has changed.
    """

    def __init__(
        self,
        loop: EventLoop,
        memory: Memory,
        home: StreamOwner,
        resume: Resume,
        told: Told,
        health: "Callable[[LinkDriver], None]",
    ) -> None:
        super().__init__(loop)
        self.memory = memory
        self._home = home
        self._resume = resume
        self._told = told
        self._health = health
        self._unjudged = 0

    @property
    def home(self) -> StreamOwner:
        """StreamOwner."""
        return self._home

    async def idle(self) -> None:
        """Return; who runs it here knows that what was posted before is done."""

    async def end(self) -> None:
        """End all links, once what waits on them has left or has had its time."""
        await last_words(self.links())
        for link in self.links():
            link.goodbye(Code.NORMAL, "the node is stopping")
        await asyncio.sleep(GOODBYE_SECONDS)

    # --- LinkOwner ----------------------------------------------------------------------------------

    def link_up(self, link: "LinkDriver") -> None:
        """LinkOwner."""
        self._links[link] = {}
        self._home.post(self._told, link, True)  # noqa: FBT003 - up

    def began(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """Hops: home judges who it is for."""
        if header.kind is Kind.RESUME:
            if self._unjudged >= RESUMES_AT_ONCE:
                self.turn_away(link, header.circuit, Code.BUSY, "too many circuits come at once")
                return
            self._unjudged += 1
            self._home.post(self._judge, link, header, bytes(payload))

    def control(self, link: "LinkDriver", body: LinkControl) -> None:
        """LinkOwner: a bulk lane carries none (L-08)."""

    def link_down(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """LinkOwner."""
        self.lose(link, reason)
        self._home.post(self._told, link, False)  # noqa: FBT003 - down

    def health(self, link: "LinkDriver") -> None:
        """LinkOwner: which circuits have a better place is known at home."""
        self._home.post(self._health, link)

    def _judge(self, link: "LinkDriver", header: Header, payload: bytes) -> None:
        """Home loop."""
        self._resume(link, header, memoryview(payload))
        self.post(self._judged)

    def _judged(self) -> None:
        self._unjudged -= 1

    # --- StreamOwner --------------------------------------------------------------------------------

    def confirmed(self, stream: CircuitDriver, boot: int | None) -> None:
        """StreamOwner: a circuit comes here only when it is open."""

    def pathless(self, stream: CircuitDriver, link: "LinkDriver", code: Code, reason: str) -> None:
        """StreamOwner."""
        stream.give(self._home, self._home.pathless, stream, link, code, reason)

    def refreshed(self, stream: CircuitDriver, grant: bytes) -> None:
        """StreamOwner."""
        self._home.post(self._home.refreshed, stream, grant)

    def refresh(self, stream: CircuitDriver, grant: bytes) -> None:
        """StreamOwner, which programs call: on the home loop."""
        self._home.refresh(stream, grant)

    def fault(self, stream: CircuitDriver, code: Code, reason: str) -> None:
        """StreamOwner."""
        self._home.post(self._home.fault, stream, code, reason)

    def ended(self, stream: CircuitDriver, end: CircuitEnd) -> None:
        """StreamOwner."""
        self._home.post(self._home.ended, stream, end)

    def finished(self, stream: CircuitDriver) -> None:
        """StreamOwner."""
        stream.give(self._home, self._home.finished, stream)
