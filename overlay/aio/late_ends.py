"""Ends of connections that nobody waits for, a few at a time.

A program that has its answer and closes has left. Saying so costs nearly as much as opening the next circuit (a
signature, frames, a wake-up of each program on the path), and a program that opens one circuit after the other is there
with the next at that very moment. So such an end waits a little, and those that came meanwhile are said together: most
openings then meet none.
"""

import asyncio
from collections.abc import Callable
from weakref import WeakKeyDictionary

PATIENCE = 0.01
"""Seconds that an end waits at most."""
PER_TURN = 8
"""Ends that are said in one turn of the event loop: 100 to 200 µs each."""
WAITING = 256
"""Ends that wait at once; one more makes all leave now."""

_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, "LateEnds"] = WeakKeyDictionary()


class LateEnds:
    """Those of one event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Callable[[], None], None] = {}
        self._timer: asyncio.Handle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, end: Callable[[], None]) -> None:
        """Call this within `PATIENCE`."""
        self._waiting[end] = None
        if len(self._waiting) > WAITING:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(PATIENCE, self._say)

    def discard(self, end: Callable[[], None]) -> bool:
        """Not any more; whether it waited."""
        waited = end in self._waiting
        self._waiting.pop(end, None)
        return waited

    def flush(self) -> None:
        """Nothing waits any longer: the program is about to end, say."""
        while self._waiting:
            self._first()()

    def _say(self) -> None:
        for _ in range(min(PER_TURN, len(self._waiting))):
            self._first()()
        self._timer = self._loop.call_soon(self._say) if self._waiting else None

    def _first(self) -> Callable[[], None]:
        end = next(iter(self._waiting))
        del self._waiting[end]
        return end


def late_ends() -> LateEnds:
    """Those of the running event loop."""
    loop = asyncio.get_running_loop()
    found = _loops.get(loop)
    if found is None:
        found = _loops[loop] = LateEnds()
    return found
