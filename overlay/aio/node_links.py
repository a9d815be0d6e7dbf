"""The links that a node has, as its agent sees them: which are up, and who waits for one."""

import asyncio
import contextlib
from collections.abc import Collection
from typing import TYPE_CHECKING

from overlay.errors import Code
from overlay.identity.certificate import Role

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver


LAST_WORDS = 0.5
"""Seconds that a node which stops gives its links to take the ends of circuits, and then to close."""
PROBE_SECONDS = 1.5
"""For the answers to a probe."""
_LOOK = 0.02


class NodeLinks:
    """Told by `note` what comes and goes. Make it inside the event loop."""

    def __init__(self) -> None:
        self._links: list[LinkDriver] = []
        self._changed = asyncio.Event()

    def note(self, link: "LinkDriver", *, up: bool) -> None:
        """A link has come up or is gone."""
        if up:
            self._links.append(link)
        elif link in self._links:
            self._links.remove(link)
        self._changed.set()

    @property
    def up(self) -> "list[LinkDriver]":
        """Links that are up, oldest first."""
        return [link for link in self._links if not link.over]

    def routers(self) -> "list[LinkDriver]":
        """Those to routers."""
        return [link for link in self.up if _is_role(link, Role.ROUTER)]

    def trips(self) -> dict[str, int]:
        """The same by name, with the round trip of the newest in µs (0: not measured yet)."""
        return {
            link.name: min(int((link.round_trip or 0.0) * 1e6), (1 << 32) - 1)
            for link in self.routers()
        }

    async def measure(self, names: Collection[str]) -> dict[str, int]:
        """Round trips in µs to routers of these names, each of a PING that is said now; who does not answer within
        `PROBE_SECONDS` is missing."""
        asked = [(link, link.probe()) for link in self.routers() if link.name in names]
        for _ in range(round(PROBE_SECONDS / _LOOK)):
            if all(link.over or link.ponged[0] >= said for link, said in asked):
                break
            await asyncio.sleep(_LOOK)
        return {
            link.name: max(1, int(link.ponged[1] * 1e6))
            for link, said in asked
            if link.ponged[0] >= said
        }

    async def for_control(self) -> "list[LinkDriver]":
        """Links for `_control`, a controller's own first; waits until there is one."""
        while not (links := self._usable()):
            self._changed.clear()
            await self._changed.wait()
        return links

    async def for_enrolment(self, seconds: float) -> "list[LinkDriver]":
        """Links to enrol over; waits for one so long."""
        if not any(link.newcomer for link in self.up):
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
        return [link for link in self.up if link.newcomer]

    def leave(self, reason: str) -> None:
        """Say goodbye on all of them: they begin anew."""
        for link in self.up:
            link.goodbye(Code.NORMAL, reason)

    async def end(self, reason: str) -> None:
        """As `leave`, for ever: none is left when it returns, and what the circuits said last was sent if it could."""
        links = self.up
        await last_words(links)
        self.leave(reason)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                for link in links:
                    await link.wait_closed()
        for link in links:
            link.close()
        await asyncio.sleep(0)  # its socket is closed now, and nobody is told any more

    def _usable(self) -> "list[LinkDriver]":
        links = [link for link in self.up if not link.newcomer and not link.going_away]
        return sorted(links, key=lambda link: not _is_role(link, Role.CONTROLLER))


async def last_words(links: "Collection[LinkDriver]") -> None:
    """Until what waits on these links has left, or `LAST_WORDS` are over."""
    for _ in range(round(LAST_WORDS / _LOOK)):
        if not any(link.total_backlog for link in links if not link.over):
            break
        await asyncio.sleep(_LOOK)


def _is_role(link: "LinkDriver", role: Role) -> bool:
    return link.peer is not None and link.peer.identity.role is role
