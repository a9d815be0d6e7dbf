"""Streams and datagrams between simulated hosts: latency, bandwidth, cut cables, short reads, changed bytes."""

import asyncio
import contextvars
import errno
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from overlay.aio.world import Buffer, Received, Receiver

if TYPE_CHECKING:
    from tests.support.simulation import Host, SimulatedLoop

Address = tuple[str, int]
Filter = Callable[[str, str, bytes], bytes]
"""(from host, to host, bytes as written) to the bytes that arrive."""

WINDOW = 256 * 1024
"""Bytes of one direction that were written and not read yet: the socket buffers of both ends."""
SEGMENT = 8 * 1024
"""Bytes that arrive at once over a wire of limited bandwidth."""
WHOLE, SHORT = 0.4, 64
"""Of short reads: the share that takes all, and how many bytes half of the others take at most."""
_LOCAL = frozenset({"127.0.0.1", "::1", "localhost", "0.0.0.0", "::", ""})


class SimulatedNetwork:
    """All wires. `latency` in seconds one way, `jitter` the share by which it varies, `bandwidth` in bytes per second and
    direction of a connection (None: unlimited), `loss` the share of lost datagrams."""

    def __init__(self, loop: "SimulatedLoop", rng: random.Random) -> None:
        self.hosts: dict[str, Host] = {}
        self.latency = 0.000_5
        self.jitter = 0.2
        self.bandwidth: float | None = None
        self.loss = 0.0
        self.sources: dict[str, str] = {}
        """From which address a host reaches others, where it is not its name."""
        self.short_reads = False
        """Hand bytes out in pieces of random size."""
        self.filter: Filter | None = None
        self.bytes = 0
        self.listeners: dict[Address, tuple[Host, Callable[[SimulatedConnection], None]]] = {}
        self.sockets: dict[Address, SimulatedDatagrams] = {}
        self.connections: list[SimulatedConnection] = []
        self.rng = rng
        self.loop = loop
        self.lag: dict[tuple[str, str], float] = {}
        """Seconds more that all takes from one host to another: a queue in between."""
        self.asleep: set[str] = set()
        """Hosts whose kernel neither sends nor takes anything."""
        self.walls: set[tuple[str, str]] = set()
        """(from, to): a firewall refuses what the one dials at the other."""
        self._cut: set[tuple[str, str]] = set()
        self._nowhere = contextvars.Context()
        self._ports = 40_000

    def cut(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Unplug the cable between two hosts: nothing arrives, nobody is told. `one_way`: only from `one` to `other`."""
        self._cut.add((one, other))
        if not one_way:
            self._cut.add((other, one))

    def heal(self, one: str, other: str) -> None:
        """Plug it in again: what was on its way arrives, as TCP would have it."""
        self._cut -= {(one, other), (other, one)}
        self._kick()

    def woke(self, host: "Host") -> None:
        """A host that slept takes part again."""
        self.asleep.discard(host.name)
        self._kick()

    def _kick(self) -> None:
        for connection in list(self.connections):
            connection.kick()
            connection.other.kick()  # it may be closed, and what it said last still under way

    def is_cut(self, one: str, other: str) -> bool:
        """Whether what `one` sends does not reach `other`."""
        return (one, other) in self._cut or not self.asleep.isdisjoint((one, other))

    def keepalive(self) -> None:
        """Kernels probe idle connections, and give up what nobody acknowledges: who missed the reset of the other end, or
        talks to an address that is not there any more, learns it now.
        """
        for connection in list(self.connections):
            if connection.stranded or connection.other._gone:
                self.physical(self.loop.now + 1.0, connection._probed)

    def strand(self, connection: "SimulatedConnection") -> None:
        """One of the two addresses is gone for ever: nothing arrives any more, and nobody is told."""
        connection.stranded = connection.other.stranded = True

    def reset(self, connection: "SimulatedConnection") -> None:
        """Something in between ends a connection: both ends are told, where the cable is plugged in."""
        for end in (connection, connection.other):
            self.physical(self.loop.now, end._was_reset)

    def delay(self) -> float:
        return self.latency * (1 + self.jitter * self.rng.random())

    def piece(self, most: int) -> int:
        """How much of what has arrived is handed out at once: so that parts end anywhere, and are few."""
        luck = self.rng.random() if self.short_reads else 0.0
        if luck < WHOLE:
            return most
        return self.rng.randint(1, min(most, SHORT) if luck < WHOLE + (1 - WHOLE) / 2 else most)

    def port(self) -> int:
        self._ports += 1
        return self._ports

    def physical(self, when: float, callback: Callable[..., None], *args: object) -> None:
        """Something that happens to wires, not on a host."""
        self.loop.call_truly_at(when, callback, *args, context=self._nowhere)

    def crashed(self, host: "Host") -> None:
        self.asleep.discard(host.name)
        for address in [a for a, (owner, _) in self.listeners.items() if owner is host]:
            del self.listeners[address]
        for address in [a for a in self.sockets if a[0] == host.name]:
            del self.sockets[address]
        for connection in [c for c in self.connections if c.host is host]:
            connection.die()


class HostNetwork:
    """`Network` as one host sees it."""

    def __init__(self, net: SimulatedNetwork, host: "Host") -> None:
        self._net = net
        self._host = host

    async def connect(self, host: str, port: int, *, source: str = "") -> "SimulatedConnection":
        net = self._net
        if source:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        target = self._host.name if host in _LOCAL else host
        if target not in net.hosts:
            raise OSError(errno.EHOSTUNREACH, "No route to host")
        while True:
            await asyncio.sleep(2 * net.delay())
            if not net.is_cut(self._host.name, target) and not net.is_cut(target, self._host.name):
                break
            await asyncio.sleep(1.0)  # the kernel repeats its SYN
        if (self._host.name, target) in net.walls:
            raise OSError(errno.EHOSTUNREACH, "No route to host")
        listening = net.listeners.get((target, port))
        if listening is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        owner, accepted = listening
        here = SimulatedConnection(net, self._host, (target, port))
        there = SimulatedConnection(net, owner, (self._host.name, net.port()))
        here.other, there.other = there, here
        net.connections += [here, there]
        owner.call(accepted, there)
        return here

    def source(self, remote: Address) -> str:
        return self._net.sources.get(self._host.name, self._host.name)

    async def listen(
        self, host: str, port: int, accepted: Callable[["SimulatedConnection"], None]
    ) -> "SimulatedListener":
        address = (self._host.name, port or self._net.port())
        if address in self._net.listeners:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        self._net.listeners[address] = (self._host, accepted)
        return SimulatedListener(self._net, address)

    async def datagrams(
        self,
        received: Received,
        *,
        local: Address | None = None,
        remote: Address | None = None,
        source: str = "",
        refused: Callable[[], None] | None = None,
    ) -> "SimulatedDatagrams":
        del refused  # nobody sends ICMP here
        if source:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        port = local[1] if local is not None and local[1] else self._net.port()
        target = None
        if remote is not None:
            target = (self._host.name if remote[0] in _LOCAL else remote[0], remote[1])
        return SimulatedDatagrams(self._net, self._host, port, received, target)


class SimulatedListener:
    """`Listener`."""

    def __init__(self, net: SimulatedNetwork, address: Address) -> None:
        self._net = net
        self.local = address

    def close(self) -> None:
        self._net.listeners.pop(self.local, None)


class SimulatedDatagrams:
    """`Datagrams`."""

    def __init__(
        self,
        net: SimulatedNetwork,
        host: "Host",
        port: int,
        received: Received,
        remote: Address | None,
    ) -> None:
        self.local = (host.name, port)
        self._net = net
        self._host = host
        self._received = received
        self._remote = remote
        if self.local in net.sockets:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        net.sockets[self.local] = self

    def send(self, data: Buffer, to: Address | None = None) -> bool:
        target = to or self._remote
        net = self._net
        if target is None or net.is_cut(self.local[0], target[0]) or net.rng.random() < net.loss:
            return True  # lost on the way: nobody knows
        target = (self.local[0] if target[0] in _LOCAL else target[0], target[1])
        net.physical(net.loop.now + net.delay(), self._arrive, target, bytes(data))
        return True

    def _arrive(self, target: Address, data: bytes) -> None:
        socket = self._net.sockets.get(target)
        if socket is not None and socket._remote in {None, self.local}:
            socket._host.call(socket._received, memoryview(data), self.local, False)

    def close(self) -> None:
        self._net.sockets.pop(self.local, None)


class SimulatedConnection:
    """`Connection`: one end of a stream."""

    other: "SimulatedConnection"

    def __init__(self, net: SimulatedNetwork, host: "Host", peer: Address) -> None:
        self.peer = peer
        self.host = host
        self.clock = asyncio.get_running_loop().time
        self._net = net
        self._receiver: Receiver | None = None
        self._paused = False
        self._gone = False
        self._ended_writing = False
        self._arrived: deque[memoryview | None] = deque()  # None: end of stream
        self._room = WINDOW
        self._wants_room = False
        self._in_time = 0.0  # when the last would have arrived without any lag
        self._last_arrival = 0.0
        self._saw_end = False
        self._stuck: deque[tuple[int, bytes | None]] = deque()  # on a cut cable, or before it
        self._said = 0
        self._heard = 0
        self._ahead: dict[int, bytes | None] = {}  # came before what was said before it
        self._reading = False
        self._released = False
        self._missed: list[Callable[[], None]] = []
        self.stranded = False

    # --- Connection ---------------------------------------------------------------------------------

    def arrived(self, most: int) -> bytes:
        if self._gone or not self._arrived or (data := self._arrived[0]) is None:
            return b""
        return bytes(data[: self._took(min(most, len(data)))])

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._read_soon()

    def write(self, parts: Sequence[Buffer]) -> int:
        assert not self._released
        wanted = sum(map(len, parts))
        if self._gone or self._ended_writing:
            return wanted
        data = b"".join(parts)[: self._room]
        self._room -= len(data)
        if len(data) < wanted:
            self._wants_room = True
        # Where a wire takes its time, what was written together does not arrive together.
        size = SEGMENT if self._net.bandwidth else len(data)
        for start in range(0, len(data), size or 1):
            self._say(data[start : start + size])
        return len(data)

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._read_soon()

    def end(self) -> None:
        if not self._gone and not self._ended_writing:
            self._ended_writing = True
            self._say(None)

    def close(self) -> None:
        self.end()
        self._lose(None)

    def abort(self) -> None:
        if not self._gone:
            self._reset_other()
            self._lose(None)

    def release(self) -> None:
        assert not self._released
        self._released = True

    def settle(self) -> None:
        assert self._released
        self._released = False
        self._read_soon()
        missed, self._missed = self._missed, []
        for call in missed:
            self.host.call(call)

    def hold(self, unsent: int) -> None:
        """Nothing is sent late here."""

    def unacknowledged(self) -> int:
        return WINDOW - self._room

    def _tell(self, call: Callable[[], None]) -> None:
        """In a turn of its own, unless nobody owns this connection then: later."""
        if self._released:
            self._missed.append(call)
        else:
            call()

    def fileno(self) -> int:
        return -1

    # --- the wire -----------------------------------------------------------------------------------

    def die(self) -> None:
        """The host is gone: its kernel resets what it knew. Nobody here is told."""
        self._reset_other()
        self._gone = True
        self._forget()

    def kick(self) -> None:
        """The cable is plugged in again."""
        stuck, self._stuck = self._stuck, deque()
        for number, data in sorted(stuck, key=lambda one: one[0]):
            self._transmit(number, data)

    def _say(self, data: bytes | None) -> None:
        self._said += 1
        self._transmit(self._said, data)

    def _transmit(self, number: int, data: bytes | None) -> None:
        net = self._net
        if self.stranded:
            return
        if net.is_cut(self.host.name, self.other.host.name):
            self._stuck.append((number, data))
            return
        if data is not None:
            net.bytes += len(data)
            if net.filter is not None:
                data = net.filter(self.host.name, self.other.host.name, data)
        began = max(net.loop.now, self._in_time - net.latency)
        spent = len(data or b"") / net.bandwidth if net.bandwidth else 0.0
        self._in_time = max(self._in_time, began + spent + net.delay())
        lag = net.lag.get((self.host.name, self.other.host.name), 0.0)
        self._last_arrival = max(self._last_arrival, self._in_time + lag)
        net.physical(self._last_arrival, self.other._arrive, number, data)

    def _arrive(self, number: int, data: bytes | None) -> None:
        if self.stranded:
            return
        if self._gone:
            if data:
                self._reset_other()  # nobody is here any more
            return
        if self._net.is_cut(self.other.host.name, self.host.name):
            self.other._stuck.append((number, data))
            return
        self._ahead[number] = data
        while self._heard + 1 in self._ahead:
            self._heard += 1
            data = self._ahead.pop(self._heard)
            self._arrived.append(None if data is None else memoryview(data))
        self._read_soon()

    def _read_soon(self) -> None:
        if not self._reading and self._arrived and not self._gone:
            self._reading = True
            self.host.call(self._read)

    def _read(self) -> None:
        self._reading = False
        receiver = self._receiver
        if receiver is None or self._paused or self._gone or self._released or not self._arrived:
            return
        data = self._arrived[0]
        if data is None:
            self._arrived.popleft()
            self._saw_end = True
            receiver.ended()
            return
        buffer = receiver.buffer()
        size = self._took(min(len(buffer), len(data)))
        buffer[:size] = data[:size]
        receiver.received(size)
        self._read_soon()

    def _took(self, most: int) -> int:
        """Take at most so many bytes from the first part that arrived; how many it were."""
        data = self._arrived[0]
        assert data is not None
        size = self._net.piece(most)
        if size == len(data):
            self._arrived.popleft()
        else:
            self._arrived[0] = data[size:]
        self.other._freed(size)
        return size

    def _freed(self, size: int) -> None:
        self._room += size
        if self._wants_room and not self._gone:
            self._wants_room = False
            self.host.call(self._tell, self._tell_writable)

    def _tell_writable(self) -> None:
        if self._receiver is not None and not self._gone:
            self._receiver.writable()

    def _probed(self) -> None:
        if self.stranded:
            self._lose(TimeoutError(errno.ETIMEDOUT, "Connection timed out"))
        elif self.other._gone and not self._saw_end and not self._arrived:
            self._was_reset()

    def _reset_other(self) -> None:
        net = self._net
        net.physical(net.loop.now + net.delay(), self.other._was_reset)

    def _was_reset(self) -> None:
        if self.stranded or self._net.is_cut(self.other.host.name, self.host.name):
            return  # that packet is gone; this end will find out by itself
        self._arrived.clear()
        self._lose(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"))

    def _lose(self, error: OSError | None) -> None:
        if self._gone:
            return
        self._gone = True
        self._forget()
        if self._receiver is not None:
            self.host.call(self._tell, partial(self._receiver.lost, error))

    def _forget(self) -> None:
        if self in self._net.connections:
            self._net.connections.remove(self)
