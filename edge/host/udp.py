"""Hosting over UDP: one connected socket per circuit, so that the asset sees one client per flow."""

from edge.flow import Flow
from edge.host.base import Place
from edge.host.tcp import UnreachableError
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.incoming import Incoming
from overlay.aio.lifecycle import describe
from overlay.aio.world import World


async def carry(world: World, place: Place, incoming: Incoming, source: str = "") -> CircuitStream:
    """Make a socket towards the asset, as `source` where it is not empty, and accept the circuit.

    UDP has no answer to wait for.

    Raises:
        UnreachableError: no socket can be made for this address.
        Refused: the caller is gone meanwhile.
    """
    flows: list[Flow] = []

    def received(data: memoryview, _: tuple[str, int], more: bool) -> None:  # noqa: FBT001
        for flow in flows:
            flow.send(data, more=more)

    try:
        remote = (place.host, place.port)
        socket = await world.net.datagrams(received, remote=remote, source=source)
    except OSError as error:
        raise UnreachableError(f"{place}: {describe(error)}") from None
    try:
        stream = await incoming.accept()
    except BaseException:
        socket.close()
        raise
    flows.append(Flow(stream, socket.send, socket.close))
    return stream
