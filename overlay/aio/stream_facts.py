"""What anybody may ask of a circuit; `CircuitDriver` does the rest."""

import asyncio
from collections.abc import Callable

from overlay.aio.circuit_roles import CircuitEnd
from overlay.circuit.circuit import Circuit


class StreamFacts:
    """May be read from any event loop: numbers may then be a moment old."""

    hosting: bool
    core: Circuit | None
    export: Callable[[str], bytes] | None
    dropped: int
    closed: "asyncio.Future[CircuitEnd]"
    _opened: "asyncio.Future[None]"
    _confirmed: bool

    @property
    def is_open(self) -> bool:
        """After READY and before the end."""
        return self._opened.done() and not self.closed.done()

    @property
    def answered(self) -> bool:
        """Caller: the host has said READY or REFUSE, sealed."""
        return self._confirmed

    @property
    def bytes_in(self) -> int:
        """Bytes towards the service so far."""
        core = self.core
        return 0 if core is None else core.bytes_received if self.hosting else core.bytes_sent

    @property
    def bytes_out(self) -> int:
        """Bytes from the service so far."""
        core = self.core
        return 0 if core is None else core.bytes_sent if self.hosting else core.bytes_received

    @property
    def datagrams_dropped(self) -> int:
        """Datagrams that this node dropped: no room, no path, too large, or come twice."""
        return self.dropped + (0 if self.core is None else self.core.datagrams.dropped)

    def exporter(self, label: str) -> bytes:
        """32 bytes that only the two ends of this circuit's handshake know (E-04).

        Raises:
            RuntimeError: the circuit came without a handshake, or it is not done.
        """
        if self.export is None:
            raise RuntimeError("this circuit has no handshake of its own")
        return self.export(label)
