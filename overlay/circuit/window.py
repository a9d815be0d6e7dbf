"""How many bytes a receiver lets the sender have on the way: grows to what the path carries (C-30, C-31, C-35). Pure.

A byte above a limit can only come after the CREDIT that raised the limit has reached the sender: the time between the
two is never below the round trip, and equal to it when the sender waited for credit. The window grows to twice what the
reader has taken in such a time, so a reader that is slow itself, or a sender with little to say, keeps a small one; and
it gives back what it does not need where the node's memory is scarce.
"""

from overlay import limits
from overlay.circuit.memory import Memory

ROUND_TRIP_FLOOR = 0.004
"""Below this a round trip is not told from the time that busy programs need to wake up, seconds."""
_ROUNDS_PER_SAMPLE = 2


class Window:
    """The window of one direction at its receiver. `size` is in bytes; times are seconds of one clock.

    `used` is when the reader took something last, as far as it was looked at.
    """

    __slots__ = ("_asked", "_begun", "_mark", "_memory", "_round_trip", "_taken", "size", "used")

    def __init__(self) -> None:
        self.size = limits.INITIAL_WINDOW
        self.used = 0.0
        self._memory: Memory | None = None
        self._round_trip: float | None = None
        self._mark = 0
        self._asked: float | None = None
        self._begun: float | None = None
        self._taken = 0

    def share(self, memory: Memory | None) -> None:
        """Grow out of this memory from now on; None: not at all any more, the circuit is over."""
        if self._memory is not None:
            self._memory.part(self)
        self._memory = memory
        if memory is not None:
            memory.join(self)

    def credited(self, before: int, now: float) -> None:
        """The limit was raised from `before`."""
        if self._asked is None:
            self._asked = now
            self._mark = before

    def received(self, total: int, now: float) -> None:
        """`total` bytes have come in all."""
        if self._asked is not None and total > self._mark:
            sample = max(now - self._asked, ROUND_TRIP_FLOOR)
            self._asked = None
            if self._round_trip is None or sample < self._round_trip:
                self._round_trip = sample

    def consumed(self, count: int, now: float) -> None:
        """The reader has taken `count` bytes more."""
        if self._round_trip is None:
            return
        self._taken += count
        if self._begun is None:
            self._begun, self._taken = now, 0
            return
        elapsed = now - self._begun
        if elapsed >= _ROUNDS_PER_SAMPLE * self._round_trip:
            self.used = now
            wanted = int(2 * self._taken * self._round_trip / elapsed)
            if wanted > self.size:
                self._grow(min(wanted, 2 * self.size, limits.MAX_WINDOW), now)
            elif self._memory is not None and self.size > limits.INITIAL_WINDOW:
                self._give_back(self._memory, wanted)
            self._begun, self._taken = now, 0

    def other_path(self) -> None:
        """The round trip is another one from now on."""
        self._round_trip = self._asked = self._begun = None

    def _grow(self, wanted: int, now: float) -> None:
        if self._memory is None:
            self.size = wanted
        else:
            self._memory.grow(self, wanted, now)

    def _give_back(self, memory: Memory, wanted: int) -> None:
        """It is larger than its reader and path need: half of the surplus is enough at a time."""
        memory.use(self)
        if memory.scarce and wanted < self.size // 2:
            memory.shrink(self, max(wanted, self.size // 2))
