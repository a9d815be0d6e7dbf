"""What ends at a known time, which waits for no whole second (`overlay.aio.seconds`)."""

import asyncio
from collections.abc import Callable


class Appointment:
    """One call, at the earliest of the times that were asked for. Make it anywhere; `within` needs the running loop."""

    def __init__(self, call: Callable[[], None]) -> None:
        self._call = call
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def within(self, seconds: float) -> None:
        """Call in so many seconds, unless it is called before."""
        loop = asyncio.get_running_loop()
        at = loop.time() + max(0.0, seconds)
        if self._timer is not None:
            if at >= self._at:
                return
            self._timer.cancel()
        self._at = at
        self._timer = loop.call_at(at, self._come)

    def cancel(self) -> None:
        """Call no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _come(self) -> None:
        self._timer = None
        self._call()
