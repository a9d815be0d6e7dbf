"""UDP of the mode `tproxy`: the first datagram of a flow comes to the listener, the others to a socket of the flow.

That socket is bound to where the client sends, so answers come from there; and since it is connected, the kernel
delivers to it directly and keeps its queue apart from those of all other flows.
"""

import asyncio
import ipaddress
import socket
import struct
from collections.abc import Callable, Sequence

from edge.flow import Flow
from edge.intercept.base import Caught
from edge.intercept.flows import FLOWS, FLOWS_PER_SOURCE, Flows
from edge.intercept.senders import Senders
from overlay.aio.sockets import SocketDatagrams, make_transparent
from overlay.wire.bodies import DATAGRAMS

PER_TURN = 64
"""First datagrams read in one turn of the event loop."""
_ORIGINAL = {socket.AF_INET: (socket.IPPROTO_IP, 20), socket.AF_INET6: (socket.IPPROTO_IPV6, 74)}
"""IP_RECVORIGDSTADDR, IPV6_RECVORIGDSTADDR: setting and message (linux/in.h, linux/in6.h)."""
_CONTROL = 128

Name = tuple[str, int]


class SteeredUdp:
    """All flows.

    Args:
        socks: transparent sockets to which datagrams are steered; they belong to this from now on.
        denied: told client and destination of a flow that was denied.
    """

    def __init__(
        self,
        caught: Caught,
        senders: Senders,
        socks: Sequence[socket.socket],
        denied: Callable[[Name, Name], None],
    ) -> None:
        self._caught = caught
        self._senders = senders
        self._socks = socks
        self._denied = denied
        self._flows = Flows()
        self._loop = asyncio.get_running_loop()
        self._buffer = memoryview(bytearray(65_536))
        for sock in socks:
            sock.setsockopt(*_ORIGINAL[sock.family], 1)
            self._loop.add_reader(sock.fileno(), self._readable, sock)

    def __len__(self) -> int:
        return len(self._flows)

    def close(self) -> None:
        """No new flows; those that are live on."""
        for sock in self._socks:
            if sock.fileno() >= 0:
                self._loop.remove_reader(sock.fileno())
                sock.close()

    def _readable(self, sock: socket.socket) -> None:
        for _ in range(PER_TURN):
            if sock.fileno() < 0:
                return
            try:
                count, control, _, client = sock.recvmsg_into([self._buffer], _CONTROL)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:  # an ICMP error of an answer
                continue
            for level, kind, value in control:
                if (level, kind) == _ORIGINAL[sock.family]:
                    self._first(sock.family, self._buffer[:count], client, value)

    def _first(
        self, family: int, data: memoryview, client: tuple[str, int], destination: bytes
    ) -> None:
        """A datagram of a flow that has no socket yet, or had none when it came."""
        size, at = (4, 4) if family == socket.AF_INET else (16, 8)
        (port,) = struct.unpack_from("!H", destination, 2)
        to = destination[at : at + size]
        source = ipaddress.ip_address(client[0].partition("%")[0]).packed
        key = source + to + struct.pack("!HH", client[1], port)
        flow = self._flows.get(key) or self._begin(family, key, source, client, to, port)
        if flow is not None:
            flow.send(data)

    def _begin(
        self, family: int, key: bytes, source: bytes, client: tuple[str, int], to: bytes, port: int
    ) -> Flow | None:
        counts = self._senders.counts
        if self._flows.full(source, most=FLOWS, per_client=FLOWS_PER_SOURCE):
            counts["too many flows"] += 1
            return None
        verdict = self._senders.judge(DATAGRAMS, source, to, port)
        name = (str(ipaddress.ip_address(to)), port)
        if not verdict.service or not verdict.who:
            self._senders.turn_away(source, to, port, verdict)
            self._denied(client, name)
            return None
        try:
            sock = _connected(family, name, client)
        except OSError:  # no descriptors, or a port below 1024 without CAP_NET_BIND_SERVICE
            counts["flows without a socket"] += 1
            return None
        stream = self._caught.flow(verdict.who, verdict.service, verdict.port, verdict.address)
        if stream is None:
            sock.close()
            counts["denied"] += 1
            self._denied(client, name)
            return None
        joined: list[Flow] = []

        def received(data: memoryview, _: Name, more: bool) -> None:  # noqa: FBT001
            for flow in joined:
                flow.send(data, more=more)

        datagrams = SocketDatagrams(sock, received, remote=True)
        stream.closed.add_done_callback(lambda _: datagrams.close())
        flow = self._flows.join(key, source, stream, datagrams.send)
        joined.append(flow)
        return flow


def _connected(family: int, bound: Name, client: tuple[str, int]) -> socket.socket:
    """A socket for one flow. Raises: OSError."""
    sock = socket.socket(family, socket.SOCK_DGRAM)
    try:
        sock.settimeout(0)
        make_transparent(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # several clients, one service
        sock.bind(bound)
        sock.connect(client)
    except BaseException:
        sock.close()
        raise
    return sock
