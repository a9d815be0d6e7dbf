"""What waits on the hosting side: circuits that ask, handshakes that go on, hops that may become a path,
circuits that ended.
"""

import asyncio
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from overlay import limits
from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.circuit_roles import Refused
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.node_circuits import NodeCircuits
from overlay.circuit.host import HostHandshake
from overlay.errors import Code, LateError, ProtocolError, TamperError
from overlay.policy.grant import Grant
from overlay.wire.header import Header, Kind

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver

ACCEPT_WITHIN = 0.005
"""So long ACCEPT may wait for the asset, seconds (C-14)."""
ACCEPTS_WAITING = limits.OPENS_PENDING_PER_LINK
"""Beyond that the oldest waits no longer."""
ENDED_CIRCUITS = 1024
ENDED_BYTES = 16 * 1024 * 1024
ENDED_SECONDS = 30.0
"""What is kept of ended circuits, so that a caller that missed the end can still learn it (C-62)."""


class Declined(NamedTuple):
    """A circuit that this node refused before anybody was asked. `via` is what the path or certificate says."""

    circuit_id: bytes
    service: str
    grant: Grant | None
    via: str
    path: tuple[str, ...]
    code: Code
    reason: str


class HostingSide(Protocol):
    """Who decides what becomes of those that wait (`overlay.aio.hosting.Hosting`)."""

    def objection(self, grant: Grant | None, asks: CircuitStream) -> tuple[Code, str] | None:
        """What the grant says now (G-01)."""
        ...

    def answered(self, circuit_id: bytes) -> None:
        """The program has decided, or the caller is gone."""
        ...

    def complete(
        self, arriving: "Arriving", link: "LinkDriver", header: Header, payload: memoryview
    ) -> None:
        """The caller's last flight, or what pretends to be it."""
        ...

    def too_slow(self, arriving: "Arriving") -> None:
        """C-05: its time is over."""
        ...

    def unbind(self, link: "LinkDriver", number: int) -> None:
        """The hop is gone."""
        ...

    def free(self, link: "LinkDriver", number: int) -> None:
        """The hop is of no use."""
        ...

    def came_late(self) -> None:
        """That was a path which the caller has given up since."""
        ...

    def refuse(self, link: "LinkDriver", number: int, code: Code, reason: str) -> None:
        """REFUSE in clear, and a security event."""
        ...


class Incoming:
    """A circuit that asks for a service of this node. Grant and certificate hold already; answer with one of
    the two.
    """

    def __init__(
        self,
        node: NodeCircuits,
        hosting: HostingSide,
        stream: CircuitStream,
        port: int,
        address: bytes,
        public: bytes,
    ) -> None:
        self.circuit_id = stream.circuit_id
        self.grant = stream.grant
        self.caller = stream.peer
        self.caller_public = public
        self.service = stream.service
        self.port = port
        self.address = address
        self.integrity = stream.integrity
        self.transport = stream.transport
        self.path = stream.path
        self.key_exchange = stream.key_exchange
        self.stream = stream
        self._node = node
        self._hosting = hosting

    def exporter(self, label: str) -> bytes:
        """As `CircuitStream.exporter`."""
        return self.stream.exporter(label)

    async def accept(self) -> CircuitStream:
        """Say READY.

        Raises:
            Refused: the circuit is over meanwhile, or its grant.
        """
        self._hosting.answered(self.circuit_id)
        stream = self.stream
        objection = self._hosting.objection(stream.grant, stream)
        if objection is not None:
            # Its time came while the asset was dialled; what the caller said early must not be delivered any more.
            stream.abort(*objection)
        if stream.closed.done() or stream.core is None:
            end = stream.closed.result()
            raise Refused(end.code, end.reason)
        stream.started = self._node.plant_now()
        stream.core.ready(self._node.boot)
        stream.opened_now()
        return stream

    def refuse(self, code: Code, reason: str) -> None:
        """Say why not, sealed."""
        self._hosting.answered(self.circuit_id)
        self.stream.abort(code, reason)


class Arriving:
    """A handshake that waits for the caller's last flight, on one or more hops."""

    def __init__(
        self,
        hosting: HostingSide,
        handshake: HostHandshake,
        key: tuple[bytes, "LinkDriver | None"],
        path: tuple[str, ...],
    ) -> None:
        self.handshake = handshake
        self.key = key
        self.path = path
        self.hops: set[tuple[LinkDriver, int]] = set()
        self._hosting = hosting
        self.timer = asyncio.get_running_loop().call_later(
            limits.HANDSHAKE_PER_GRANT_SECONDS, hosting.too_slow, self
        )

    def frame(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """Target."""
        if header.kind is Kind.RESET:
            self.hops.discard((link, header.circuit))
            self._hosting.unbind(link, header.circuit)
        else:
            self._hosting.complete(self, link, header, payload)

    def lose(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """Target: an identical OPEN may still come on another."""
        self.hops = {hop for hop in self.hops if hop[0] is not link}


class WaitingAccepts:
    """Circuits whose ACCEPT may still wait for READY and the first answer (C-14): not for long, and not many."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._streams: deque[tuple[float, CircuitStream]] = deque()
        self._due: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._streams)

    def add(self, stream: CircuitStream) -> None:
        """It came now."""
        self._streams.append((self._loop.time() + ACCEPT_WITHIN, stream))
        if len(self._streams) > ACCEPTS_WAITING:
            self._accept(self._streams.popleft()[1])
        if self._due is None:
            self._due = self._loop.call_later(ACCEPT_WITHIN, self._look)

    def _look(self) -> None:
        """What assets have said meanwhile is read first."""
        self._due = self._loop.call_soon(self._release)

    def _release(self) -> None:
        now, streams = self._loop.time(), self._streams
        while streams and streams[0][0] <= now:
            self._accept(streams.popleft()[1])
        self._due = self._loop.call_at(streams[0][0], self._look) if streams else None

    def _accept(self, stream: CircuitStream) -> None:
        stream.at_owner(stream.accept_now)


class Candidate:
    """A hop on which an OPEN came again (C-15): it becomes the circuit's path when the caller's CREDIT
    authenticates.
    """

    def __init__(self, hosting: HostingSide, stream: CircuitDriver | None) -> None:
        self._hosting = hosting
        self._stream = stream

    def frame(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """Target."""
        stream = self._stream
        if header.kind is Kind.RESET:
            self._hosting.unbind(link, header.circuit)
            return
        if header.kind is not Kind.CREDIT or stream is None or stream.core is None:
            self._hosting.free(link, header.circuit)
            return
        try:
            events = stream.core.adopt(header, payload, asyncio.get_running_loop().time())
        except LateError:
            self._hosting.free(link, header.circuit)
            self._hosting.came_late()
            return
        except (TamperError, ProtocolError) as error:
            self._hosting.refuse(link, header.circuit, Code.TAMPER, str(error))
            return
        stream.place(link, header.circuit)
        stream.go(events)

    def lose(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """Target."""


class EndedCircuits:
    """Hosted circuits that have ended, for `ENDED_SECONDS`, at most `ENDED_CIRCUITS` with `ENDED_BYTES` of
    kept frames.
    """

    def __init__(self) -> None:
        self._circuits: OrderedDict[bytes, tuple[CircuitDriver, float, int]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._circuits)

    def keep(self, stream: CircuitDriver, now: float) -> None:
        """It ended now, perhaps once more: it was resumed."""
        self._take(stream.circuit_id)
        size = 0 if stream.core is None else stream.core.kept_bytes
        self._circuits[stream.circuit_id] = (stream, now + ENDED_SECONDS, size)
        self.bytes += size
        while self._circuits:
            oldest, (_, until, _) = next(iter(self._circuits.items()))
            if until > now and len(self._circuits) <= ENDED_CIRCUITS and self.bytes <= ENDED_BYTES:
                break
            gone = self._take(oldest)
            if gone is not None:
                gone.forget()

    def find(self, circuit_id: bytes, now: float) -> CircuitDriver | None:
        """The circuit of this name, if it ended not long ago."""
        found = self._circuits.get(circuit_id)
        return None if found is None or found[1] <= now else found[0]

    def _take(self, circuit_id: bytes) -> CircuitDriver | None:
        """It is not kept any more."""
        kept = self._circuits.pop(circuit_id, None)
        if kept is None:
            return None
        self.bytes -= kept[2]
        return kept[0]
