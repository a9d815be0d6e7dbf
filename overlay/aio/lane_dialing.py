"""Keeps a link on each bulk lane of the routers that a node has links to (docs/protocol/link.md, L-08)."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine
from typing import Any
from weakref import WeakKeyDictionary

from overlay import limits
from overlay.aio.dialer import Dialer, Reach, dial_link
from overlay.aio.lanes import Lanes
from overlay.aio.link_driver import LinkDriver
from overlay.aio.tasks import spawn
from overlay.aio.world import World
from overlay.errors import Code
from overlay.identity.certificate import Leaf, Role
from overlay.identity.trust import Credentials
from overlay.wire.bodies import EXPRESS

RETRY = 15.0
"""Seconds between two attempts at most: without a lane everything goes on over express."""

Address = tuple[str, int]
Dial = Callable[[Address, str, int], Coroutine[Any, Any, LinkDriver]]
"""One attempt: where, whom, which lane; returns a link that is up, on the loop of the bulk lanes."""


class LaneDialers:
    """All of them.

    Args:
        dial: one attempt.
        gone: waits until a link is.
        goodbye: ends a link.
        doubt: as `LinkDriver.doubt`.
        credentials: with which the next one is dialed.
    """

    def __init__(
        self,
        world: World,
        dial: Dial,
        gone: Callable[[LinkDriver], Awaitable[None]],
        goodbye: Callable[[LinkDriver, Code, str], None],
        doubt: Callable[[LinkDriver, bool], None],
        credentials: Callable[[], Credentials],
    ) -> None:
        self._world = world
        self._dial = dial
        self._gone = gone
        self._goodbye = goodbye
        self._doubt = doubt
        self._dialers: dict[tuple[Address, int], Dialer] = {}
        self._credentials = credentials
        self._dialed_with: WeakKeyDictionary[LinkDriver, Leaf] = WeakKeyDictionary()
        self._closing: set[asyncio.Task[None]] = set()

    def offered(self, address: Address, express: LinkDriver) -> None:
        """An express link to this address is up, whose Hello says how many lanes there are."""
        lanes = 0
        if express.mode != "tls" and not express.newcomer and _is_router(express):
            lanes = min(express.hello.bulk_lanes, limits.BULK_LANES)
        self.forget(address, above=lanes)
        for lane in range(EXPRESS + 1, lanes + 1):
            dialer = self._dialers.get((address, lane))
            if dialer is None:
                dialer = self._dialers[address, lane] = self._dialer(address, express.name, lane)
                dialer.start()
            dialer.wake()

    def forget(self, address: Address, *, above: int = EXPRESS) -> None:
        """Lanes of this address beyond a number are not dialed any more, and their links end."""
        for key in [one for one in self._dialers if one[0] == address and one[1] > above]:
            dialer = self._dialers.pop(key)
            if dialer.link is not None:
                self._goodbye(dialer.link, Code.NORMAL, "this lane is not used any more")
            task = spawn(dialer.close(), "close lane dialer")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    def renew(self, present: Leaf | None, before: int) -> None:
        """As `Uplinks.renew`: end one link whose certificate ends before then and has a successor."""
        for dialer in self._dialers.values():
            link = dialer.link
            leaf = None if link is None else self._dialed_with.get(link)
            if link is None or leaf is None or leaf == present:
                continue
            if before >= leaf.not_after:
                self._goodbye(link, Code.NORMAL, "a new certificate")
                return

    def network_changed(self, lost: Collection[Address]) -> None:
        """As `Uplinks.network_changed`; `lost`: routers that are reached from another address now."""
        for dialer in self._dialers.values():
            if dialer.link is None:
                dialer.again()
            else:
                self._doubt(dialer.link, dialer.link.remote in lost)

    def _dialer(self, address: Address, name: str, lane: int) -> Dialer:
        async def attempt() -> LinkDriver:
            leaf = self._credentials().leaf
            link = await self._dial(address, name, lane)
            if leaf is not None:
                self._dialed_with[link] = leaf
            return link

        def drop(link: LinkDriver) -> None:
            self._goodbye(link, Code.NORMAL, "this lane is not used any more")

        label = f"{name} lane {lane}"
        return Dialer(self._world, label, attempt, longest=RETRY, gone=self._gone, drop=drop)

    async def close(self) -> None:
        """Stop dialing; links that are up stay. No dialer of this object runs when it returns."""
        await asyncio.gather(*(dialer.close() for dialer in self._dialers.values()), *self._closing)
        self._dialers.clear()


def _is_router(link: LinkDriver) -> bool:
    return link.peer is not None and link.peer.identity.role is Role.ROUTER


def dialers_for(
    world: World,
    lanes: Lanes,
    credentials: Callable[[], Credentials],
    now: Callable[[], int],
    reach: Reach,
    boot: int,
    version: str,
) -> LaneDialers:
    """Those of a node; its links are made on the bulk loop of `lanes`. `now` is the time for certificates."""

    async def dial(address: Address, name: str, lane: int) -> LinkDriver:
        moment = now()
        # The bulk loop reads nothing that is kept at home: revocations are looked at when the link comes up.
        owner, mine = lanes.bulk, credentials()
        made: list[LinkDriver] = []

        async def attempt() -> LinkDriver:
            link = await dial_link(
                world, *address, mine, owner, now=lambda: moment, expect=name,
                proxy=reach.proxy, mode=reach.records, boot=boot, version=version, lane=lane,
            )  # fmt: skip
            made.append(link)
            return link

        def drop() -> None:
            for link in made:
                link.close()

        try:
            return await lanes.run(attempt())
        except asyncio.CancelledError:
            owner.post(drop)  # it may have come up there in the meantime
            raise

    def gone(link: LinkDriver) -> Awaitable[None]:
        return lanes.run(link.wait_closed())

    return LaneDialers(world, dial, gone, lanes.goodbye, lanes.doubt, credentials)
