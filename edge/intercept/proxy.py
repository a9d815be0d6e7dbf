"""`proxy` interception: a loopback or LAN port per service, for TCP and UDP; needs no privileges and changes
no host.
"""

from collections import Counter, OrderedDict

from edge.flow import Flow
from edge.intercept.base import Caught
from overlay import limits
from overlay.aio.world import Connection, Datagrams, Listener, World
from overlay.control.messages import ListenerEntry

Address = tuple[str, int]
_OWN = ("127.", "::1")


class Places:
    """What a listener has room for, in all and for each client, so that no device takes the places of all others.

    Programs of this host have one address in common: for them there is no share.
    """

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()

    def full(self, client: str, most: int, share: int) -> str:
        """What is in the way of one more, in words; empty: nothing. `client` is an address."""
        if self._taken.total() >= most:
            return "as many connections as it may"
        if self._taken[client] >= share and not client.startswith(_OWN):
            return f"as many connections of {client} as one client may have"
        return ""

    def take(self, client: str) -> None:
        """One more."""
        self._taken[client] += 1

    def give_back(self, client: str) -> None:
        """It is over."""
        self._taken[client] -= 1
        if not self._taken[client]:
            del self._taken[client]


class TcpListener:
    """Each connection becomes a circuit; at most `TCP_CONNECTIONS_PER_LISTENER`, `TCP_CONNECTIONS_PER_CLIENT` of one
    client, further ones are closed at once.
    """

    def __init__(
        self, world: World, entry: ListenerEntry, address: Address, caught: Caught
    ) -> None:
        self._world = world
        self._entry = entry
        self._address = address
        self._caught = caught
        self._listener: Listener | None = None
        self._places = Places()

    async def start(self) -> None:
        """Bind. Raises: OSError."""
        self._listener = await self._world.net.listen(*self._address, self._accepted)

    def stop(self) -> None:
        """Bound no more; connections live on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _accepted(self, connection: Connection) -> None:
        entry, client = self._entry, connection.peer[0]
        full = self._places.full(
            client, limits.TCP_CONNECTIONS_PER_LISTENER, limits.TCP_CONNECTIONS_PER_CLIENT
        )
        if full:
            reason = f"{entry.listen} has {full}"
            self._caught.turned_away(client, entry.service, reason)
            connection.abort()
            return
        stream = self._caught.connection(entry.who, entry.service, connection)
        if stream is not None:
            self._places.take(client)
            stream.closed.add_done_callback(lambda _: self._places.give_back(client))


class UdpListener:
    """Each client's address becomes a flow; at most `UDP_FLOWS_PER_LISTENER`, `UDP_FLOWS_PER_CLIENT` of one
    host; further ones wait for one to go quiet.
    """

    def __init__(
        self, world: World, entry: ListenerEntry, address: Address, caught: Caught
    ) -> None:
        self._world = world
        self._entry = entry
        self._address = address
        self._caught = caught
        self._socket: Datagrams | None = None
        self._flows: OrderedDict[Address, Flow] = OrderedDict()
        self._places = Places()
        self.dropped = 0
        """Datagrams without a grant, or of clients beyond the limit."""

    async def start(self) -> None:
        """Bind. Raises: OSError."""
        self._socket = await self._world.net.datagrams(self._received, local=self._address)

    def stop(self) -> None:
        """Bound no more: flows have nowhere to send to and go quiet."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _received(self, data: memoryview, client: Address, more: bool) -> None:  # noqa: FBT001
        flow = self._flows.get(client)
        if flow is None:
            flow = self._begin(client)
        if flow is None:
            self.dropped += 1
        else:
            flow.send(data, more=more)

    def _begin(self, client: Address) -> Flow | None:
        most, share = limits.UDP_FLOWS_PER_LISTENER, limits.UDP_FLOWS_PER_CLIENT
        if self._places.full(client[0], most, share):
            return None
        stream = self._caught.flow(self._entry.who, self._entry.service)
        if stream is None:
            return None

        def deliver(data: bytes) -> bool:
            return self._socket is not None and self._socket.send(data, client)

        flow = Flow(stream, deliver, lambda: self._ended(client, stream))
        if not stream.closed.done():
            self._flows[client] = flow
            self._places.take(client[0])
        return flow

    def _ended(self, client: Address, stream: object) -> None:
        flow = self._flows.get(client)
        if flow is not None and flow.is_of(stream):
            del self._flows[client]
            self._places.give_back(client[0])
