"""Hosted circuits that come back over another path, or go on under another grant (C-60 to C-62, G-03)."""

import asyncio
from typing import TYPE_CHECKING

from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.circuit_roles import Refused
from overlay.aio.incoming import EndedCircuits
from overlay.aio.node_circuits import NodeCircuits
from overlay.errors import Code, FerruleError, ProtocolError, TamperError
from overlay.policy.grant import Grant
from overlay.policy.grant_check import check_refresh
from overlay.wire.bodies import Resume, ResumeIntent
from overlay.wire.codec import decode
from overlay.wire.header import Header

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver


class HostPaths:
    """Of all circuits that `node` hosts."""

    def __init__(self, node: NodeCircuits) -> None:
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._ended = EndedCircuits()

    def resume(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """A RESUME on a hop that is new (C-61). Whatever is wrong with it costs this hop only."""
        number = header.circuit
        try:
            body = decode(Resume, payload)
            intent = decode(ResumeIntent, body.intent)
            stream = self.known(intent.circuit)
            core = None if stream is None else stream.core
            if stream is None or core is None or not stream.hosting or not core.opened:
                raise ProtocolError("no such circuit", Code.UNKNOWN_CIRCUIT)
            named = (intent.circuit, intent.association, intent.number, intent.host, intent.service)
            if named != core.names[:5]:
                raise TamperError("a RESUME names another association, host or service")
            grant = self._renewed(stream, intent.grant)
            events = core.resumed(header, body, self._loop.time())
        except FerruleError as error:
            code = error.code if isinstance(error, ProtocolError | Refused) else Code.TAMPER
            self._node.turn_away(link, number, code, str(error))
            if code in (Code.TAMPER, Code.PROTOCOL):
                self._node.security(code, str(error), None)
            return
        stream.go_on_under(grant, intent.grant, (*body.path, self._node.name))
        stream.place(link, number)
        stream.go(events)

    def _renewed(self, stream: CircuitDriver, grant_bytes: bytes) -> Grant | None:
        """A grant that a running circuit is to go on under. Raises: FerruleError."""
        old = stream.grant
        if old is None:
            if grant_bytes:
                raise ProtocolError("a grant for the control service")
            return None
        grant = self._node.verified(grant_bytes)
        objection = check_refresh(old, grant) or self._node.check(
            grant,
            key_id=old.caller_key,
            via=old.via,
            service=old.service,
            transport=old.transport,
            integrity=old.integrity,
            host=self._node.name,
        )
        if objection is not None:
            raise Refused(*objection)
        return grant

    def refreshed(self, stream: CircuitDriver, grant_bytes: bytes) -> None:
        """G-03: the caller sent another grant along a running circuit."""
        try:
            stream.go_on_under(self._renewed(stream, grant_bytes), grant_bytes, stream.path)
        except FerruleError as error:
            code = error.code if isinstance(error, Refused) else Code.BAD_GRANT
            self._node.security(code, str(error), stream)
            stream.abort(code, str(error))

    def keep(self, stream: CircuitDriver) -> None:
        """The circuit has ended; a caller that did not hear it may ask for a while (C-62)."""
        self._ended.keep(stream, self._loop.time())

    def known(self, circuit_id: bytes) -> CircuitDriver | None:
        """A hosted circuit that runs, or ended not long ago."""
        return self._node.find(circuit_id) or self._ended.find(circuit_id, self._loop.time())
