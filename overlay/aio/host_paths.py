"""Hosted circuits that come back over another path, or go on under another grant (C-60 to C-62, G-03)."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.circuit_roles import Refused, StreamOwner
from overlay.aio.incoming import EndedCircuits
from overlay.aio.node_circuits import NodeCircuits
from overlay.circuit.events import Event
from overlay.errors import Code, FerruleError, LateError, ProtocolError, TamperError
from overlay.policy.grant import Grant
from overlay.policy.grant_check import check_refresh
from overlay.wire.bodies import EXPRESS, Resume, ResumeIntent
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
        """A RESUME on a hop that is new (C-61), of whichever lane. Whatever is wrong with it costs this hop only."""
        node = self._node
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
            if link.lane != EXPRESS and (
                stream.companion is None or node.lanes is None or not node.lanes.knows(link)
            ):
                raise ProtocolError("this circuit stays on express", Code.NO_ROUTE)
            grant = self._renewed(stream, intent.grant)
        except FerruleError as error:
            self._deny(node, link, header.circuit, error)
            return
        path = (*body.path, node.name)
        came = Came(link, header, body, grant, intent.grant, path, node.hops_of(link))
        stream.at_owner(self._judge, stream, came)

    def _judge(self, stream: CircuitDriver, came: "Came") -> None:
        """On the loop that owns the circuit: does the caller say so? Then it goes to the loop of the link."""
        core, owner, link, number = stream.core, stream.owner, came.link, came.header.circuit
        if core is None:
            return
        try:
            events = core.resumed(came.header, came.body, stream.now())
        except LateError:
            there = self._node.hops_of(link)
            _on(owner, there, there.free, link, number)
            stream.at_home(self._node.came_late)
            return
        except FerruleError as error:
            self._deny(owner, link, number, error)
            return
        stream.at_home(stream.go_on_under, came.grant, came.grant_bytes, came.path)
        if came.there is owner:
            _placed(stream, link, number, events)
        else:
            stream.leave(moving=True)
            stream.hand_over(came.there, _placed, stream, link, number, events)

    def _deny(
        self, here: StreamOwner, link: "LinkDriver", number: int, error: FerruleError
    ) -> None:
        """Say no on this hop; `here` is the loop on which this runs."""
        code = error.code if isinstance(error, ProtocolError | Refused) else Code.TAMPER
        there, home = self._node.hops_of(link), self._node
        _on(here, there, there.turn_away, link, number, code, str(error))
        if code in (Code.TAMPER, Code.PROTOCOL):
            _on(here, home, home.security, code, str(error), None)

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
            circuit=stream.circuit_id,
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


class Came(NamedTuple):
    """A RESUME whose grant holds; `there` is the loop of its link."""

    link: "LinkDriver"
    header: Header
    body: Resume
    grant: Grant | None
    grant_bytes: bytes
    path: tuple[str, ...]
    there: StreamOwner


def _placed(stream: CircuitDriver, link: "LinkDriver", number: int, events: list[Event]) -> None:
    """On the loop of the link: the circuit is on this hop now."""
    stream.place(link, number)
    if link.is_open(number):
        stream.go(events)
    else:
        stream.lose(link, Code.PATH_LOST, "")


def _on(here: StreamOwner, there: StreamOwner, call: Callable[..., object], *told: object) -> None:
    if here is there:
        call(*told)
    else:
        there.post(call, *told)
