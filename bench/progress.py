"""What a run says while it goes on: one line per measurement, and when it will be done."""

import sys
import time
from datetime import timedelta


class Progress:
    """Writes lines to stderr; the estimate follows how long the measurements so far really took."""

    def __init__(self) -> None:
        self.expected = 0.0
        self.finished = 0.0
        self.begun = time.monotonic()

    def say(self, text: str) -> None:
        """One line."""
        print(f"{self.left():>12}  {text}" if self.expected else text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """One line that nobody overlooks."""
        line = "!" * 100
        print(f"{line}\n{text}\n{line}", file=sys.stderr, flush=True)

    def begin(self, expected: float) -> None:
        """The measurements begin, and should take so many seconds."""
        self.say(f"measuring takes about {timedelta(seconds=round(expected))}")
        self.expected = max(expected, 0.001)
        self.begun = time.monotonic()

    def done(self, expected: float) -> None:
        """A measurement that should have taken so many seconds is done."""
        self.finished += expected

    def left(self) -> str:
        """How long it still takes, in words."""
        took = time.monotonic() - self.begun
        pace = took / self.finished if self.finished > 5 else 1.0
        seconds = max(0.0, (self.expected - self.finished) * pace)
        return f"{timedelta(seconds=round(seconds))} left"
