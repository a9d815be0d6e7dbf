"""What the circuits of one node hold, and how windows share what there is (docs/protocol/circuit.md, C-31, C-35). Pure.

Each circuit may always have its first window; what goes beyond comes out of one budget: the growth of windows, bytes
that an application has not read yet, and frames that a sender keeps. When it is spent no window grows, and those of
circuits that are idle or slow give back what they do not use. A limit that was promised never goes back (C-30): such a
window is smaller for what is consumed from then on.

One for each event loop: nothing here is locked.
"""

from typing import Protocol

from overlay import limits

IDLE_AFTER = 1.0
"""A window of which nothing was consumed for so long may be taken, seconds."""


class Sized(Protocol):
    """A window that has grown."""

    size: int
    used: float


class Memory:
    """The budget. `limit` in bytes; the other numbers are what is taken of it.

    `windows` is what windows are larger than the first, `buffered` what was delivered and not consumed, `kept` what was
    sent and not acknowledged.
    """

    __slots__ = ("_grown", "buffered", "kept", "limit", "windows")

    def __init__(self, limit: int = limits.CIRCUIT_MEMORY) -> None:
        self.limit = limit
        self.windows = 0
        self.buffered = 0
        self.kept = 0
        self._grown: dict[Sized, None] = {}
        """In the order in which they were used last."""

    @property
    def full(self) -> bool:
        """So much is really held that nothing new should begin."""
        return self.buffered + self.kept > self.limit

    @property
    def scarce(self) -> bool:
        """Windows that are larger than they need be should give back."""
        return self.windows + self.buffered + self.kept > self.limit // 4 * 3

    def grow(self, window: Sized, wanted: int, now: float) -> None:
        """Set the window's size to `wanted`, or to as much of it as there is."""
        if self._left() < wanted - window.size:
            self._take_back(now)
        size = window.size + max(0, min(wanted - window.size, self._left()))
        self.windows += size - window.size
        window.size = size
        self.use(window)

    def shrink(self, window: Sized, size: int) -> None:
        """Make a window smaller, though not below the first."""
        size = max(size, limits.INITIAL_WINDOW)
        self.windows -= window.size - size
        window.size = size
        if size == limits.INITIAL_WINDOW:
            self._grown.pop(window, None)

    def use(self, window: Sized) -> None:
        """The window was used now."""
        self._grown.pop(window, None)
        if window.size > limits.INITIAL_WINDOW:
            self._grown[window] = None

    def join(self, window: Sized) -> None:
        """A window that grew elsewhere counts here from now on."""
        self.windows += window.size - limits.INITIAL_WINDOW
        self.use(window)

    def part(self, window: Sized) -> None:
        """The window is nobody's here any more; its size stays."""
        self.windows -= window.size - limits.INITIAL_WINDOW
        self._grown.pop(window, None)

    def _left(self) -> int:
        return self.limit - self.windows - self.buffered - self.kept

    def _take_back(self, now: float) -> None:
        """Windows of circuits that are idle fall back to the first."""
        idle = []
        for window in self._grown:
            if now - window.used < IDLE_AFTER:
                break
            idle.append(window)
        for window in idle:
            self.shrink(window, limits.INITIAL_WINDOW)
