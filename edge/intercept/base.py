"""The interface of interception: how connections and datagrams of programs and devices reach the overlay.

A mode listens in its own way and hands over what it caught. It knows nothing of grants: `Caught` decides. Whose traffic
it is and what it is for says a `Table`, where one listener does not stand for one service.
"""

from typing import NamedTuple, Protocol

from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.world import Connection


class Match(NamedTuple):
    """What the table says about a packet or connection.

    Attributes:
        who: the principal as which the source counts; empty for a source that nobody knows.
        service: what is at this address and port; empty where nothing is.
        asset: whose address it is.
        port: of a service with several ports (C-09); 0 for its only or first one.
    """

    who: str
    service: str
    asset: str
    port: int = 0


class Table(Protocol):
    """Which service is meant, and as whom the source counts; the most specific entry wins."""

    def find(self, protocol: int, source: bytes, destination: bytes, port: int) -> Match | None:
        """Look up a destination; None when nothing here is intercepted for it.

        Args:
            protocol: the number of IP: TCP 6, UDP 17, ICMP 1, ICMPv6 58 (these two have port 0 and name an asset).
            source: 4 or 16 bytes.
            destination: the same.
            port: the destination's.
        """
        ...


class Caught(Protocol):
    """What a mode does with what it caught (`edge.calling.Calling`)."""

    def connection(self, who: str, service: str, connection: Connection, port: int = 0) -> None:
        """A connection to a service, of a principal. Taken over; closed at once without a grant."""
        ...

    def open(self, who: str, service: str, port: int = 0) -> CircuitStream | None:
        """A circuit for a connection that is not accepted yet; None without a grant, which is recorded."""
        ...

    def flow(self, who: str, service: str, port: int = 0) -> CircuitStream | None:
        """A circuit for the datagrams of one client; None without a grant, which is recorded."""
        ...

    def echo(self, who: str, asset: str) -> CircuitStream | None:
        """A circuit for echo requests to an asset (C-80); None without any grant to it, which is recorded."""
        ...

    def turned_away(self, source: str, target: str, reason: str) -> None:
        """Traffic of nobody, or to nothing: recorded, with rate limit and count."""
        ...


class Interceptor(Protocol):
    """One thing that catches, for example a listener on one port."""

    async def start(self) -> None:
        """Begin. Raises: OSError: it cannot, for example because the port is in use."""
        ...

    def stop(self) -> None:
        """Catch nothing more; what was caught lives on."""
        ...
