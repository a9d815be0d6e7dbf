"""Continuous authorisation: each circuit is judged when something changes and when its grant's time comes
(G-02 to G-05).
"""

from collections.abc import Callable

from edge.grants import GrantBook, lasting
from edge.rules import Rules
from overlay.aio.appointment import Appointment
from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.circuit_roles import Refused
from overlay.policy.grant import Grant

LONGEST_SLEEP = 60.0
"""Seconds between two looks at the clock, since plant time may be corrected meanwhile."""


class Enforcer:
    """Cuts what may not go on; a caller's circuit moves to an equal grant first where there is one.

    Args:
        streams: all circuits of this node that have not ended.
        book: grants in hand.
        rules: what is allowed now.
    """

    def __init__(
        self, streams: Callable[[], list[CircuitDriver]], book: GrantBook, rules: Rules
    ) -> None:
        self._streams = streams
        self._book = book
        self._rules = rules
        self._look = Appointment(self.review)
        self._next = float("inf")
        self._bound = rules.refresh_binds()

    def opened(self, stream: CircuitDriver) -> None:
        """A circuit has begun or got another grant: look at it in time."""
        grant = stream.grant
        if grant is None:
            return
        if self._rules.judge(grant, stream) or (
            not stream.hosting and self._book.objection(grant, _host(stream))
        ):
            self._review(stream, grant)  # something changed while it was opening
        else:
            self._plan(self._rules.until(grant, stream))

    def review(self) -> None:
        """Something has changed: judge all circuits."""
        self._cancel()
        for stream in self._streams():
            grant = stream.grant
            if grant is None or stream.closed.done():
                continue
            self._review(stream, grant)

    def tick(self) -> None:
        """Call it every second: whether refresh_by binds depends on the clock and on answers of the controller, and the
        clock of timers stands still while the machine sleeps, when grants go on to end.
        """
        binds = self._rules.refresh_binds()
        if binds != self._bound or self._rules.now() >= self._next:
            self._bound = binds
            self.review()

    def close(self) -> None:
        """No more."""
        self._cancel()

    def _review(self, stream: CircuitDriver, grant: Grant) -> None:
        rules = self._rules
        objection = rules.judge(grant, stream)
        if not stream.hosting:
            host = _host(stream)
            objection = objection or self._book.objection(grant, host)
            must = objection is not None or rules.doomed(grant) is not None
            better = self._book.successor(
                grant, host, lambda one: rules.judge(one, stream) or rules.doomed(one)
            )
            if better is not None and (
                must or better.grant.id == grant.id or lasting(better.grant) > lasting(grant)
            ):
                try:
                    stream.refresh(better.signed)
                except Refused as error:
                    objection = objection or (error.code, error.reason)
                else:
                    objection, grant = None, better.grant
        if objection is not None:
            stream.abort(*objection)
        else:
            self._plan(self._rules.until(grant, stream))

    def _plan(self, moment: float) -> None:
        """Review at this plant time (microseconds) at the latest."""
        if moment >= self._next:
            return
        self._next = moment
        self._look.within(min((moment - self._rules.now()) / 1e6, LONGEST_SLEEP))

    def _cancel(self) -> None:
        self._next = float("inf")
        self._look.cancel()


def _host(stream: CircuitDriver) -> str | None:
    """The hosting edge, once it is known."""
    return None if stream.core is None else stream.core.names.host
