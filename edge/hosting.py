"""Circuits of others to the assets behind this edge: decide, dial, carry, record (docs/protocol/audit.md,
U-06, U-07).
"""

import asyncio
from collections.abc import Callable

from edge.events import Events
from edge.host import tcp, udp
from edge.host.base import Place, place_of
from edge.kill import LocalSwitch
from overlay.aio.circuit_roles import CircuitEnd, Refused
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.incoming import Incoming
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.audit.event import Outcome
from overlay.control.messages import HostedEntry
from overlay.errors import Code
from overlay.wire.bodies import STREAM


class Hosting:
    """What this edge hosts.

    Args:
        room: whether the audit takes events of new circuits (U-09).
        opened: told each circuit that is carried, for enforcement.
    """

    def __init__(
        self,
        world: World,
        events: Events,
        switch: LocalSwitch,
        room: Callable[[], bool],
        opened: Callable[[CircuitStream], None],
    ) -> None:
        self._world = world
        self._events = events
        self._switch = switch
        self._room = room
        self._opened = opened
        self._entries: dict[str, HostedEntry] = {}
        self._dialing: set[asyncio.Task[None]] = set()
        self._carried: dict[CircuitStream, Place] = {}

    def assign(self, entries: tuple[HostedEntry, ...]) -> None:
        """What is hosted from now on. A circuit goes on as long as its service is where the circuit leads (G-05)."""
        self._entries = {entry.service: entry for entry in entries}
        for stream, place in list(self._carried.items()):
            self._cut_if_moved(stream, place)

    def incoming(self, incoming: Incoming) -> None:
        """A circuit asks; grant and certificate hold."""
        place = self._place(incoming)
        if isinstance(place, Place):
            self._dialing.add(task := spawn(self._carry(incoming, place), incoming.service))
            task.add_done_callback(self._dialing.discard)
        else:
            self._refuse(incoming, Outcome.DENIED, "", *place)

    def _place(self, incoming: Incoming) -> Place | tuple[Code, str]:
        objection = self._switch.objection()
        if objection is not None:
            return objection
        if not self._room():
            return Code.BUSY, "the audit spool of the hosting edge is full"
        entry = self._entries.get(incoming.service)
        if entry is None or entry.transport != incoming.transport:
            return Code.NO_ROUTE, f"this edge does not host {incoming.service}"
        return place_of(entry, incoming.port)

    async def close(self) -> None:
        """Dial nothing more."""
        await cancel(*self._dialing)

    async def _carry(self, incoming: Incoming, place: Place) -> None:
        carry = tcp.carry if incoming.transport == STREAM else udp.carry
        try:
            stream = await carry(self._world, place, incoming)
        except tcp.UnreachableError as error:
            self._refuse(incoming, Outcome.FAILED, str(place), Code.UNREACHABLE, str(error))
            return
        except Refused as error:
            self._events.refused(incoming, Outcome.FAILED, str(place), error.reason or "given up")
            return
        self._events.opened(stream, str(place))
        stream.on_moved = lambda: self._events.moved(stream, str(place))
        self._opened(stream)

        def closed(end: "asyncio.Future[CircuitEnd]") -> None:
            self._events.closed(stream, str(place), end.result())

        stream.closed.add_done_callback(closed)
        self._carried[stream] = place
        stream.closed.add_done_callback(lambda _: self._carried.pop(stream, None))
        self._cut_if_moved(stream, place)

    def _cut_if_moved(self, stream: CircuitStream, place: Place) -> None:
        """Nobody reaches what is at the old place now under the name of the service."""
        entry = self._entries.get(stream.service)
        moved = (
            entry is None
            or entry.transport != stream.transport
            or entry.address != place.host
            or not entry.port <= place.port <= entry.port_end
        )
        if moved and not stream.closed.done():
            stream.abort(Code.WITHDRAWN, f"{stream.service} is not at {place} any more")

    def _refuse(
        self, incoming: Incoming, outcome: Outcome, address: str, code: Code, reason: str
    ) -> None:
        self._events.refused(incoming, outcome, address, reason)
        incoming.refuse(code, reason)
