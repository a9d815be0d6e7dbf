"""TCP of a TUN device: the verdict falls when the SYN comes, then the kernel terminates it (`edge.tun.nat`).

A denied SYN is answered at once. An allowed one opens a circuit and is passed to the local listener when the asset has
answered; or it is passed at once (not `Verdict.held`), and the circuit is opened when the client is connected.
"""

import socket
from collections import Counter
from functools import partial

from edge.intercept.base import Opener
from edge.packets.checksum import corrected, fold
from edge.packets.ip import Packet
from edge.packets.transport import Segment
from edge.packets.virtio import NEEDS_CHECKSUM, SIZE
from edge.tun.first_words import FirstWords
from edge.tun.ground import GONE, Ground
from edge.tun.narrow import Way
from edge.tun.nat import Flow, Life, Nat, Rewrite
from edge.tun.prompt import PromptConnection
from overlay.aio.circuit_roles import Refused
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.pump import join
from overlay.aio.tasks import spawn
from overlay.errors import Code
from overlay.wire.bodies import STREAM

HELD = 1024
"""SYNs that wait for their assets; of more the sender's own repetition is waited for."""
HELD_PER_SOURCE = 512
CHECKSUM = 16
_DENIED = frozenset({
    Code.NO_GRANT, Code.BAD_GRANT, Code.EXPIRED, Code.KILLED, Code.REVOKED, Code.WITHDRAWN, Code.NOT_TRUSTED,
    Code.LOCAL_KILL, Code.MAX_SESSION, Code.STALE,
})  # fmt: skip
"""Why another node refuses what may not be; all else says how the way or the asset is."""


class Tcp:
    """All connections of one device."""

    def __init__(self, ground: Ground, nat: Nat) -> None:
        self.nat = nat
        self._ground = ground
        self._held: dict[bytes, CircuitStream] = {}
        self._per_source: Counter[bytes] = Counter()
        self._streams: dict[Flow, CircuitStream | None] = {}
        """None: the client is answered, and its circuit is not opened yet."""
        self._openers: dict[Flow, tuple[str, Opener]] = {}
        """Of those whose connection is not accepted yet; with the service."""
        self._words = FirstWords()
        self._ways: dict[Flow, Way] = {}

    def __len__(self) -> int:
        return len(self._streams)

    @property
    def held(self) -> int:
        """SYNs that wait."""
        return len(self._held)

    def segment(self, data: bytearray, packet: Packet, segment: Segment) -> None:
        """A segment that is not on the fast path: of no flow, a SYN, or with options of IP.

        `data` begins with the virtio-net header; offsets in `packet` do not count it.
        """
        key = flow_key(packet, segment)
        known = self.nat.find(key)
        if known is not None and not (
            segment.opens and known.forward and known.flow.life is Life.ENDED
        ):
            known.flow.used = True
            way = None if known.forward else self._ways.get(known.flow)
            if way is not None:
                way.fit(data, packet, segment)
            self._pass(data, packet, known)
        elif segment.opens:
            self._knock(data, packet, segment, key)
        else:
            self._ground.counts["strays"] += 1
            self._ground.stray(packet, segment)

    def accepted(self, connection: PromptConnection) -> None:
        """The local listener has a connection."""
        host, port = connection.peer
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        flow = self.nat.accepted(socket.inet_pton(family, host), port)
        stream = None if flow is None else self._streams.get(flow)
        if flow is not None:
            connection.carry = partial(self._ground.carry, flow.queue)
        if flow is not None and stream is not None:
            join(connection, stream)
        elif flow is not None and flow in self._openers:
            service, opener = self._openers.pop(flow)
            self._words.hear(connection, service, opener, partial(self._opened, flow))
        else:
            self._ground.counts["connections of nobody"] += 1
            connection.abort()

    def too_big(self, key: bytes, sequence: int, mtu: int) -> None:
        """Somebody says that a segment to the client of the flow `key` does not pass, and what would."""
        known = self.nat.rewrites.get(key)
        if known is not None and known.forward:
            way = self._ways.setdefault(known.flow, Way())
            way.claim(4 if len(known.flow.source) == 4 else 6, sequence, mtu, self._ground.now())
            self.nat.set_aside(known.flow)

    def sweep(self) -> None:
        """Call it every few seconds."""
        now = self._ground.now()
        for flow, way in list(self._ways.items()):
            if way.idle(now) or self.nat.find(flow.reverse) is None:
                del self._ways[flow]
                self.nat.put_back(flow)
        for flow in self.nat.late(now):
            stream = self._streams.get(flow)
            if stream is not None:
                stream.abort(Code.IDLE, "the client did not finish its handshake")
            elif flow in self._openers:
                self._over(flow)
        self.nat.sweep(now)
        self._words.forget()

    def close(self) -> None:
        """The device is gone."""
        for stream in [*self._held.values(), *self._streams.values()]:
            if stream is not None and not stream.closed.done():
                stream.abort(Code.APPLICATION_RESET, GONE)
        self._openers.clear()
        self._words.close()

    # --- inside -------------------------------------------------------------------------------------

    def _knock(self, data: bytearray, packet: Packet, segment: Segment, key: bytes) -> None:
        ground = self._ground
        if key in self._held:
            return  # the client repeats itself while the asset is asked
        if len(self._held) >= HELD or self._per_source[packet.source] >= HELD_PER_SOURCE:
            ground.counts["SYNs dropped"] += 1
            return
        verdict = ground.judge(STREAM, packet, segment.destination)
        if not verdict.service or not verdict.who:
            ground.strangers(packet, segment.destination, verdict)
            ground.deny(memoryview(data)[SIZE:], packet, segment)
            return
        wanted = verdict.who, verdict.service, verdict.port, verdict.address
        caught, stream, opener = ground.caught, None, None
        if verdict.held:
            stream = caught.open(*wanted)
        else:
            opener = caught.allow(*wanted)
        if stream is not None:
            self._held[key] = stream
            self._per_source[packet.source] += 1
            held = self._hold(bytes(data), packet, segment, key, stream, ground.queue)
            _ = spawn(held, verdict.service)
        elif opener is not None:
            flow = self._admit(data, packet, segment, key, None, ground.queue)
            if flow is not None:
                self._openers[flow] = verdict.service, opener
        else:
            ground.counts["denied"] += 1
            ground.deny(memoryview(data)[SIZE:], packet, segment)

    async def _hold(
        self,
        syn: bytes,
        packet: Packet,
        segment: Segment,
        key: bytes,
        stream: CircuitStream,
        queue: int,
    ) -> None:
        source = packet.source
        try:
            await stream.ready()
        except Refused as refused:
            self._ground.counts["refused"] += 1
            if refused.code in _DENIED:
                self._ground.deny(memoryview(syn)[SIZE:], packet, segment)
            else:
                self._ground.reset(packet, segment)
        else:
            self._admit(bytearray(syn), packet, segment, key, stream, queue)
        finally:
            del self._held[key]
            self._per_source[source] -= 1
            if not self._per_source[source]:
                del self._per_source[source]

    def _admit(
        self,
        syn: bytearray,
        packet: Packet,
        segment: Segment,
        key: bytes,
        stream: CircuitStream | None,
        queue: int,
    ) -> Flow | None:
        """Pass a SYN on; None: there are too many flows, and the client knows it."""
        ground = self._ground
        flow = self.nat.begin(key, ground.now(), queue)
        if flow is None:
            ground.counts["too many flows"] += 1
            if stream is not None:
                stream.abort(Code.BUSY, "this edge intercepts as many connections as it may")
            ground.reset(packet, segment)
            return None
        self._streams[flow] = None
        if stream is not None:
            self._opened(flow, stream)
        self._pass(syn, packet, self.nat.rewrites[key])
        return flow

    def _opened(self, flow: Flow, stream: CircuitStream | None) -> None:
        """The circuit of a flow is there, or there is none and never will be."""
        if stream is None:
            self._over(flow)
        else:
            self._streams[flow] = stream
            stream.closed.add_done_callback(lambda _: self._over(flow))

    def _over(self, flow: Flow) -> None:
        self._streams.pop(flow, None)
        self._openers.pop(flow, None)
        self.nat.ended(flow, self._ground.now())

    def _pass(self, data: bytearray, packet: Packet, known: Rewrite) -> None:
        rewrite(data, packet, known)
        self._ground.write(bytes(data[: SIZE + packet.end]), known.flow.queue)


def flow_key(packet: Packet, segment: Segment) -> bytes:
    """As it stands in a packet without options of IP."""
    ports = segment.source.to_bytes(2, "big") + segment.destination.to_bytes(2, "big")
    return packet.source + packet.destination + ports


def rewrite(data: bytearray, packet: Packet, known: Rewrite) -> None:
    """Replace addresses and ports of any TCP packet, and correct its sums (RFC 1624)."""
    new = known.new
    start = SIZE + packet.start
    at = SIZE + (12 if packet.version == 4 else 8)
    data[at : at + len(new) - 4] = new[:-4]
    data[start : start + 4] = new[-4:]
    place = start + CHECKSUM
    total = data[place] << 8 | data[place + 1]
    if data[0] & NEEDS_CHECKSUM:  # the sum of the pseudo header, in which there are no ports
        total = fold(total + known.addresses)
    else:
        total = corrected(total, known.everything)
    data[place : place + 2] = total.to_bytes(2, "big")
    if packet.version == 4:
        place = SIZE + 10
        total = corrected(data[place] << 8 | data[place + 1], known.addresses)
        data[place : place + 2] = total.to_bytes(2, "big")
