"""An edge's links: one to every router it knows, dialed again whenever one is gone."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from overlay.aio.dialer import Dialer
from overlay.aio.logs import get_logger
from overlay.aio.tasks import spawn
from overlay.errors import Code
from overlay.fabric.authority import FabricMap

ROUTER_RETRY = 2.0
"""Seconds between two attempts at most: a router that returns has its edges back at once."""

_log = get_logger("links")


class Target(NamedTuple):
    """A router to dial; `name` is None while only the token's addresses are known."""

    name: str | None
    host: str
    port: int


def parse_address(text: str) -> tuple[str, int] | None:
    """`HOST:PORT` or `[IPv6]:PORT`; None for anything else."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit():
        return None
    number = int(port)
    return (host, number) if 0 < number < 65_536 else None


def targets(fabric: FabricMap | None, from_token: tuple[str, ...]) -> list[Target]:
    """Whom to dial: the map's routers, or the token's addresses while there is no map."""
    found: list[Target] = []
    if fabric is not None and fabric.routers:
        pairs = [(entry.name, entry.address) for entry in fabric.routers]
    else:
        pairs = [(None, address) for address in from_token]  # type: ignore[misc]
    for name, address in pairs:
        parsed = parse_address(address)
        if parsed is None:
            _log.warning("router.address", router=name, address=address)
        else:
            found.append(Target(name, *parsed))
    return found


class Uplinks:
    """Keeps a `Dialer` per target. `make` gives the function that dials one."""

    def __init__(self, make: Callable[[Target], Dialer]) -> None:
        self._make = make
        self._dialers: dict[Target, Dialer] = {}
        self._closing: asyncio.Task[None] | None = None

    def set_targets(self, wanted: list[Target]) -> None:
        """Dial these, and no others: links to routers that left are given up softly."""
        for target in [one for one in self._dialers if one not in wanted]:
            dialer = self._dialers.pop(target)
            link = dialer.link
            self._closing = spawn(dialer.close(), "close dialer")
            if link is not None:
                _log.info("router.left", router=target.name or f"{target.host}:{target.port}")
                link.goodbye(Code.GOING_AWAY, "no router of this plant any more")
                if link.circuits == 0:
                    link.goodbye(Code.NORMAL, "no router of this plant any more")
        for target in wanted:
            if target not in self._dialers:
                dialer = self._dialers[target] = self._make(target)
                dialer.start()

    def wake(self) -> None:
        """Dial at once whatever is not up."""
        for dialer in self._dialers.values():
            dialer.wake()

    def errors(self) -> dict[str, str]:
        """Why a target is not up, by its name or address."""
        return {
            target.name or f"{target.host}:{target.port}": dialer.error
            for target, dialer in self._dialers.items()
            if dialer.link is None and dialer.error
        }

    async def close(self) -> None:
        """Stop dialing; links that are up stay."""
        await asyncio.gather(*(dialer.close() for dialer in self._dialers.values()))
        self._dialers.clear()
