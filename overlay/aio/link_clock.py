"""When a link is looked at: at its deadline, and earlier once a circuit says something (L-35)."""

import asyncio
from collections.abc import Callable

from overlay.aio.link_sender import LinkSender
from overlay.link.link import Ended, Health, Link

_LEAST = 0.02
"""Seconds between two looks, at least."""


class LinkClock:
    """One link's timer. A link on which nothing is said wakes nobody but for its keepalive.

    Args:
        look: called when it is time, and then calls `tick` and, while the link lasts, `again`.
    """

    __slots__ = ("_at", "_eager", "_link", "_look", "_loop", "_sender", "_timer", "resting", "told")

    def __init__(self, link: Link, sender: LinkSender, look: Callable[[], None]) -> None:
        self.resting = False
        """No circuit has said anything since the last look: `spoken` wants to hear of the next frame."""
        self.told: Callable[[], None] | None = None
        """Called by `spoken`."""
        self._link = link
        self._sender = sender
        self._look = look
        self._eager = link.liveness.eager
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def again(self, now: float) -> None:
        """Look at the link's next deadline."""
        self.resting = self._eager
        self._set(max(self._link.deadline(now), now + _LEAST))

    def sooner(self, now: float) -> None:
        """The deadline may have come nearer."""
        due = max(self._link.deadline(now), now + _LEAST)
        if self._timer is not None and due < self._at:
            self._timer.cancel()
            self._set(due)

    def spoken(self) -> None:
        """A circuit says the first thing since the last look: an answer to it will be missed soon."""
        self.resting = False
        due = self._link.liveness.ask(self._loop.time())
        if self._timer is not None and due < self._at:
            self._timer.cancel()
            self._set(due)
        if self.told is not None:
            self.told()

    def answered(self, now: float) -> None:
        """PONG came: nobody has to look whether it stays away, unless circuits say something."""
        if self.resting and self._timer is not None:
            due = self._link.deadline(now)
            if due > self._at:
                self._timer.cancel()
                self._set(due)

    def tick(self, now: float, moved: int) -> Ended | Health | None:
        """`Link.tick`; `moved`: bytes that have passed both ways since the beginning."""
        liveness = self._link.liveness
        liveness.said = self._sender.taken
        if self._eager and not self.resting:
            liveness.asked = max(liveness.asked, self._sender.taken)
        liveness.moving(now, moved)
        liveness.carried(now, self._sender.said, self._sender.acknowledged)
        return self._link.tick(now)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Instead of looking again, do this."""
        self.stop()
        self._timer = self._loop.call_later(seconds, call)

    def stop(self) -> None:
        """Look no more."""
        self.resting = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, at: float) -> None:
        self._at = at
        self._timer = self._loop.call_at(at, self._look)
