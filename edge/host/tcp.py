"""Hosting over TCP: dial the asset, then join its connection with the circuit."""

import asyncio

from edge.host.base import Place
from overlay import limits
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.incoming import Incoming
from overlay.aio.lifecycle import describe
from overlay.aio.pump import join
from overlay.aio.world import World
from overlay.errors import FerruleError


class UnreachableError(FerruleError):
    """The asset does not answer; the text says how it failed."""


async def carry(world: World, place: Place, incoming: Incoming, source: str = "") -> CircuitStream:
    """Dial the asset, as `source` where it is not empty, and accept the circuit.

    Raises:
        UnreachableError: the asset does not answer within `DIAL_ASSET_SECONDS`.
        Refused: the caller is gone meanwhile.
    """
    try:
        async with asyncio.timeout(limits.DIAL_ASSET_SECONDS):
            connection = await world.net.connect(place.host, place.port, source=source)
    except TimeoutError:
        seconds = f"{limits.DIAL_ASSET_SECONDS:.0f} s"
        raise UnreachableError(f"{place} does not answer within {seconds}") from None
    except OSError as error:
        raise UnreachableError(f"{place}: {describe(error)}") from None
    try:
        stream = await incoming.accept()
    except BaseException:
        connection.close()
        raise
    join(connection, stream)
    return stream
