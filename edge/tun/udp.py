"""UDP of a TUN device: each client's conversation with a service is a circuit; boundaries are kept both ways."""

import itertools
from collections import OrderedDict

from edge.flow import Flow
from edge.packets import answers
from edge.packets.ip import Packet
from edge.packets.transport import Datagram, read_datagram
from edge.packets.virtio import Offload
from edge.tun.flows import Flows
from edge.tun.ground import Ground
from overlay.aio.circuit_stream import CircuitStream
from overlay.errors import DecodeError
from overlay.wire.bodies import DATAGRAMS

FLOWS = 4096
"""Conversations of one device; a further client waits for one to go quiet."""
PER_SOURCE = 1024
LEAST_MTU = 1280
"""Of IPv6 (RFC 8200 §5): nothing below is believed."""
PATHS = 1024
"""Clients whose path takes less than the device; the oldest is forgotten."""


class Udp:
    """All conversations of one device.

    Args:
        ground: what the device's parts share.
        mtu: the longest packet towards a client.
    """

    def __init__(self, ground: Ground, mtu: int) -> None:
        self._ground = ground
        self._mtu = mtu
        self._flows = Flows()
        self._paths: OrderedDict[bytes, int] = OrderedDict()
        self._idents = itertools.count(1)

    def __len__(self) -> int:
        return len(self._flows)

    def packet(self, data: memoryview, packet: Packet, offload: Offload) -> None:
        """One packet: a datagram, or a train of them. Raises: DecodeError."""
        found = read_datagram(data, packet, checked=offload.checked)
        ports = found.source.to_bytes(2, "big") + found.destination.to_bytes(2, "big")
        key = packet.source + packet.destination + ports
        flow = self._flows.get(key) or self._begin(key, data, packet, found)
        if flow is None:
            return
        payload = data[found.start : found.end]
        size = offload.train
        if not size or size >= len(payload):
            flow.send(payload)
            return
        for start in range(0, len(payload), size):
            flow.send(payload[start : start + size])

    def path_takes(self, key: bytes, client: bytes, mtu: int) -> None:
        """A router on the way to a client of the flow `key` says that longer packets do not pass (RFC 8201)."""
        if key in self._flows and LEAST_MTU <= mtu < self._mtu:
            self._paths[client] = mtu
            self._paths.move_to_end(client)
            if len(self._paths) > PATHS:
                self._paths.popitem(last=False)

    def _begin(self, key: bytes, data: memoryview, packet: Packet, found: Datagram) -> Flow | None:
        ground = self._ground
        if not found.source:
            raise DecodeError("UDP from port 0 cannot be answered")
        if self._flows.full(packet.source, most=FLOWS, per_client=PER_SOURCE):
            ground.counts["too many flows"] += 1
            return None
        verdict = ground.judge(DATAGRAMS, packet, found.destination)
        if not verdict.service or not verdict.who:
            ground.strangers(packet, found.destination, verdict)
            ground.deny(data, packet)
            return None
        stream = ground.caught.flow(verdict.who, verdict.service, verdict.port, verdict.address)
        if stream is None:
            ground.counts["denied"] += 1
            ground.deny(data, packet)
            return None
        return self._join(key, packet, found, stream)

    def _join(self, key: bytes, packet: Packet, found: Datagram, stream: CircuitStream) -> Flow:
        source, client = packet.destination, packet.source
        ports = found.destination, found.source
        queue = self._ground.queue

        def deliver(data: bytes) -> None:
            mtu = self._paths.get(client, self._mtu) if len(client) > 4 else self._mtu
            ident = next(self._idents) & 0xFFFFFFFF
            made = answers.datagrams(source, client, ports, data, ident=ident, mtu=mtu)
            for one in made:
                self._ground.write(one, queue)

        return self._flows.join(key, client, stream, deliver)
