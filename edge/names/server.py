"""The resolver's sockets: UDP and TCP. What is not ours goes to the resolver that was there before, byte for byte."""

import asyncio
import ipaddress
from collections.abc import Callable, Coroutine, Sequence

from edge.names.answers import MAX_QUERY, Other, Zone, failure
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import Connection, Datagrams, Listener, World

DNS_PORT = 53
FORWARDS = 512
"""Queries that are with other resolvers at once; further ones are refused at once, so that the client asks another."""
FORWARD_SECONDS = 2.0
"""For each of the other resolvers."""
CONNECTIONS = 64
CONNECTION_SECONDS = 10.0
"""An idle connection is closed."""
_SERVFAIL, _REFUSED = 2, 5

Address = tuple[str, int]


class Resolver:
    """Listens at one address.

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
        self._others = tuple(others)
        self._socket: Datagrams | None = None
        self._listener: Listener | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._forwards = 0
        self._connections: set[_Conversation] = set()

    async def start(self, address: str, port: int = DNS_PORT) -> Address:
        """Begin to listen; where. Raises: OSError."""
        self._socket = await self._world.net.datagrams(self._asked, local=(address, port))
        try:
            self._listener = await self._world.net.listen(
                address, self._socket.local[1], self._accepted
            )
        except BaseException:
            self._socket.close()
            raise
        return self._socket.local

    async def close(self) -> None:
        """No more."""
        if self._socket is not None:
            self._socket.close()
        if self._listener is not None:
            self._listener.close()
        for one in list(self._connections):
            one.close()
        await cancel(*self._tasks)

    # --- UDP --------------------------------------------------------------------------------------

    def _asked(self, data: memoryview, client: Address) -> None:
        query = bytes(data[:MAX_QUERY])
        found = self.zone.answer(query, self._source(client), datagram=True)
        if found is Other.FORWARD:
            self._spawn(self._forward(query, client))
        elif isinstance(found, bytes):
            self.counts["answered"] += 1
            self._send(found, client)

    def _send(self, answer: bytes, client: Address) -> None:
        if self._socket is not None:
            self._socket.send(answer, client)

    async def _forward(self, query: bytes, client: Address) -> None:
        answer = await self._elsewhere(query)
        if answer is not None:
            self._send(answer, client)

    async def _elsewhere(self, query: bytes) -> bytes | None:
        """What the other resolvers say: the first that answers this very query."""
        if not self._others or self._forwards >= FORWARDS:
            self.counts["refused"] += 1
            return failure(query, _REFUSED)
        self._forwards += 1
        self.counts["forwarded"] += 1
        try:
            for other in self._others:
                answer = await self._ask(other, query)
                if answer is not None:
                    return answer
        finally:
            self._forwards -= 1
        return failure(query, _SERVFAIL)

    async def _ask(self, other: Address, query: bytes) -> bytes | None:
        """One other resolver; its socket is for this query alone, so that its port is a secret as the number is."""
        answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def received(data: memoryview, _: Address) -> None:
            if len(data) > 2 and bytes(data[:2]) == query[:2] and not answered.done():
                answered.set_result(bytes(data))

        try:
            socket = await self._world.net.datagrams(received, remote=other)
        except OSError:
            return None
        try:
            socket.send(query)
            async with asyncio.timeout(FORWARD_SECONDS):
                return await answered
        except TimeoutError:
            return None
        finally:
            socket.close()

    # --- TCP --------------------------------------------------------------------------------------

    def _accepted(self, connection: Connection) -> None:
        if len(self._connections) >= CONNECTIONS:
            connection.abort()
            return
        one = _Conversation(connection, self)
        self._connections.add(one)
        connection.start(one)

    def over(self, one: "_Conversation") -> None:
        """A connection is gone."""
        self._connections.discard(one)

    def heard(self, query: bytes, one: "_Conversation") -> None:
        """A query over TCP."""
        found = self.zone.answer(query, self._source(one.peer), datagram=False)
        if found is Other.FORWARD:
            self._spawn(self._forward_stream(query, one))
        elif isinstance(found, bytes):
            self.counts["answered"] += 1
            one.answer(found)
        else:
            one.close()

    async def _forward_stream(self, query: bytes, one: "_Conversation") -> None:
        if not self._others or self._forwards >= FORWARDS:
            self.counts["refused"] += 1
            one.answer(failure(query, _REFUSED))
            return
        self._forwards += 1
        self.counts["forwarded"] += 1
        try:
            for host, port in self._others:
                try:
                    async with asyncio.timeout(2 * FORWARD_SECONDS):
                        one.answer(await self._ask_stream((host, port), query))
                    return
                except (OSError, TimeoutError, ValueError):
                    continue
            one.answer(failure(query, _SERVFAIL))
        finally:
            self._forwards -= 1

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

    def __init__(self, connection: Connection, resolver: Resolver) -> None:
        self._connection = connection
        self._resolver = resolver
        self._frames = _Frames(MAX_QUERY)
        self._over = False
        self._half = False
        self._asked = 0
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(CONNECTION_SECONDS, self.close)
        self.peer = connection.peer

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
