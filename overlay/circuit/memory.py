"""What the circuits of one node hold, and how windows share what there is (docs/protocol/circuit.md, C-31, C-35). Pure.

Each circuit may always have its first window; what goes beyond comes out of one budget: the growth of windows, bytes
that an application has not read yet, and frames that a sender keeps. When it is spent no window grows, and those of
circuits that are idle or slow give back what they do not use. A limit that was promised never goes back (C-30): such a
window is smaller for what is consumed from then on.

A node has one budget. Each of its event loops counts in a `Memory` of its own, which no other loop writes, and reads
what the others hold: nothing is locked, and two that grow at the same instant may pass the limit by a step of a window.
"""

from typing import Protocol

from overlay import limits
from overlay.circuit.frame_memory import FrameMemory

IDLE_AFTER = 1.0
"""A window of which nothing was consumed for so long may be taken, seconds."""


class Sized(Protocol):
    """A window that has grown."""

    size: int
    used: float


class Memory:
    """The budget. `limit` in bytes; the other numbers are what is taken of it.

    `windows` is what windows are larger than the first, `buffered` what was delivered and not consumed, `kept` what was
    sent and not acknowledged, all on this event loop.
    """

    __slots__ = ("_grown", "buffered", "frames", "kept", "limit", "parts", "windows")

    def __init__(self, limit: int = limits.CIRCUIT_MEMORY) -> None:
        self.limit = limit
        self.parts = [self]
        """Of all event loops of the node."""
        self.windows = 0
        self.buffered = 0
        self.kept = 0
        self.frames = FrameMemory()
        self._grown: dict[Sized, None] = {}
        """In the order in which they were used last."""

    def for_another_loop(self) -> "Memory":
        """One that counts what another event loop holds of the same budget."""
        other = Memory(self.limit)
        other.parts = self.parts
        self.parts.append(other)
        return other

    @property
    def full(self) -> bool:
        """So much is really held that nothing new should begin."""
        return sum([one.buffered + one.kept for one in self.parts]) > self.limit

    @property
    def unread(self) -> bool:
        """What was delivered and not read is alone more than the budget."""
        return sum([one.buffered for one in self.parts]) > self.limit

    @property
    def scarce(self) -> bool:
        """Windows that are larger than they need be should give back."""
        return self._left() < self.limit // 4

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
        return self.limit - sum([one.windows + one.buffered + one.kept for one in self.parts])

    def _take_back(self, now: float) -> None:
        """Windows of circuits that are idle fall back to the first."""
        idle = []
        for window in self._grown:
            if now - window.used < IDLE_AFTER:
                break
            idle.append(window)
        for window in idle:
            self.shrink(window, limits.INITIAL_WINDOW)
