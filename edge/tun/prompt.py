"""The kernel's end of an intercepted connection, whose short answers are carried on to the client at once.

What is written to it comes out of the device as a packet, which would wait until the event loop has done all else that
it has to do: a poll would wait for what its own answer gives to do.
"""

from collections.abc import Callable, Sequence

from overlay.aio.stream_socket import SocketConnection
from overlay.aio.world import Buffer

SHORT = 1024
"""Bytes of an answer that is carried on at once; longer ones are part of more, which goes in big packets."""


class PromptConnection(SocketConnection):
    """Set `carry` to what reads the device's queue; only the event loop in which that is reads it."""

    carry: Callable[[], None] | None = None

    def write(self, parts: Sequence[Buffer], *, more: bool = False) -> int:
        """Connection."""
        taken = super().write(parts, more=more)
        if taken <= SHORT and self.carry is not None:
            self.carry()
        return taken

    def release(self) -> None:
        """Connection."""
        self.carry = None
        super().release()
