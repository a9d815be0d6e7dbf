"""UDP of a TUN device: each client's conversation with a service is a circuit; boundaries are kept both ways."""

import itertools
from collections import OrderedDict

from edge.flow import Flow
from edge.intercept.flows import FLOWS, FLOWS_PER_SOURCE, Flows
from edge.packets import answers
from edge.packets.ip import V4_HEADER, V6_HEADER, Packet
from edge.packets.transport import UDP_HEADER, Datagram, read_datagram
from edge.packets.virtio import (
    DATA_VALID,
    GSO_NONE,
    NEEDS_CHECKSUM,
    SIZE,
    Offload,
    partial_checksum,
)
from edge.tun.ground import GONE, Ground
from overlay.aio.circuit_stream import CircuitStream
from overlay.errors import DecodeError
from overlay.wire.bodies import DATAGRAMS

LEAST_MTU = 1280
"""Of IPv6 (RFC 8200 §5): nothing below is believed."""
LEAST = SIZE + V4_HEADER + UDP_HEADER
"""Bytes of the shortest datagram."""
_SUM_IS_SEEN_TO = NEEDS_CHECKSUM | DATA_VALID
_V4_START, _V6_START = SIZE + V4_HEADER, SIZE + V6_HEADER
_PLACES = {SIZE + header: partial_checksum(header, 6)[6:] for header in (V4_HEADER, V6_HEADER)}
"""Where the sum of UDP stands, by where its header begins."""
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

    def close(self) -> None:
        """The device is gone."""
        self._flows.close(GONE)

    def quick(self, written: memoryview, *, more: bool) -> bool:
        """A datagram as most are, of a flow that lives: it is sent on.

        Args:
            written: a packet with its virtio-net header.
            more: another packet follows at once.

        Returns:
            False: it is another one, and has to be read with care.
        """
        size = len(written)
        if size < LEAST or written[1] != GSO_NONE or not written[0] & _SUM_IS_SEEN_TO:
            return False
        first = written[SIZE]
        if first == 0x45:
            start, key = _V4_START, bytes(written[SIZE + 12 : SIZE + 24])
            end = SIZE + (written[SIZE + 2] << 8 | written[SIZE + 3])
        elif first >> 4 == 6:
            start, key = _V6_START, bytes(written[SIZE + 8 : SIZE + 44])
            end = _V6_START + (written[SIZE + 4] << 8 | written[SIZE + 5])
        else:
            return False
        flow = self._flows.get(key)
        if flow is None or end > size or end - start < UDP_HEADER:
            return False
        if written[0] & NEEDS_CHECKSUM and written[6:SIZE] != _PLACES[start]:
            return False
        length = written[start + 4] << 8 | written[start + 5]
        if length < UDP_HEADER or start + length > end:
            return False
        flow.send(written[start + UDP_HEADER : start + length], more=more)
        return True

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
            flow.send(payload[start : start + size], more=start + size < len(payload))

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
        if self._flows.full(packet.source, most=FLOWS, per_client=FLOWS_PER_SOURCE):
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

        made = answers.Datagrams(source, client, ports)

        def deliver(data: bytes) -> None:
            mtu = self._paths.get(client, self._mtu) if len(client) > 4 else self._mtu
            ident = next(self._idents) & 0xFFFFFFFF
            for one in made.packets(data, ident=ident, mtu=mtu):
                self._ground.write(one, queue)

        return self._flows.join(key, client, stream, deliver)
