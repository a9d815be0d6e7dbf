"""Reads packets from a TUN device, at most `DRAIN` of a queue for each turn, and sends each where it belongs.

TCP of known flows takes the fast path: one look-up, one slice, two sums. Everything else is read with care first; what
is malformed, senseless or too much is counted and dropped.
"""

import asyncio
import os
from collections.abc import Callable

from edge.packets import sanity, virtio
from edge.packets.fragments import Reassembler
from edge.packets.ip import ICMP, ICMPV6, TCP, UDP, Packet, read_packet
from edge.packets.quoted import next_mtu, read_quoted
from edge.packets.transport import Message, read_message, read_segment
from edge.packets.virtio import NEEDS_CHECKSUM, SIZE, Offload
from edge.tun.device import READ_SIZE, TunDevice
from edge.tun.ground import Ground
from edge.tun.ping import Pings, is_request
from edge.tun.tcp import Tcp
from edge.tun.udp import Udp
from overlay.errors import DecodeError

DRAIN = 64
"""Packets read from a queue in one turn, so that neither other queues nor anything else on the loop starve."""
DRAIN_BYTES = 64 * 1024
"""None after so many bytes: 64 super-packets keep the loop for milliseconds, and a poll waits for all queues."""
COSTLY = 16
"""As many as that, when they are no TCP of known flows: each of these takes ten times as long."""

CARRIED, CARRIED_BYTES = 4, 4096
"""Packets, and bytes after which none, that a short answer takes along: itself and what it brings at once. What else is
in its queue waits for its turn, however many answers are written in this one."""

_V4_PROTOCOL, _V4_CUT, _V4_SUM = SIZE + 9, SIZE + 6, SIZE + 10
_V4_KEY, _V4_PORTS_END, _V4_LEAST = SIZE + 12, SIZE + 24, SIZE + 40
_V6_PROTOCOL, _V6_KEY, _V6_PORTS_END, _V6_LEAST = SIZE + 6, SIZE + 8, SIZE + 44, SIZE + 60
_FLAGS, _SUM = 9, 12
"""From the end of the ports to TCP's flags and checksum."""
_SYN = 2


class Stack:
    """One device that is being read.

    Args:
        device: open.
        ground: what its parts share.
        tcp, udp, pings: its parts.
        gone: called once when the device is gone; it is not read any more then.
    """

    def __init__(
        self,
        device: TunDevice,
        ground: Ground,
        tcp: Tcp,
        udp: Udp,
        pings: Pings,
        gone: Callable[[], None],
    ) -> None:
        self._device = device
        self._ground = ground
        self._tcp = tcp
        self._udp = udp
        self._pings = pings
        self._gone = gone
        self._fragments = Reassembler()
        self._loop = asyncio.get_running_loop()
        self._memory = [bytearray(READ_SIZE) for _ in range(2)]
        self._views = [memoryview(one) for one in self._memory]
        self._reading = True
        self._inside = False
        ground.carry = self._carry
        for queue in device.queues:
            self._loop.add_reader(queue, self._readable, queue)

    def stop(self) -> None:
        """Read nothing more."""
        if self._reading:
            self._reading = False
            for queue in self._device.queues:
                self._loop.remove_reader(queue)

    def sweep(self) -> None:
        """Call it every few seconds."""
        self._fragments.expire(self._ground.now())
        self._tcp.sweep()

    def _carry(self, fd: int) -> None:
        """Not while a packet is being handled, which lies where the next ones would land."""
        if self._reading and not self._inside:
            self._readable(fd, CARRIED, CARRIED_BYTES)

    def _readable(self, fd: int, most: int = DRAIN, most_bytes: int = DRAIN_BYTES) -> None:
        """What is no TCP of a known flow is handled when it is known whether another packet follows."""
        here, held, size = 0, None, 0
        self._ground.queue = fd
        costly = total = 0
        for _ in range(most):
            if costly == COSTLY or total >= most_bytes:
                break
            buffer, view = self._memory[here], self._views[here]
            try:
                count = os.readv(fd, (view,))
            except BlockingIOError:
                break
            except OSError:
                self.stop()
                self._gone()
                return
            total += count
            if held is not None:
                self._slow(held, size, more=True)
                held = None
                if not self._reading:
                    return
            if not self._passed(buffer, view, count):
                held, size, here = here, count, 1 - here
                costly += 1
        if held is not None:
            self._slow(held, size, more=False)

    def _passed(self, buffer: bytearray, view: memoryview, count: int) -> bool:
        """Rewrite and write back TCP of a known flow; False: it is something else."""
        first = buffer[SIZE]
        if first == 0x45:
            if (
                count < _V4_LEAST
                or buffer[_V4_PROTOCOL] != TCP
                or buffer[_V4_CUT] & 0x3F
                or buffer[_V4_CUT + 1]
            ):
                return False
            start, end = _V4_KEY, _V4_PORTS_END
        elif first >> 4 == 6 and count >= _V6_LEAST and buffer[_V6_PROTOCOL] == TCP:
            start, end = _V6_KEY, _V6_PORTS_END
        else:
            return False
        known = self._tcp.nat.rewrites.get(bytes(view[start:end]))
        if known is None:
            return False
        new, addresses, everything, flow, forward = known
        if forward and buffer[end + _FLAGS] & _SYN:
            return False
        flow.used = True
        buffer[start:end] = new
        place = end + _SUM
        total = buffer[place] << 8 | buffer[place + 1]
        if buffer[0] & NEEDS_CHECKSUM:  # the field holds the pseudo header's sum, without ports
            total += addresses
            total = (total & 0xFFFF) + (total >> 16)
        else:
            total = (total ^ 0xFFFF) + everything
            total = ((total & 0xFFFF) + (total >> 16)) ^ 0xFFFF
        buffer[place] = total >> 8
        buffer[place + 1] = total & 0xFF
        if first == 0x45:
            total = ((buffer[_V4_SUM] << 8 | buffer[_V4_SUM + 1]) ^ 0xFFFF) + addresses
            total = ((total & 0xFFFF) + (total >> 16)) ^ 0xFFFF
            buffer[_V4_SUM] = total >> 8
            buffer[_V4_SUM + 1] = total & 0xFF
        try:  # noqa: SIM105 - for each packet: `suppress` would take as long as the two sums
            os.write(flow.queue, view[:count])
        except OSError:
            pass  # lost, as on any network: TCP sends it again
        return True

    def _slow(self, place: int, count: int, *, more: bool) -> None:
        buffer, view = self._memory[place], self._views[place]
        if buffer[SIZE] == 0x45:
            plain = buffer[_V4_PROTOCOL] == UDP and not buffer[_V4_CUT] & 0xBF | buffer[_V4_CUT + 1]
        else:
            plain = buffer[_V6_PROTOCOL] == UDP
        self._inside = True
        try:
            if not (plain and self._udp.quick(view[:count], more=more)):
                self.packet(view[:count])
        except DecodeError:
            self._ground.counts["malformed"] += 1
        finally:
            self._inside = False

    def packet(self, written: memoryview) -> None:
        """Any packet, with its virtio-net header. Raises: DecodeError: it is none, or not one to look at."""
        offload = virtio.read_offload(written)
        data = written[SIZE:]
        packet = read_packet(data)
        if sanity.objection(packet) is not None:
            self._ground.counts["senseless"] += 1
            return
        if packet.fragment is not None:
            whole = self._fragments.add(data, packet, self._ground.now())
            if whole is None:
                return
            written = memoryview(virtio.PLAIN + whole)
            offload = virtio.read_offload(written)
            data = written[SIZE:]
            packet = read_packet(data)
            if packet.fragment is not None:
                raise DecodeError("fragments inside fragments")
        self._whole(written, data, packet, offload)

    def _whole(
        self, written: memoryview, data: memoryview, packet: Packet, offload: Offload
    ) -> None:
        if packet.protocol == TCP:
            segment = read_segment(data, packet)
            self._tcp.segment(bytearray(written), packet, segment)
        elif packet.protocol == UDP:
            self._udp.packet(data, packet, offload)
        elif packet.protocol in (ICMP, ICMPV6):
            message = read_message(data, packet)
            if is_request(packet, message):
                self._pings.request(data, packet, message)
            else:
                self._error(data, packet, message)
        else:
            self._ground.counts["other protocols"] += 1

    def _error(self, data: memoryview, packet: Packet, message: Message) -> None:
        """Of ICMP's errors only "too big" matters here: to TCP, and to answers of UDP over IPv6."""
        mtu = next_mtu(data, packet, message)
        if not mtu:
            return
        quoted = read_quoted(data, packet, message)
        if quoted.protocol == UDP:
            self._udp.path_takes(quoted.answered_by, quoted.destination, mtu)
            return
        self._tcp.too_big(quoted.answered_by, quoted.sequence, mtu)
