"""The interface of interception: how connections and datagrams of programs and devices reach the overlay.

A mode listens in its own way and hands over what it caught. It knows nothing of grants: `Caught` decides.
"""

from typing import Protocol

from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.world import Connection


class Caught(Protocol):
    """What a mode does with what it caught (`edge.calling.Calling`)."""

    def connection(self, who: str, service: str, connection: Connection) -> None:
        """A connection to a service, of a principal. Taken over; closed at once without a grant."""
        ...

    def flow(self, who: str, service: str) -> CircuitStream | None:
        """A circuit for the datagrams of one client; None without a grant."""
        ...


class Interceptor(Protocol):
    """One thing that catches, for example a listener on one port."""

    async def start(self) -> None:
        """Begin. Raises: OSError: it cannot, for example because the port is in use."""
        ...

    def stop(self) -> None:
        """Catch nothing more; what was caught lives on."""
        ...
