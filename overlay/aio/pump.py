"""Joins an application's connection with a circuit: both directions, back-pressure, half-close; the hot path of an edge."""

from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.world import Connection


def join(connection: Connection, stream: CircuitStream) -> None:
    """Carry bytes both ways until both sides ended or one breaks; `stream.closed` tells the end.

    Takes over `connection` and `stream`. May be called while the stream is still opening.
    """
    raise NotImplementedError
