"""The links over which one circuit of a caller is said: which is next, how long its answer is awaited, RESUME (C-17,
C-60 to C-63).
"""

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

from overlay.aio.caller_table import CallerTable
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.node_circuits import NodeCircuits
from overlay.circuit.caller import CallerOpening, Wish
from overlay.circuit.lane_choice import LaneChoice
from overlay.circuit.link_choice import steps_away
from overlay.errors import Code, FerruleError, ProtocolError
from overlay.link.load import COSTS
from overlay.wire.bodies import Resume
from overlay.wire.codec import encode
from overlay.wire.header import Header, Kind

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver

SILENT_SECONDS = 2.0
"""For ACCEPT, or for the answer to RESUME at last: then the same is said over another link."""
RESUME_SECONDS = 0.5
"""For the answer to the first RESUME after a path was lost; twice as long for each further one: the router that is
asked may not know yet which ways are lost."""
LINKLESS_SECONDS = 3.0
"""A circuit that is being opened when the last link is gone waits so long for another: a router that was restarted is
dialed again within `ROUTER_RETRY`. A program that polls learns of a longer outage at once and asks again by itself."""
_BACK_OFF = 0.05
_BACK_OFF_MAX = 2.0
_DOUBLINGS = 8  # far beyond the maximum; a circuit may live for years


class CallerPaths:
    """What `overlay.aio.calling.Outgoing` is made of.

    Args:
        node: whose circuit it is.
        callers: what it shares with the node's other outgoing circuits.
        stream: the circuit.
        wish: what is wanted.
        links: try these first.
    """

    def __init__(
        self,
        node: NodeCircuits,
        callers: CallerTable,
        stream: CircuitStream,
        wish: Wish,
        links: tuple["LinkDriver", ...],
    ) -> None:
        self.wish = wish
        self.stream = stream
        self._node = node
        self._callers = callers
        self._links = links
        self._loop = asyncio.get_running_loop()
        self._opening: CallerOpening | None = None
        self._hop: tuple[LinkDriver, int] | None = None
        """Where OPEN was said and not yet answered."""
        self._tried: set[LinkDriver] = set()
        self._refused_by: set[LinkDriver] = set()
        self.choice: LaneChoice | None = None
        self.pause_until = 0.0
        self.went_back_to: LinkDriver | None = None
        self._leaves: LinkDriver | None = None
        self._tries = 0
        self._silent = 0
        self._resumes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._patience: asyncio.TimerHandle | None = None

    @property
    def handshake_key(self) -> bytes:
        """Openings of one key wait for each other's handshake (C-05)."""
        return self.wish.grant or self.wish.service.encode()

    def begin(self) -> None:
        """Open, or go on opening."""
        raise NotImplementedError

    def frame(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """A frame of the hop on which OPEN was said."""
        raise NotImplementedError

    def _fail(self, code: Code, reason: str) -> None:
        raise NotImplementedError

    def _next(self) -> None:
        """Say it on a link: the OPEN as it was, or RESUME."""
        self._cancel()
        link = self._choose()
        if link is None and self.wish.enrol:
            self._fail(Code.PATH_LOST, "the link for enrolling is gone")
        elif link is None:
            self._callers.linkless.add(self)
            if not self.stream.is_open:
                self._timer = self._loop.call_later(LINKLESS_SECONDS, self._linkless)
        elif (
            link in self._tried and self._tries
        ):  # every link has led to nothing since the last pause
            delay = min(_BACK_OFF_MAX, _BACK_OFF * 2 ** min(self._tries, _DOUBLINGS))
            self._tried.clear()
            self._timer = self._loop.call_later(delay * (0.5 + self._node.uniform()), self._next)
            self._tries += 1
        else:
            self._tries += link in self._tried
            self._say(link)

    def _choose(self) -> "LinkDriver | None":
        """The links that were asked for first, then any other, since all lead to the host (C-66)."""
        links = self._usable(self._links if self.wish.enrol else self._node.links())
        failed, service, first = self._callers.failed_at, self.wish.service, self._links
        return min(
            links,
            key=lambda link: (
                link in self._tried,
                link not in first,
                not link.sound,
                failed(link, service),
                steps_away(link.round_trip, link.total_backlog, COSTS[link.load] / 1e6),
            ),
            default=None,
        )

    def _usable(self, links: "Iterable[LinkDriver]") -> "list[LinkDriver]":
        return [
            link
            for link in links
            if not link.over and not link.going_away and link not in self._refused_by
        ]

    def _say(self, link: "LinkDriver") -> None:
        stream, opening = self.stream, self._opening
        if opening is None:
            return
        host = () if opening.association is None else (opening.association.peer.identity.name,)
        own = self._node.name
        path = (own,) if own else ()
        stream.path = (*path, link.name) if link.name else path
        core = stream.core
        if core is not None and core.opened:
            # Who was silent on one link says nothing of another: patience grows when all have been tried.
            rounds = self._silent // max(1, len(self._usable(self._node.links())))
            self._wait(link, min(SILENT_SECONDS, RESUME_SECONDS * 2 ** min(rounds, _DOUBLINGS)))
            say_resume(stream, link, host, path)
            return
        self._wait(link, SILENT_SECONDS)
        number = link.next_circuit()
        self._hop = (link, number)
        self._node.bind(link, number, self)
        link.send(Kind.OPEN, number, opening.payload(host, path))

    def _wait(self, link: "LinkDriver", seconds: float) -> None:
        """Be patient with this link for so long."""
        if self._patience is not None:
            self._patience.cancel()
        self._patience = self._loop.call_later(seconds, self._unheard, link, seconds)

    def _unheard(self, link: "LinkDriver", seconds: float) -> None:
        """Nothing came back: where there is another link the same is said there (C-17, C-60)."""
        stream, core = self.stream, self.stream.core
        if stream.closed.done() or (core is not None and core.opened and not core.suspended):
            return
        self._callers.silent(link)
        self._silent += 1
        others = self._links if self.wish.enrol else self._node.links()
        # A RESUME is said again in any case: the only router may know of a better way by now.
        again = core is not None and core.opened
        if again or self._usable(one for one in others if one is not link):
            if self._hop is not None and self._hop[0] is link:
                self._drop_hop()
                self._lost(link)
            else:
                stream.at_owner(give_up_hop, stream, link)
            return
        self._wait(link, seconds)

    # --- lanes --------------------------------------------------------------------------------------

    def to_lane(self, link: "LinkDriver") -> None:
        """Go on over this link of a bulk lane (C-65); home has the circuit, which is open."""
        stream, core = self.stream, self.stream.core
        if core is None:
            return
        self._cancel()
        self._wait(link, SILENT_SECONDS)
        own = self._node.name
        stream.path = path = (own, link.name)
        stream.step_off()
        there = self._node.hops_of(link)
        stream.hand_over(there, say_resume, stream, link, (core.names.host,), path[:1])

    def to_express(self) -> None:
        """Come back from a bulk lane."""
        self.stream.at_owner(self._step_back)

    def _step_back(self) -> None:
        """On the bulk loop."""
        stream = self.stream
        if stream.link is not None and stream.outcome is None:  # else it is on its way already
            stream.step_off()
            stream.hand_over(stream.owner.home, self._returned)

    def _returned(self) -> None:
        if self._node.lanes is not None:
            self._node.lanes.came_back(self, None, Code.NORMAL)
        if not self.stream.closed.done():
            self._next()

    def host_asks(self, header: Header, body: Resume) -> None:
        """The host says that it lost the path, or doubts it (C-64); on the loop that owns the circuit."""
        stream, core = self.stream, self.stream.core
        if core is None:
            return
        try:
            wanted = core.asked(header, body)
        except FerruleError as error:
            code = error.code if isinstance(error, ProtocolError) else Code.TAMPER
            stream.at_home(self._node.security, code, str(error), stream)
            return
        if wanted and stream.link is not None:
            leave_hop(stream, stream.link)
        elif wanted:
            stream.at_home(self.link_up)  # it waits for its next attempt: that is now

    def evacuate(self, link: "LinkDriver") -> None:
        """This link is not sound any more, and another one is: go on there, if this is where the circuit is."""
        stream = self.stream
        if self.wish.enrol or stream.closed.done():
            return
        if self._hop is None:
            stream.at_owner(leave_hop, stream, link)
        elif self._hop[0] is link:
            self._drop_hop()
            self._lost(link)

    def go_back(self, here: "LinkDriver", to: "LinkDriver") -> None:
        """Another link is nearer than the one where the circuit is (C-67). Where it leads nowhere this one is next."""
        self.went_back_to, self._leaves = to, here
        self.evacuate(here)

    def lose(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """Target: the link of the OPEN is gone."""
        self._hop = None
        self._lost(link)

    def _lost(self, link: "LinkDriver") -> None:
        if not self.stream.closed.done():
            self._led_nowhere(link)

    def _led_nowhere(self, link: "LinkDriver") -> None:
        """Another link goes first; where all have led nowhere since the last loss was mended they wait, ever longer."""
        core = self.stream.core
        if core is not None and core.resumes != self._resumes:
            self._resumes = core.resumes
            self._silent = self._tries = 0
            self._tried.clear()
        if link is self._leaves:  # it leads to the host, as the next one may not
            self._leaves = None
        else:
            self._tried.add(link)
        self._next()

    def link_up(self) -> None:
        """A link came up while this one waited for any."""
        stream = self.stream
        # Elsewhere it is on its way home, and goes on from there.
        if self._hop is None and stream.at_home_now and not stream.closed.done():
            self._refused_by.clear()
            self._next()

    def _give_up_paths(self) -> None:
        """The circuit is over."""
        self._drop_hop()
        self._cancel()
        if self._patience is not None:
            self._patience.cancel()

    def _linkless(self) -> None:
        """No router came back in time."""
        self._fail(Code.PATH_LOST, "no router is reachable at the moment")

    def _drop_hop(self) -> None:
        if self._hop is not None:
            link, number = self._hop
            self._hop = None
            self._node.free(link, number)

    def _cancel(self) -> None:
        self._callers.linkless.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def say_resume(
    stream: CircuitStream, link: "LinkDriver", host: tuple[str, ...], path: tuple[str, ...]
) -> None:
    """RESUME on a new hop (C-60); on the loop that link and circuit belong to."""
    core = stream.core
    if core is None:
        return
    intent = core.names.resume_intent(stream.grant_bytes)
    stream.resumed_under = intent.grant
    number = link.next_circuit()
    frame = core.resume(encode(intent), host, path)
    sent = link.send(Kind.RESUME, number, frame.payload, sequence=frame.sequence)
    stream.place(link, number)
    if not sent:
        stream.lose(link, Code.PATH_LOST, "the link is gone")


def give_up_hop(stream: CircuitStream, link: "LinkDriver") -> None:
    """Nobody answers a RESUME on this link; on the loop that owns the circuit."""
    core = stream.core
    if stream.link is link and core is not None and (core.suspended or not core.opened):
        link.reset(stream.number, Code.NORMAL)
        stream.lose(link, Code.PATH_LOST, "")


def leave_hop(stream: CircuitStream, link: "LinkDriver") -> None:
    """Give up this hop for a better one; on the loop that owns the circuit. One that only waits to be over stays."""
    if stream.link is link and stream.outcome is None:
        link.reset(stream.number, Code.NORMAL, discard=True)
        stream.lose(link, Code.PATH_LOST, "")
