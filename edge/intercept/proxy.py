"""`proxy` interception: a loopback or LAN port per service, for TCP and UDP; needs no privileges and changes
no host.
"""

from collections import OrderedDict

from edge.flow import Flow
from edge.intercept.base import Caught
from overlay import limits
from overlay.aio.world import Connection, Datagrams, Listener, World
from overlay.control.messages import ListenerEntry

Address = tuple[str, int]


class TcpListener:
    """Each connection becomes a circuit; at most `TCP_CONNECTIONS_PER_LISTENER`, further ones are closed at once."""

    def __init__(
        self, world: World, entry: ListenerEntry, address: Address, caught: Caught
    ) -> None:
        self._world = world
        self._entry = entry
        self._address = address
        self._caught = caught
        self._listener: Listener | None = None
        self._open = 0

    async def start(self) -> None:
        """Bind. Raises: OSError."""
        self._listener = await self._world.net.listen(*self._address, self._accepted)

    def stop(self) -> None:
        """Bound no more; connections live on."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _accepted(self, connection: Connection) -> None:
        entry = self._entry
        if self._open >= limits.TCP_CONNECTIONS_PER_LISTENER:
            reason = f"{entry.listen} has as many connections as it may"
            self._caught.turned_away(connection.peer[0], entry.service, reason)
            connection.abort()
            return
        stream = self._caught.connection(entry.who, entry.service, connection)
        if stream is not None:
            self._open += 1
            stream.closed.add_done_callback(self._ended)

    def _ended(self, _: object) -> None:
        self._open -= 1


class UdpListener:
    """Each client's address becomes a flow; at most `UDP_FLOWS_PER_LISTENER`, further clients wait for one to
    go quiet.
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
        if len(self._flows) >= limits.UDP_FLOWS_PER_LISTENER:
            return None
        stream = self._caught.flow(self._entry.who, self._entry.service)
        if stream is None:
            return None

        def deliver(data: bytes) -> bool:
            return self._socket is not None and self._socket.send(data, client)

        flow = Flow(stream, deliver, lambda: self._ended(client, stream))
        if not stream.closed.done():
            self._flows[client] = flow
        return flow

    def _ended(self, client: Address, stream: object) -> None:
        flow = self._flows.get(client)
        if flow is not None and flow.is_of(stream):
            del self._flows[client]
