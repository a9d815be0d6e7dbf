"""Hears from the kernel that something of this host has changed: addresses, routes or cables, before links fall silent
(L-39), and tables of nftables.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from overlay.aio.logs import get_logger

PACE = 0.2
"""Seconds between two looks: a busy host may change hundreds of routes in a second."""

_log = get_logger("hearing")


class Ear(Protocol):
    """Readable when there are news (`edge.machine.netlink.News`, `edge.machine.netfilter.Commits`)."""

    def fileno(self) -> int:
        """What to wait at."""
        ...

    def skip(self) -> None:
        """Take what there is, unread."""
        ...

    def close(self) -> None:
        """Give it back."""
        ...


class Hearing:
    """Calls `changed` soon after every change, once in `PACE` at most.

    Args:
        what: is heard; a part of the log.
        ear: makes one, or raises OSError where this system does not tell.
    """

    def __init__(self, what: str, ear: Callable[[], Ear], changed: Callable[[], None]) -> None:
        self._what = what
        self._make = ear
        self._changed = changed
        self._ear: Ear | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; a system that does not tell is said once, and its changes are found otherwise, later."""
        try:
            self._ear = self._make()
        except OSError as error:
            _log.warning(f"{self._what}.deaf", reason=error.strerror or str(error))
            return
        self._listen()

    def _listen(self) -> None:
        self._timer = None
        if self._ear is not None:
            asyncio.get_running_loop().add_reader(self._ear.fileno(), self._readable)

    def _readable(self) -> None:
        """What it is matters to nobody: whoever is told looks."""
        assert self._ear is not None  # noqa: S101 - it is read
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._ear.fileno())
        self._ear.skip()
        self._timer = loop.call_later(PACE, self._listen)
        self._changed()

    def close(self) -> None:
        """Hear nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif self._ear is not None:
            asyncio.get_running_loop().remove_reader(self._ear.fileno())
        if self._ear is not None:
            self._ear.close()
            self._ear = None
