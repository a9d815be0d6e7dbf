"""The interface of interception: how connections and datagrams of programs and devices reach the overlay.

A mode listens in its own way and hands over what it caught. It knows nothing of grants: `Caught` decides. Whose traffic
it is and what it is for says `edge.intercept.table.Table`, where one listener does not stand for one service.
"""

import ipaddress
from collections.abc import Callable
from typing import Protocol

from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.world import Connection
from overlay.errors import FerruleError

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
"""An address of this host with the length of its subnet."""


Opener = Callable[[bytes], CircuitStream | None]
"""Opens the circuit that was allowed, with what the client has said so far; None when it is allowed no more."""


class Failed(FerruleError):
    """A mode does not work on this machine; the sentence says what is missing."""


class Caught(Protocol):
    """What a mode does with what it caught (`edge.calling.Calling`)."""

    def connection(
        self, who: str, service: str, connection: Connection, port: int = 0
    ) -> CircuitStream | None:
        """A connection to a service, of a principal. Taken over by the circuit; closed at once without a grant."""
        ...

    def open(
        self, who: str, service: str, port: int = 0, address: bytes = b"", early: bytes = b""
    ) -> CircuitStream | None:
        """A circuit for a connection that is not accepted yet, or that the mode itself joins; None without a grant,
        which is recorded.

        `port` and `address` as in `edge.intercept.table.Verdict`; `early` is what the connection has brought already.
        """
        ...

    def allow(self, who: str, service: str, port: int = 0, address: bytes = b"") -> Opener | None:
        """As `open`, for a connection whose circuit is opened later; None without a grant, which is recorded."""
        ...

    def flow(
        self, who: str, service: str, port: int = 0, address: bytes = b""
    ) -> CircuitStream | None:
        """A circuit for the datagrams of one client; None without a grant, which is recorded."""
        ...

    def echo(self, who: str, asset: str, address: bytes = b"") -> CircuitStream | None:
        """A circuit for echo requests to an asset (C-80); None without any grant to it, which is recorded."""
        ...

    def refused(self, who: str, service: str, transport: int) -> None:
        """The kernel refused what somebody sent to a service, since there was no grant: recorded."""
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


class Device(Protocol):
    """A mode that catches all that is assigned to it (`tun`, `tproxy`, `redirect`).

    `mode` is its name.
    """

    mode: str

    @property
    def interface(self) -> str:
        """That which has the edge's own addresses."""
        ...

    async def start(self) -> None:
        """Begin. Raises: Failed: it cannot, and nothing is left of it."""
        ...

    async def refresh(self) -> None:
        """What is caught has changed. Raises: Failed: it stays as it was."""
        ...

    def cut(self) -> None:
        """Catch nothing more from now on; what is left on the host is taken back by `stop`."""
        ...

    async def stop(self) -> None:
        """Nothing of it is left when this returns."""
        ...

    @property
    def problems(self) -> list[str]:
        """What of it does not work now, each in a sentence."""
        ...

    @property
    def counts(self) -> dict[str, int]:
        """What was dropped, denied and refused."""
        ...

    @property
    def flows(self) -> dict[str, int]:
        """What goes on through it now."""
        ...
