"""How much of intercepted traffic goes on at once, the same for every mode, and the flows of datagrams that the edge
reads and answers itself: by key, bounded in all and for each client.
"""

from collections import Counter
from collections.abc import Callable

from edge.flow import Flow
from overlay import limits
from overlay.aio.circuit_stream import CircuitStream

CONNECTIONS = 16_384
"""TCP connections of a mode at once, by TUN the resting ones included: as many as a link takes circuits."""
CONNECTIONS_PER_SOURCE = limits.TCP_CONNECTIONS_PER_CLIENT
"""Three quarters of what a router takes of an edge: a device that leaks connections leaves the others room."""
FLOWS = 4096
"""UDP conversations of a mode; a further client waits for one to go quiet."""
FLOWS_PER_SOURCE = 1024


class Flows:
    """Those that live. A client is told by the source address of its packets."""

    def __init__(self) -> None:
        self._flows: dict[bytes, Flow] = {}
        self._clients: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._flows)

    def __contains__(self, key: bytes) -> bool:
        return key in self._flows

    def get(self, key: bytes) -> Flow | None:
        """The flow of this key, if it lives."""
        return self._flows.get(key)

    def full(self, client: bytes, *, most: int, per_client: int) -> bool:
        """This client can have no other now: there are `most` in all, or `per_client` of its own."""
        return len(self._flows) >= most or self._clients[client] >= per_client

    def close(self, reason: str) -> None:
        """Nobody gets an answer any more."""
        for flow in list(self._flows.values()):
            flow.cut(reason)

    def join(
        self,
        key: bytes,
        client: bytes,
        stream: CircuitStream,
        deliver: Callable[[bytes], bool | None],
    ) -> Flow:
        """A flow in this circuit, here until the circuit ends."""

        def ended() -> None:
            if self._flows.pop(key, None) is not None:
                self._clients[client] -= 1
                if not self._clients[client]:
                    del self._clients[client]

        flow = Flow(stream, deliver, ended)
        if not stream.closed.done():
            self._flows[key] = flow
            self._clients[client] += 1
        return flow
