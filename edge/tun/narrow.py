"""Connections whose way to the client takes less than the device, each known by itself. Pure.

To the kernel one peer stands for all clients (`edge.tun.nat`), so what it were told of the way to one would hold for
all of them. It is told nothing: what it sends on such a connection is cut here, by saying in the virtio-net header how
long the parts are. Anybody may say "too big"; it is believed when the kernel sends again what is said to be lost.
"""

import struct

from edge.packets.checksum import pseudo_header, put
from edge.packets.ip import TCP, Packet
from edge.packets.transport import Segment
from edge.packets.virtio import GSO_NONE, GSO_TCPV4, GSO_TCPV6, NEEDS_CHECKSUM, SIZE, read_offload

LEAST = {4: 552, 6: 1280}
"""What every way takes: of IPv4 what Linux believes (net.ipv4.route.min_pmtu), of IPv6 RFC 8200 §5."""
CLAIMS = 16
"""Of one connection; a newer one takes the place of the oldest."""
PATIENCE = 30.0
"""Seconds for which a claim is remembered that nothing has confirmed."""
_CHECKSUM = 16
_HEADER = struct.Struct("<BBHHHH")
_HALF = 1 << 31


class Way:
    """Of one connection. `mtu` is what its way takes, 0 as long as nothing is believed. `now` is monotonic seconds."""

    __slots__ = ("_claims", "_since", "_top", "mtu")

    def __init__(self) -> None:
        self.mtu = 0
        self._claims: dict[int, int] = {}
        self._top: int | None = None
        self._since = 0.0

    def claim(self, version: int, sequence: int, mtu: int, now: float) -> None:
        """Somebody says that the segment with this number was too long; IPv6 says nothing below its least."""
        if version == 6 and mtu < LEAST[6]:
            return
        self._since = now
        self._claims.pop(sequence, None)
        self._claims[sequence] = max(mtu, LEAST[version])
        if len(self._claims) > CLAIMS:
            del self._claims[next(iter(self._claims))]

    def idle(self, now: float) -> bool:
        """Nothing was confirmed, and nobody claims anything any more."""
        return not self.mtu and now - self._since >= PATIENCE

    def fit(self, data: bytearray, packet: Packet, segment: Segment) -> None:
        """Make a segment to the client one that passes; `data` begins with the virtio-net header."""
        self._look(segment)
        if self.mtu:
            cut(data, packet, segment, self.mtu - packet.start - segment.header)

    def _look(self, segment: Segment) -> None:
        """A claim is believed when what it is about was sent before, and is sent again."""
        if not segment.payload:
            return
        end = segment.sequence + segment.payload & 0xFFFFFFFF
        if self._top is None or _before(self._top, segment.sequence):
            self._top = end
            return
        if _before(segment.sequence, self._top):
            for sequence, mtu in self._claims.items():
                if (sequence - segment.sequence) & 0xFFFFFFFF < segment.payload and _before(
                    sequence, self._top
                ):
                    self.mtu = min(self.mtu or mtu, mtu)
                    self._claims = {}
                    break
        if _before(self._top, end):
            self._top = end


def cut(data: bytearray, packet: Packet, segment: Segment, most: int) -> None:
    """Say in the virtio-net header that no part has more than `most` bytes of payload, if one has."""
    offload = read_offload(memoryview(data))
    size = offload.gso_size if offload.gso_type else segment.payload
    if size <= most:
        return
    kind = offload.gso_type
    if kind == GSO_NONE:
        kind = GSO_TCPV4 if packet.version == 4 else GSO_TCPV6
    if not offload.flags & NEEDS_CHECKSUM:
        length = segment.header + segment.payload
        pseudo = pseudo_header(packet.source, packet.destination, TCP, length)
        put(data, SIZE + packet.start + _CHECKSUM, pseudo)
    headers = packet.start + segment.header
    _HEADER.pack_into(data, 0, NEEDS_CHECKSUM, kind, headers, most, packet.start, _CHECKSUM)


def _before(one: int, other: int) -> bool:
    """Of two numbers of a connection (RFC 9293 §3.4)."""
    return one != other and (other - one) & 0xFFFFFFFF < _HALF
