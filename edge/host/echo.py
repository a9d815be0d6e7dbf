"""Hosting of ICMP echo: the asset itself is asked, and only its own answers travel back (C-80 to C-83)."""

import struct
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from edge.flow import Flow
from edge.host.base import Place
from edge.host.tcp import UnreachableError
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.incoming import Incoming
from overlay.aio.lifecycle import describe

ECHO_HEADER = 4
MAX_ECHO = 1472
"""Bytes of payload of an echo request; longer ones are dropped."""
PENDING = 64
"""Requests of one circuit that wait for the asset's answer; the oldest gives way."""

_ECHO = struct.Struct("!HH")


class Echo(NamedTuple):
    """A request or a reply, as a datagram of the circuit (C-82)."""

    identifier: int
    sequence: int
    payload: bytes

    def encode(self) -> bytes:
        """For the circuit."""
        return _ECHO.pack(self.identifier, self.sequence) + self.payload


def read_echo(data: bytes) -> Echo | None:
    """A datagram of an echo circuit; None when it is none, or too long."""
    if not ECHO_HEADER <= len(data) <= ECHO_HEADER + MAX_ECHO:
        return None
    identifier, sequence = _ECHO.unpack_from(data)
    return Echo(identifier, sequence, data[ECHO_HEADER:])


class Ping(Protocol):
    """A socket that sends echo requests to one address and hears the replies."""

    def send(self, sequence: int, payload: bytes) -> None:
        """Best effort, never blocks."""
        ...

    def close(self) -> None:
        """Nothing is received from now on."""
        ...


OpenPing = Callable[[str, Callable[[int, bytes], None]], Awaitable[Ping]]
"""Makes a `Ping` to an address; the callback gets sequence and payload of each reply. Raises: OSError."""


class Waiting:
    """Requests that are on their way, under sequence numbers of this host's own. Pure."""

    def __init__(self) -> None:
        self._asked: OrderedDict[int, Echo] = OrderedDict()
        self._next = 0

    def __len__(self) -> int:
        return len(self._asked)

    def asked(self, echo: Echo) -> int:
        """The sequence number to use towards the asset."""
        self._next = (self._next + 1) & 0xFFFF
        self._asked.pop(self._next, None)
        self._asked[self._next] = echo
        if len(self._asked) > PENDING:
            self._asked.popitem(last=False)
        return self._next

    def answered(self, sequence: int, payload: bytes) -> Echo | None:
        """What was asked, when this answers it; each is answered once."""
        echo = self._asked.get(sequence)
        if echo is None or echo.payload != payload:
            return None
        return self._asked.pop(sequence)


async def carry(open_ping: OpenPing, place: Place, incoming: Incoming) -> CircuitStream:
    """Make a socket that pings the asset, and accept the circuit.

    Raises:
        UnreachableError: this host may not ping, or not this address.
        Refused: the caller is gone meanwhile.
    """
    waiting = Waiting()
    flows: list[Flow] = []

    def replied(sequence: int, payload: bytes) -> None:
        echo = waiting.answered(sequence, payload)
        if echo is not None:
            for flow in flows:
                flow.send(echo.encode())

    def ask(data: bytes) -> None:
        echo = read_echo(data)
        if echo is not None:
            ping.send(waiting.asked(echo), echo.payload)

    try:
        ping = await open_ping(place.host, replied)
    except OSError as error:
        raise UnreachableError(f"{place}: {describe(error)}") from None
    try:
        stream = await incoming.accept()
    except BaseException:
        ping.close()
        raise
    flows.append(Flow(stream, ask, ping.close))
    return stream
