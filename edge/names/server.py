"""The resolver's sockets: UDP and TCP. What is not ours goes to the resolver that was there before, byte for byte."""

import asyncio
import contextlib
import functools
import ipaddress
from collections.abc import Callable, Coroutine, Iterator, Sequence

from edge.names.answers import DNS_PORT, MAX_QUERY, Other, Zone, failure
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import Connection, Datagrams, Listener, World
from overlay.slots import Slots

FORWARDS = 512
"""Queries that are with other resolvers at once; further ones are refused at once, so that the client asks another."""
DEVICES, PER_DEVICE = 384, 64
"""Of these, for all devices behind the host, and for one of them: the host's own names never wait for theirs."""
FORWARD_SECONDS = 2.0
"""For each of the other resolvers."""
CONNECTIONS = 64
CONNECTIONS_OF_DEVICES, CONNECTIONS_PER_DEVICE = 48, 8
CONNECTION_SECONDS = 10.0
"""An idle connection is closed."""
_SERVFAIL, _REFUSED = 2, 5

Address = tuple[str, int]


class Resolver:
    """Listens at this host's addresses in the pools, of both versions of IP.

    Args:
        zone: what is answered here.
        own: whether a packed address is one of this host.
        others: (address, port) of the resolvers for other names; without any these are refused.
    """

    def __init__(
        self, world: World, zone: Zone, own: Callable[[bytes], bool], others: Sequence[Address] = ()
    ) -> None:
        self.zone = zone
        self.counts = {"answered": 0, "forwarded": 0, "refused": 0}
        self._world = world
        self._own = own
        self.others = tuple(others)
        self._sockets: list[Datagrams] = []
        self._listeners: list[Listener] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = _HostFirst(FORWARDS, DEVICES, PER_DEVICE)
        self._seats = _HostFirst(CONNECTIONS, CONNECTIONS_OF_DEVICES, CONNECTIONS_PER_DEVICE)
        self._connections: set[_Conversation] = set()

    async def start(self, *addresses: str, port: int = DNS_PORT) -> None:
        """Begin to listen at all of them. Raises: OSError: it does at none."""
        net = self._world.net
        try:
            for at, address in enumerate(addresses):
                heard = functools.partial(self._asked, at)
                self._sockets.append(await net.datagrams(heard, local=(address, port)))
                self._listeners.append(await net.listen(address, port, self._accepted))
        except BaseException:
            self._silence()
            raise

    def _silence(self) -> None:
        for one in (*self._sockets, *self._listeners):
            one.close()

    async def close(self) -> None:
        """No more."""
        self._silence()
        for one in list(self._connections):
            one.close()
        await cancel(*self._tasks)

    # --- UDP --------------------------------------------------------------------------------------

    def _asked(self, at: int, data: memoryview, client: Address, *_: object) -> None:
        """A query over UDP, to the address number `at`, from which the answer has to come."""
        query = bytes(data[:MAX_QUERY])
        found = self.zone.answer(query, self._source(client), datagram=True)
        if found is Other.FORWARD:
            self._spawn(self._forward(query, client, at))
        elif isinstance(found, bytes):
            self.counts["answered"] += 1
            self._sockets[at].send(found, client)

    async def _forward(self, query: bytes, client: Address, at: int) -> None:
        with self._forwarding(self._source(client)) as may:
            answer = await self._elsewhere(query) if may else failure(query, _REFUSED)
            self._sockets[at].send(answer, client)

    @contextlib.contextmanager
    def _forwarding(self, source: bytes | None) -> Iterator[bool]:
        """A query is with others meanwhile; False: there is nobody to ask, or no place for it."""
        if not self.others or not self._waiting.take(source):
            self.counts["refused"] += 1
            yield False
            return
        self.counts["forwarded"] += 1
        try:
            yield True
        finally:
            self._waiting.give(source)

    async def _elsewhere(self, query: bytes) -> bytes:
        """What the other resolvers say: the first that answers this very query."""
        for other in self.others:
            answer = await self._ask(other, query)
            if answer is not None:
                return answer
        return failure(query, _SERVFAIL)

    async def _ask(self, other: Address, query: bytes) -> bytes | None:
        """One other resolver; its socket is for this query alone, so that its port is a secret as the number is."""
        answered: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()

        def received(data: memoryview, *_: object) -> None:
            if len(data) > 2 and bytes(data[:2]) == query[:2] and not answered.done():
                answered.set_result(bytes(data))

        def refused() -> None:
            if not answered.done():
                answered.set_result(None)

        try:
            socket = await self._world.net.datagrams(received, remote=other, refused=refused)
        except OSError:
            return None
        try:
            if not socket.send(query):
                return None
            async with asyncio.timeout(FORWARD_SECONDS):
                return await answered
        except TimeoutError:
            return None
        finally:
            socket.close()

    # --- TCP --------------------------------------------------------------------------------------

    def _accepted(self, connection: Connection) -> None:
        source = self._source(connection.peer)
        if not self._seats.take(source):
            connection.abort()
            return
        one = _Conversation(connection, self, source)
        self._connections.add(one)
        connection.start(one)

    def over(self, one: "_Conversation") -> None:
        """A connection is gone."""
        if one in self._connections:
            self._connections.discard(one)
            self._seats.give(one.source)

    def heard(self, query: bytes, one: "_Conversation") -> None:
        """A query over TCP."""
        found = self.zone.answer(query, one.source, datagram=False)
        if found is Other.FORWARD:
            self._spawn(self._forward_stream(query, one))
        elif isinstance(found, bytes):
            self.counts["answered"] += 1
            one.answer(found)
        else:
            one.close()

    async def _forward_stream(self, query: bytes, one: "_Conversation") -> None:
        with self._forwarding(one.source) as may:
            if not may:
                one.answer(failure(query, _REFUSED))
                return
            for host, port in self.others:
                try:
                    async with asyncio.timeout(2 * FORWARD_SECONDS):
                        one.answer(await self._ask_stream((host, port), query))
                    return
                except (OSError, TimeoutError, ValueError):
                    continue
            one.answer(failure(query, _SERVFAIL))

    async def _ask_stream(self, other: Address, query: bytes) -> bytes:
        """One other resolver. Raises: OSError."""
        connection = await self._world.net.connect(*other)
        try:
            return await _Question(connection, query).answered
        finally:
            connection.close()

    def _source(self, client: Address) -> bytes | None:
        packed = ipaddress.ip_address(client[0].partition("%")[0]).packed
        return None if self._own(packed) else packed

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        if len(self._tasks) >= 2 * FORWARDS:
            work.close()
            return
        task = spawn(work, "dns")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _HostFirst:
    """So many of a kind at once: in all, of all devices, and of one. None is the host itself, which devices never keep
    waiting.
    """

    def __init__(self, most: int, devices: int, per_device: int) -> None:
        self._free = most
        self._devices = Slots[bytes](devices, per_device)

    def take(self, source: bytes | None) -> bool:
        """One more; False: there is no place."""
        if not self._free or (source is not None and not self._devices.enter(source)):
            return False
        self._free -= 1
        return True

    def give(self, source: bytes | None) -> None:
        """It is free again."""
        self._free += 1
        if source is not None:
            self._devices.leave(source)


class _Frames:
    """Reads messages with their two bytes of length (RFC 1035 §4.2.2)."""

    def __init__(self, longest: int) -> None:
        self._memory = memoryview(bytearray(longest + 2))
        self._filled = 0
        self._longest = longest

    def buffer(self) -> memoryview:
        """Receiver."""
        return self._memory[self._filled :]

    def take(self, count: int) -> list[bytes]:
        """Messages that are complete now. Raises: ValueError: one is too long."""
        self._filled += count
        found = []
        while self._filled >= 2:
            size = int.from_bytes(self._memory[:2], "big")
            if size > self._longest:
                raise ValueError(size)
            if self._filled < size + 2:
                break
            found.append(bytes(self._memory[2 : size + 2]))
            rest = bytes(self._memory[size + 2 : self._filled])
            self._memory[: len(rest)] = rest
            self._filled = len(rest)
        return found


class _Conversation:
    """A client's connection: queries one after another."""

    def __init__(self, connection: Connection, resolver: Resolver, source: bytes | None) -> None:
        self.source = source
        """Who asks, as `Zone.answer` wants it."""
        self._connection = connection
        self._resolver = resolver
        self._frames = _Frames(MAX_QUERY)
        self._over = False
        self._half = False
        self._asked = 0
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(CONNECTION_SECONDS, self.close)

    def answer(self, answer: bytes) -> None:
        """Send it; a client that takes none of it is cut off."""
        if self._over:
            return
        self._asked -= 1
        data = len(answer).to_bytes(2, "big") + answer
        if self._connection.write((data,)) < len(data):
            self._connection.abort()
        elif self._half and not self._asked:
            self._connection.close()

    def close(self) -> None:
        """The connection is over."""
        if not self._over:
            self._connection.close()

    def buffer(self) -> memoryview:
        """Receiver."""
        return self._frames.buffer()

    def received(self, count: int) -> None:
        """Receiver."""
        self._timer.cancel()
        self._timer = self._loop.call_later(CONNECTION_SECONDS, self.close)
        try:
            queries = self._frames.take(count)
        except ValueError:
            self._connection.abort()
            return
        self._asked += len(queries)
        for query in queries:
            self._resolver.heard(query, self)

    def ended(self) -> None:
        """Receiver: answers that are on their way are still sent; then its place is free."""
        self._half = True
        if not self._asked:
            self.close()

    def writable(self) -> None:
        """Receiver."""

    def lost(self, error: OSError | None) -> None:
        """Receiver."""
        self._over = True
        self._timer.cancel()
        self._resolver.over(self)


class _Question:
    """One query to another resolver over TCP."""

    def __init__(self, connection: Connection, query: bytes) -> None:
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._frames = _Frames(65_535)
        self._number = query[:2]
        connection.start(self)
        connection.write((len(query).to_bytes(2, "big") + query,))

    def buffer(self) -> memoryview:
        """Receiver."""
        return self._frames.buffer()

    def received(self, count: int) -> None:
        """Receiver."""
        for answer in self._frames.take(count):  # as long as its two bytes can say: never too long
            if answer[:2] == self._number and not self.answered.done():
                self.answered.set_result(answer)

    def ended(self) -> None:
        """Receiver."""
        self.lost(None)

    def writable(self) -> None:
        """Receiver."""

    def lost(self, error: OSError | None) -> None:
        """Receiver."""
        if not self.answered.done():
            self.answered.set_exception(error or ConnectionResetError("closed without an answer"))
            self.answered.exception()  # whoever waits raises it; nobody may wait any more
