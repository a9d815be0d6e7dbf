"""How a demo tells what it does: chapters and checked steps in plain words."""

import time
from collections.abc import Callable

from deploy.demo.plant import until


class Story:
    """Prints steps in plain words and remembers whether each held."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.failed: list[str] = []

    def chapter(self, text: str) -> None:
        """A heading, with the seconds since the start."""
        print(f"\n{time.monotonic() - self.begun:5.1f} s  {text}", flush=True)

    def step(self, text: str, held: object, detail: str = "") -> None:
        """One checked step."""
        print(
            f"         {'✓' if held else '✗'} {text}{f'  ({detail})' if detail else ''}", flush=True
        )
        if not held:
            self.failed.append(text)

    def within(self, seconds: float, text: str, check: Callable[[], object]) -> None:
        """A step that has to become true within some seconds."""
        try:
            took = until(check, seconds, text)
        except TimeoutError as error:
            self.step(text, held=False, detail=str(error))
        else:
            self.step(text, held=True, detail=f"{took * 1000:.0f} ms")

    def end(self) -> int:
        """Say how it came out; the exit code."""
        if self.failed:
            print(f"\n{len(self.failed)} steps did not hold: " + "; ".join(self.failed))
            return 1
        print(f"\nEvery step held, in {time.monotonic() - self.begun:.0f} s.")
        return 0
