"""Rewrites addresses so that the kernel's own TCP terminates connections to services (the "system stack"). Pure.

    client:s -> service:d   becomes   fake:P -> me:L         P names the flow
    me:L -> fake:P          becomes   service:d -> client:s

`me` is the device's own address, with a listener at port L; `fake` is its neighbour there, which plays every client.
Source, destination and both ports stand side by side in IPv4 and in IPv6, so one slice of a packet is the key and one
slice is what replaces it. `now` is a monotonic time in seconds.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from edge.intercept.flows import CONNECTIONS, CONNECTIONS_PER_SOURCE
from edge.packets.checksum import difference

FIRST_PORT, LAST_PORT = 1025, 65_535
REST = 60.0
"""Seconds for which an ended flow is still translated (late segments, TIME_WAIT) before its port may be used again."""
ACCEPT_WITHIN = 30.0
"""Seconds from the rewritten SYN to the accepted connection."""


class Addresses(NamedTuple):
    """The two addresses of a device for one version of IP, packed."""

    me: bytes
    fake: bytes


class Life(Enum):
    """Where a flow is."""

    OPENING = "the SYN was passed on"
    OPEN = "its connection was accepted"
    ENDED = "its connection and its circuit are over"


class Flow:
    """One TCP connection of a client. `queue` of the device is where its SYN came from: what goes either way is written
    to that one, so that the kernel puts all that follows there, in order.
    """

    __slots__ = ("key", "life", "port", "queue", "reverse", "since", "source", "used")

    def __init__(
        self, key: bytes, reverse: bytes, port: int, source: bytes, now: float, queue: int
    ) -> None:
        self.key = key
        self.reverse = reverse
        self.port = port
        self.source = source
        self.queue = queue
        self.life = Life.OPENING
        self.since = now
        self.used = True


class Rewrite(NamedTuple):
    """What becomes of a packet: `new` replaces the slice, the others are added to its sums (RFC 1624)."""

    new: bytes
    addresses: int
    everything: int
    flow: Flow
    forward: bool


class Nat:
    """The flows of one device.

    Args:
        addresses: of the device, for each version of IP that it has.
        listener: port of the local listener, of both versions.
    """

    def __init__(self, addresses: Iterable[Addresses], listener: int) -> None:
        self.rewrites: dict[bytes, Rewrite] = {}
        """By source, destination and ports, both directions."""
        self._aside: dict[bytes, Rewrite] = {}
        self._addresses = {len(pair.me): pair for pair in addresses}
        self._listener = listener
        ports = (port for port in range(FIRST_PORT, LAST_PORT + 1) if port != listener)
        self._free: deque[int] = deque(ports)
        self._by_port: dict[int, Flow] = {}
        self._sources: Counter[bytes] = Counter()
        self._ended: OrderedDict[int, Flow] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_port)

    def __iter__(self) -> Iterator[Flow]:
        return iter(self._by_port.values())

    def begin(self, key: bytes, now: float, queue: int) -> Flow | None:
        """A flow for a SYN with this key, from this queue; None when there are too many.

        A flow that ended under the same key gives way to it, and its port rests.
        """
        size = len(key) // 2 - 2
        pair = self._addresses.get(size)
        if pair is None:
            return None
        source = key[:size]
        old = self.rewrites.get(key)
        if old is not None:
            self._retire(old.flow)
        if self._sources[source] >= CONNECTIONS_PER_SOURCE and not self._forget_one(source):
            return None
        if len(self._by_port) >= CONNECTIONS and not self._forget_one(None):
            return None
        me, fake = pair
        port = self._free.popleft()
        ports = port.to_bytes(2, "big"), self._listener.to_bytes(2, "big")
        forward = fake + me + ports[0] + ports[1]
        reverse = me + fake + ports[1] + ports[0]
        back = key[size : 2 * size] + source + key[-2:] + key[-4:-2]
        flow = self._by_port[port] = Flow(key, reverse, port, source, now, queue)
        addresses = difference(key[: 2 * size], forward[: 2 * size])
        ports_too = difference(key, forward)
        self.rewrites[key] = Rewrite(forward, addresses, ports_too, flow, forward=True)
        # On the way back the same words are replaced by those that they replace here.
        addresses, ports_too = 0xFFFF ^ addresses, 0xFFFF ^ ports_too
        self.rewrites[reverse] = Rewrite(back, addresses, ports_too, flow, forward=False)
        self._sources[source] += 1
        return flow

    def find(self, key: bytes) -> Rewrite | None:
        """As `rewrites` has it, or what was set aside."""
        return self.rewrites.get(key) or self._aside.get(key)

    def set_aside(self, flow: Flow) -> None:
        """What comes to this client is to be looked at with care: `rewrites` does not have it any more."""
        known = self.rewrites.pop(flow.reverse, None)
        if known is not None:
            self._aside[flow.reverse] = known

    def put_back(self, flow: Flow) -> None:
        """It is not."""
        known = self._aside.pop(flow.reverse, None)
        if known is not None:
            self.rewrites[flow.reverse] = known

    def accepted(self, peer: bytes, port: int) -> Flow | None:
        """The flow of a connection that the listener accepted, once; None for one that is nobody's."""
        flow = self._by_port.get(port)
        pair = self._addresses.get(len(peer))
        if flow is None or pair is None or flow.life is not Life.OPENING:
            return None
        if peer != pair.fake or len(flow.source) != len(peer):
            return None
        flow.life = Life.OPEN
        return flow

    def ended(self, flow: Flow, now: float) -> None:
        """Connection and circuit are over: it rests, and is then forgotten."""
        if self._by_port.get(flow.port) is flow and flow.life is not Life.ENDED:
            flow.life = Life.ENDED
            flow.since = now
            self._ended[flow.port] = flow

    def late(self, now: float) -> list[Flow]:
        """Flows whose client never finished the handshake: end them."""
        return [
            flow
            for flow in self._by_port.values()
            if flow.life is Life.OPENING and now - flow.since >= ACCEPT_WITHIN
        ]

    def sweep(self, now: float) -> None:
        """Forget what has rested; one that is still spoken to rests anew."""
        while self._ended:
            port, flow = next(iter(self._ended.items()))
            if now - flow.since < REST:
                return
            if flow.used:
                flow.used, flow.since = False, now
                self._ended.move_to_end(port)
            else:
                self._forget(flow)

    def _retire(self, flow: Flow) -> None:
        """The client uses the key again: the old flow is not found any more, but its port rests like any other."""
        self.rewrites.pop(flow.key, None)
        self.rewrites.pop(flow.reverse, None)
        self._aside.pop(flow.reverse, None)

    def _forget_one(self, source: bytes | None) -> bool:
        """Make room by the flow that rested longest (of one source); False when there is none."""
        for flow in self._ended.values():
            if source is None or flow.source == source:
                self._forget(flow)
                return True
        return False

    def _forget(self, flow: Flow) -> None:
        del self._by_port[flow.port]
        self._ended.pop(flow.port, None)
        mine = self.rewrites.get(flow.key)
        if mine is not None and mine.flow is flow:
            del self.rewrites[flow.key]
        self.rewrites.pop(flow.reverse, None)
        self._aside.pop(flow.reverse, None)
        self._free.append(flow.port)
        self._sources[flow.source] -= 1
        if not self._sources[flow.source]:
            del self._sources[flow.source]
