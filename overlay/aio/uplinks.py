"""An edge's links: one to every router it knows, dialed again whenever one is gone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from weakref import WeakKeyDictionary

from overlay.addresses import parse_address
from overlay.aio.dialer import Dialer
from overlay.aio.lane_dialing import LaneDialers
from overlay.aio.link_driver import LinkDriver
from overlay.aio.logs import get_logger
from overlay.aio.tasks import spawn
from overlay.aio.world import World
from overlay.errors import Code
from overlay.fabric.authority import FabricMap
from overlay.identity.certificate import Leaf
from overlay.identity.trust import Credentials

ROUTER_RETRY = 2.0
"""Seconds between two attempts at most: a router that returns has its edges, and its neighbours, back at once."""

RENEW_BEFORE = 120_000_000
"""So long before the certificate that a link was dialed with ends (µs), the link begins anew with the present one."""

_log = get_logger("links")


class Target(NamedTuple):
    """A router to dial; `name` is None while only the token's addresses are known."""

    name: str | None
    host: str
    port: int


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
    """Keeps a `Dialer` per target; `dial` makes one attempt, with the `credentials` of that moment."""

    def __init__(
        self,
        world: World,
        dial: Callable[[Target], Awaitable[LinkDriver]],
        credentials: Callable[[], Credentials],
    ) -> None:
        self._world = world
        self._dial = dial
        self._credentials = credentials
        self._dialed_with: WeakKeyDictionary[LinkDriver, Leaf] = WeakKeyDictionary()
        self._dialed_from: WeakKeyDictionary[LinkDriver, str] = WeakKeyDictionary()
        self._dialers: dict[Target, Dialer] = {}
        self._names: WeakKeyDictionary[Dialer, Target] = WeakKeyDictionary()
        self._closed = False
        self.lanes: LaneDialers | None = None
        """Dials bulk lanes of routers that are reached; None: express only."""

    def set_targets(self, wanted: list[Target]) -> None:
        """Dial these, and no others: links to routers that left end, their circuits move on. Nothing once it is closed:
        a map may still come by a link that is up."""
        if self._closed:
            return
        for target in wanted:
            self._adopt(target)
        for target in [one for one in self._dialers if one not in wanted]:
            dialer = self._dialers.pop(target)
            link = dialer.link
            if self.lanes is not None:
                self.lanes.forget((target.host, target.port))
            _ = spawn(dialer.close(), "close dialer")
            if link is not None:
                _log.info("router.left", router=target.name or f"{target.host}:{target.port}")
                link.goodbye(Code.NORMAL, "no router of this plant any more")
        for target in wanted:
            if target not in self._dialers:
                dialer = self._dialers[target] = self._dialer(target)
                dialer.start()

    def _adopt(self, target: Target) -> None:
        """What was dialed by address alone goes on under the name that the map gives to this address."""
        unnamed = Target(None, target.host, target.port)
        dialer = self._dialers.get(unnamed)
        if dialer is None or target.name is None or target in self._dialers:
            return
        if dialer.link is None or dialer.link.name == target.name:
            self._dialers[target] = self._dialers.pop(unnamed)
            self._names[dialer] = target
            dialer.name = target.name

    def renew(self, now: int) -> None:
        """Begin a link anew whose certificate ends soon and has a successor, one per call (E-08): its circuits move to
        another link or to the new one. `now` in microseconds, plant time."""
        present = self._credentials().leaf
        for dialer in self._dialers.values():
            link = dialer.link
            leaf = None if link is None else self._dialed_with.get(link)
            if link is None or leaf is None or leaf == present:
                continue
            if now >= leaf.not_after - RENEW_BEFORE:
                link.goodbye(Code.NORMAL, "a new certificate")
                return
        if self.lanes is not None:
            self.lanes.renew(present, now + RENEW_BEFORE)

    def network_changed(self) -> None:
        """Addresses or routes of this host changed: ask whether what is up still is, dial what is not (L-39)."""
        lost = set()
        for dialer in self._dialers.values():
            link = dialer.link
            if link is None:
                dialer.again()
                continue
            if self._world.net.source(link.remote) != self._dialed_from.get(link):
                lost.add(link.remote)
            link.doubt(link.remote in lost)
        if self.lanes is not None:
            self.lanes.network_changed(lost)

    def errors(self) -> dict[str, str]:
        """Why a target is not up, by its name or address."""
        return {
            target.name or f"{target.host}:{target.port}": dialer.error
            for target, dialer in self._dialers.items()
            if dialer.link is None and dialer.error
        }

    def _dialer(self, target: Target) -> Dialer:
        async def attempt() -> LinkDriver:
            leaf = self._credentials().leaf
            link = await self._dial(self._names[dialer])
            self._dialed_from[link] = self._world.net.source(link.remote)
            if leaf is not None:
                self._dialed_with[link] = leaf
            if self.lanes is not None:
                target = self._names[dialer]
                self.lanes.offered((target.host, target.port), link)
            return link

        name = target.name or f"{target.host}:{target.port}"
        dialer = Dialer(self._world, name, attempt, longest=ROUTER_RETRY)
        self._names[dialer] = target
        return dialer

    async def close(self) -> None:
        """Stop dialing for good; links that are up stay."""
        self._closed = True
        await self.rest()

    async def rest(self) -> None:
        """Stop dialing until there are targets again; links that are up stay."""
        await asyncio.gather(*(dialer.close() for dialer in self._dialers.values()))
        self._dialers.clear()
        if self.lanes is not None:
            await self.lanes.close()
