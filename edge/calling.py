"""Circuits of principals behind this edge to services elsewhere: pick a grant, open, join, or refuse at once
and record.
"""

import asyncio
import contextlib
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from edge.events import Events
from edge.grants import GrantBook, Held, Judge
from edge.intercept.base import Opener
from edge.rules import Rules
from overlay import limits
from overlay.aio.circuit_roles import CircuitEnd, Refused
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.endpoint import Endpoint
from overlay.aio.pump import join
from overlay.aio.world import Connection
from overlay.audit.event import Outcome
from overlay.errors import NO_DECISION, Code
from overlay.policy.grant import Grant
from overlay.policy.grant_check import Objection
from overlay.wire.bodies import DATAGRAMS, ECHO_SERVICE, STREAM

_NOBODY_ELSE = NO_DECISION | {Code.UNREACHABLE, Code.PATH_LOST}
"""Ends of a circuit that was not answered which no other node records: no answer, no way, no room at a router. Of
several routers none knows whether another had a way.
"""
LATE = "the rules of this edge's host did not know yet that it is allowed"


class _Wanted(NamedTuple):
    """What somebody tries to reach. `asset` where the service does not say it, `early` what was said already."""

    who: str
    service: str
    transport: int
    port: int = 0
    address: bytes = b""
    early: bytes = b""
    asset: str = ""


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

    def connection(
        self, who: str, service: str, connection: Connection, port: int = 0
    ) -> CircuitStream | None:
        """Caught: TCP."""
        early = connection.arrived(limits.MAX_EARLY_DATA)
        stream = self.open(who, service, port, early=early)
        if stream is None:
            connection.abort()
        else:
            join(connection, stream)
        return stream

    def ask(self, who: str, service: str, port: int = 0) -> CircuitStream:
        """As `open`, for a program that wants to know why not. Raises: Refused: no grant, or no way; it is recorded."""
        found = self._pick(who, service, STREAM)
        return self._begin(_Wanted(who, service, STREAM, port), found)

    def open(
        self, who: str, service: str, port: int = 0, address: bytes = b"", early: bytes = b""
    ) -> CircuitStream | None:
        """Caught: TCP that is not accepted yet, or that the mode itself joins."""
        found = self._pick(who, service, STREAM)
        return self._open(_Wanted(who, service, STREAM, port, address, early), found)

    def allow(self, who: str, service: str, port: int = 0, address: bytes = b"") -> Opener | None:
        """Caught: TCP that is answered before its circuit is opened, and judged again then."""
        found = self._pick(who, service, STREAM)
        if not isinstance(found, Held):
            self._events.unanswered(who, self._endpoint.name, service, found[1])
            return None
        return partial(self._later, _Wanted(who, service, STREAM, port, address), found)

    def flow(
        self, who: str, service: str, port: int = 0, address: bytes = b""
    ) -> CircuitStream | None:
        """Caught: the first datagram of a client."""
        found = self._pick(who, service, DATAGRAMS)
        return self._open(_Wanted(who, service, DATAGRAMS, port, address), found)

    def echo(self, who: str, asset: str, address: bytes = b"") -> CircuitStream | None:
        """Caught: the first echo request of a client to an asset (C-80)."""
        found = self._grant(lambda judge: self._book.pick_any(who, asset, judge))
        wanted = _Wanted(who, ECHO_SERVICE, DATAGRAMS, address=address, asset=asset)
        return self._open(wanted, found)

    def reaches(self, who: str, asset: str) -> bool:
        """Whether a principal may reach anything of an asset now; asking is no attempt, so it is not recorded."""
        found = self._grant(lambda judge: self._book.pick_any(who, asset, judge))
        return isinstance(found, Held)

    def refused(self, who: str, service: str, transport: int) -> None:
        """Caught: refused by rules, which know only whether there is a grant."""
        found = self._pick(who, service, transport)
        reason = LATE if isinstance(found, Held) else found[1]
        self._events.unanswered(who, self._endpoint.name, service, reason)

    def turned_away(self, source: str, target: str, reason: str) -> None:
        """Caught: traffic of nobody, or to nothing."""
        self._events.turned_away(self._endpoint.name, target, f"{source}: {reason}")

    def _pick(self, who: str, service: str, transport: int) -> Held | Objection:
        return self._grant(lambda judge: self._book.pick(who, service, transport, judge))

    def _later(self, wanted: _Wanted, found: Held, early: bytes) -> CircuitStream | None:
        """What was allowed is tried first; the endpoint judges it again. Where it holds no more, another may."""
        wanted = wanted._replace(early=early)
        if self._room() and self._book.holds(found):
            with contextlib.suppress(Refused):
                return self._start(wanted, found)
        return self._open(wanted, self._pick(wanted.who, wanted.service, STREAM))

    def _open(self, wanted: _Wanted, found: Held | Objection) -> CircuitStream | None:
        try:
            return self._begin(wanted, found)
        except Refused:
            return None

    def _begin(self, wanted: _Wanted, found: Held | Objection) -> CircuitStream:
        """Raises: Refused: it is recorded."""
        who, service = wanted.who, wanted.service
        via = self._endpoint.name
        if not isinstance(found, Held):
            self._events.unanswered(who, via, service, found[1], wanted.asset)
            raise Refused(*found)
        try:
            return self._start(wanted, found)
        except Refused as error:
            failed = error.code in (Code.NO_ROUTE, Code.BUSY, Code.GOING_AWAY)
            outcome = Outcome.FAILED if failed else Outcome.DENIED
            self._events.unanswered(who, via, service, error.reason, wanted.asset, outcome)
            raise

    def _start(self, wanted: _Wanted, found: Held) -> CircuitStream:
        """Raises: Refused: it is not recorded."""
        stream = self._endpoint.open(
            wanted.service, found.signed, early=wanted.early, transport=wanted.transport,
            port=wanted.port, address=wanted.address,
        )  # fmt: skip
        self._opened(stream)

        def ended(done: "asyncio.Future[CircuitEnd]") -> None:
            # Whoever refuses records it; this edge does where nobody else can, or has time to.
            end = done.result()
            if stream.answered:
                return
            if end.code in _NOBODY_ELSE:
                self._events.failed(stream, end.reason)
            elif stream.turned_away and stream.core is None:
                # Its program left before the next router was asked.
                self._events.failed(stream, stream.turned_away)

        stream.closed.add_done_callback(ended)
        return stream

    def _grant(self, pick: Callable[[Judge], Held | Objection]) -> Held | Objection:
        objection = self._rules.switch.objection()
        if objection is not None:
            return objection
        if not self._room():
            return Code.BUSY, "the audit spool of this edge is full"
        return pick(self.judge())

    def judge(self) -> Judge:
        """What stands against a grant of this edge's callers now."""
        key_id = self._endpoint.credentials().key.key_id

        def judge(grant: Grant) -> Objection | None:
            return self._rules(
                grant,
                key_id=key_id,
                via=self._endpoint.name,
                service=grant.service,
                transport=grant.transport,
                integrity=grant.integrity,
                circuit=b"",
                host=None,
            )

        return judge
