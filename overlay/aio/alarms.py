"""What a node says when it begins and when it is over: an authority that is not fresh, a clock that is wrong."""

from overlay.aio.logs import get_logger
from overlay.aio.state import KeptState
from overlay.aio.witnessing import Record
from overlay.aio.world import Clock
from overlay.audit.event import EventName, Outcome

_MINUTE = 60_000_000

_log = get_logger("node")


class Alarms:
    """Call `look` every second."""

    def __init__(self, clock: Clock, state: KeptState, record: Record) -> None:
        self._clock = clock
        self._state = state
        self._record = record
        self._fresh = False
        self._wrong = False

    def look(self, *, fresh: bool) -> None:
        """`fresh`: the authority is (K-03). The clock is the machine's (A-22)."""
        if fresh != self._fresh:
            self._fresh = fresh
            (_log.info if fresh else _log.warning)(
                "authority.fresh" if fresh else "authority.stale"
            )
        clock, state = self._clock, self._state
        off = state.time.wall_is_off(clock.boot(), clock.wall())
        if off and not self._wrong:
            minutes = abs(clock.wall() - state.now()) // _MINUTE
            reason = f"this machine's clock is {minutes} minutes away from plant time"
            _log.warning("clock.wrong", text=reason)
            self._record(EventName.SECURITY_CLOCK, Outcome.FAILED, reason=reason)
        self._wrong = off
