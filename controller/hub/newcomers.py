"""The one thing a newcomer may do: redeem its token (docs/protocol/README.md, E-03 to E-05)."""

import asyncio
from collections.abc import Awaitable, Callable

from controller.hub.needs import HubActions
from overlay import limits
from overlay.aio.incoming import Incoming
from overlay.aio.logs import get_logger
from overlay.control.messages import ControllerMessage, Enrol, Failed, Issued
from overlay.control.stream import encode_message, from_node
from overlay.errors import Code, FerruleError, ProtocolError, TrustError
from overlay.identity.enrolment import EXPORTER_LABEL

NEWCOMERS = 32
"""Newcomers that are served at the same time; more are told to try again."""
LINGER_SECONDS = 5.0
"""For the newcomer to take its answer and leave."""

_log = get_logger("hub")


async def serve_newcomer(actions: HubActions, incoming: Incoming) -> None:
    """Read one Enrol, answer, and end; 64 KiB and 30 s at most.

    Raises:
        OSError: the circuit was cut, or it took too long.
        FerruleError: the newcomer said something else.
    """
    exporter = incoming.exporter(EXPORTER_LABEL)
    stream = await incoming.accept()
    try:
        async with asyncio.timeout(limits.ENROL_SECONDS):
            enrol = await _first_message(stream.read)
            await stream.write(
                encode_message(await _redeem(actions, enrol, exporter, incoming.caller_public))
            )
        async with asyncio.timeout(LINGER_SECONDS):
            while await stream.read():
                raise ProtocolError("a newcomer says nothing after Enrol")
    except TimeoutError:
        raise ConnectionResetError("the newcomer took too long") from None
    finally:
        stream.abort(Code.NORMAL, "enrolment is over")


async def _first_message(read: Callable[[], Awaitable[bytes]]) -> Enrol:
    reader = from_node(newcomer=True)
    taken = 0
    while data := await read():
        taken += len(data)
        if taken > limits.ENROL_BYTES:
            raise ProtocolError("a newcomer sends too much")
        for message in reader.feed(data):
            if not isinstance(message, Enrol):
                raise ProtocolError("a newcomer may only enrol")
            return message
    raise ConnectionResetError("the newcomer left")


async def _redeem(
    actions: HubActions, enrol: Enrol, exporter: bytes, public: bytes
) -> ControllerMessage:
    try:
        chain = await actions.redeem_token(enrol.token, enrol.csr, enrol.proof, exporter, public)
    except TrustError as error:
        _log.warning("hub.token_refused", reason=str(error))
        return Failed(enrol.id, Code.NOT_TRUSTED, str(error)[: limits.MAX_REASON])
    except FerruleError as error:
        return Failed(enrol.id, Code.BUSY, str(error)[: limits.MAX_REASON])
    return Issued(enrol.id, chain)
