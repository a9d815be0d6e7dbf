"""Circuits of others to the assets behind this edge: decide, dial, carry, record (docs/protocol/audit.md,
U-06, U-07).
"""

import asyncio
import ipaddress
from collections.abc import Callable

from edge.events import Events
from edge.host import echo, ping_socket, tcp, udp
from edge.host.base import Place, host_of, is_in, place_of
from edge.host.foreign import ForeignAddresses, ForeignError
from edge.kill import LocalSwitch
from overlay.aio.circuit_roles import CircuitEnd, Refused
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.incoming import Incoming
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.audit.event import Outcome
from overlay.control.messages import HostedEntry
from overlay.errors import Code
from overlay.wire.bodies import DATAGRAMS, ECHO_SERVICE, STREAM


class Hosting:
    """What this edge hosts.

    Args:
        foreign: callers' own addresses towards assets.
        room: whether the audit takes events of new circuits (U-09).
        opened: told each circuit that is carried, for enforcement.
        ping: makes a socket that pings an asset.
    """

    def __init__(
        self,
        world: World,
        events: Events,
        switch: LocalSwitch,
        foreign: ForeignAddresses,
        room: Callable[[], bool],
        opened: Callable[[CircuitStream], None],
        ping: echo.OpenPing = ping_socket.open_ping,
    ) -> None:
        self._ping = ping
        self._world = world
        self._events = events
        self._switch = switch
        self._foreign = foreign
        self._room = room
        self._opened = opened
        self.inside: dict[str, Callable[[CircuitStream], None]] = {}
        """Services that this very program hosts: nothing is dialled for them (`edge.library`)."""
        self._entries: dict[str, HostedEntry] = {}
        self._dialing: dict[asyncio.Task[None], tuple[CircuitStream, Place]] = {}
        self._carried: dict[CircuitStream, Place] = {}

    def assign(self, entries: tuple[HostedEntry, ...]) -> None:
        """What is hosted from now on. A circuit goes on as long as its service is where the circuit leads (G-05); one
        whose asset is being dialled is refused at once, so that nothing is delivered of what its caller said early.
        """
        self._entries = {entry.service: entry for entry in entries}
        for stream, place in [*self._carried.items(), *self._dialing.values()]:
            self._cut_if_moved(stream, place)

    def incoming(self, incoming: Incoming) -> None:
        """A circuit asks; grant and certificate hold."""
        place = self._place(incoming)
        if isinstance(place, Place):
            # Told now: the entry may be gone before the task begins.
            carrying = self._carry(incoming, place, self._entries[_hosted_as(incoming)])
            task = spawn(carrying, incoming.service)
            self._dialing[task] = (incoming.stream, place)
            task.add_done_callback(lambda _: self._dialing.pop(task, None))
        else:
            self._refuse(incoming, Outcome.DENIED, "", *place)

    def _place(self, incoming: Incoming) -> Place | tuple[Code, str]:
        objection = self._switch.objection()
        if objection is not None:
            return objection
        if not self._room():
            return Code.BUSY, "the audit spool of the hosting edge is full"
        entry = self._entries.get(_hosted_as(incoming))
        if entry is None:
            return Code.NO_ROUTE, f"this edge does not host {_hosted_as(incoming)}"
        if incoming.service == ECHO_SERVICE:
            if incoming.transport != DATAGRAMS or incoming.port:
                return Code.BAD_GRANT, "echo requests are datagrams, and to no port"
            host = host_of(entry, incoming.address)
            return Place(host, 0) if isinstance(host, str) else host
        if entry.transport != incoming.transport:
            return Code.NO_ROUTE, f"this edge does not host {incoming.service}"
        return place_of(entry, incoming.port, incoming.address)

    async def close(self) -> None:
        """Dial nothing more."""
        await cancel(*self._dialing)

    async def _carry(self, incoming: Incoming, place: Place, entry: HostedEntry) -> None:
        try:
            if incoming.service == ECHO_SERVICE:
                stream = await echo.carry(self._ping, place, incoming)
            elif incoming.transport == STREAM and incoming.service in self.inside:
                stream = await incoming.accept()
            else:
                carry = tcp.carry if incoming.transport == STREAM else udp.carry
                source = self._foreign.of(entry, incoming.grant)
                stream = await carry(self._world, place, incoming, source)
        except (tcp.UnreachableError, ForeignError) as error:
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
        take = self.inside.get(stream.service)
        if take is not None and stream.transport == STREAM:
            take(stream)

    def _cut_if_moved(self, stream: CircuitStream, place: Place) -> None:
        """Nobody reaches what is at the old place now under the name of the service."""
        entry = self._entries.get(_hosted_as(stream))
        moved = (
            entry is None
            or not _is_at(entry.address, place.host)
            or (stream.service != ECHO_SERVICE and not _leads_to(entry, stream.transport, place))
        )
        if moved and not stream.closed.done():
            stream.abort(Code.WITHDRAWN, f"{stream.service} is not at {place} any more")

    def _refuse(
        self, incoming: Incoming, outcome: Outcome, address: str, code: Code, reason: str
    ) -> None:
        self._events.refused(incoming, outcome, address, reason)
        incoming.refuse(code, reason)


def _hosted_as(circuit: Incoming | CircuitStream) -> str:
    """The hosted service whose place a circuit leads to."""
    if circuit.service == ECHO_SERVICE and circuit.grant is not None:
        return circuit.grant.service
    return circuit.service


def _is_at(address: str, host: str) -> bool:
    """Whether a service at an address or in a subnet is still where a circuit leads."""
    return is_in(ipaddress.ip_address(host), address) if "/" in address else address == host


def _leads_to(entry: HostedEntry, transport: int, place: Place) -> bool:
    return entry.transport == transport and entry.port <= place.port <= entry.port_end
