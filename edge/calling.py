"""Circuits of principals behind this edge to services elsewhere: pick a grant, open, join, or refuse at once
and record.
"""

import asyncio
from collections.abc import Callable

from edge.events import Events
from edge.grants import GrantBook, Held
from edge.rules import Rules
from overlay.aio.circuit_roles import CircuitEnd, Refused
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.endpoint import Endpoint
from overlay.aio.pump import join
from overlay.aio.world import Connection
from overlay.errors import Code
from overlay.policy.grant import Grant
from overlay.policy.grant_check import Objection
from overlay.wire.bodies import DATAGRAMS, STREAM


class Calling:
    """Implements `edge.intercept.base.Caught`.

    Args:
        room: whether the audit takes events of new circuits (U-09).
        opened: told each circuit that is opening, for enforcement.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        book: GrantBook,
        rules: Rules,
        events: Events,
        room: Callable[[], bool],
        opened: Callable[[CircuitStream], None],
    ) -> None:
        self._endpoint = endpoint
        self._book = book
        self._rules = rules
        self._events = events
        self._room = room
        self._opened = opened

    def connection(self, who: str, service: str, connection: Connection) -> None:
        """Caught: TCP."""
        stream = self._open(who, service, STREAM)
        if stream is None:
            connection.abort()
        else:
            join(connection, stream)

    def flow(self, who: str, service: str) -> CircuitStream | None:
        """Caught: the first datagram of a client."""
        return self._open(who, service, DATAGRAMS)

    def _open(self, who: str, service: str, transport: int) -> CircuitStream | None:
        found = self._grant(who, service, transport)
        if not isinstance(found, Held):
            self._events.unanswered(who, self._endpoint.name, service, found[1])
            return None
        try:
            stream = self._endpoint.open(service, found.signed, transport=transport)
        except Refused as error:
            self._events.unanswered(who, self._endpoint.name, service, error.reason)
            return None
        self._opened(stream)

        def ended(done: "asyncio.Future[CircuitEnd]") -> None:
            # Whoever refuses records it; this edge does where nobody else can: no answer, no way.
            end = done.result()
            if not stream.answered and end.code in (Code.UNREACHABLE, Code.PATH_LOST):
                self._events.failed(stream, end.reason)

        stream.closed.add_done_callback(ended)
        return stream

    def _grant(self, who: str, service: str, transport: int) -> Held | Objection:
        objection = self._rules.switch.objection()
        if objection is not None:
            return objection
        if not self._room():
            return Code.BUSY, "the audit spool of this edge is full"
        key_id = self._endpoint.credentials().key.key_id

        def judge(grant: Grant) -> Objection | None:
            return self._rules(
                grant,
                key_id=key_id,
                via=self._endpoint.name,
                service=service,
                transport=transport,
                integrity=grant.integrity,
                host=None,
            )

        return self._book.pick(who, service, transport, judge)
