"""Tells routers where this node is attached (docs/protocol/link.md, F-10): for edges, controllers and routers alike."""

import asyncio
from collections.abc import Callable, Iterable

from overlay import limits
from overlay.aio.link_driver import LinkDriver
from overlay.fabric.paths import SUSPECT_COST, UNMEASURED_COST
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials, sign_body
from overlay.link.load import COSTS
from overlay.wire.bodies import Attach, Attachment

LIFE = int(limits.ATTACHMENT_LIFE * 1_000_000)
RENEW_SECONDS = limits.ATTACHMENT_LIFE / 2
MOVED_SECONDS = 10.0
"""So often at most is a cost told anew that is not what it was: a router that is slow for all must not be flooded."""
MOVED_LEAST = 5_000
"""Costs (µs) that differ by less are the same, and so are those of which neither is twice the other."""
_MOST = (1 << 32) - 1


class Attacher:
    """Signs and sends this node's own attachment. `links` gives the links to routers that are up."""

    def __init__(
        self,
        credentials: Callable[[], Credentials],
        now: Callable[[], int],
        boot: int,
        links: Callable[[], Iterable[LinkDriver]],
    ) -> None:
        self._credentials = credentials
        self._now = now
        self._boot = boot
        self._links = links
        self._counter = 0
        self._sent = float("-inf")
        self._said: dict[str, int] = {}
        self._told = True
        self.down: tuple[str, ...] = ()
        """Assets that are known not to answer; call `announce` after a change."""
        self.leaving = False
        """This node goes away: it is attached nowhere any more."""

    def announce(self) -> bytes:
        """Tell all routers, because something changed; the attachment as signed."""
        links = [link for link in self._links() if not link.over and link.peer is not None]
        signed = self._sign(links)
        for link in links:
            link.send_control(Attach((signed,)))
        self._sent = asyncio.get_running_loop().time()
        return signed

    def tick(self, *, told: bool = True) -> None:
        """Renew when half of the life is over, sooner when a cost has moved, and once a controller has `told` this node
        the time: with a wrong clock the first ones held nowhere. Call it every few seconds."""
        news = told and not self._told
        self._told = told
        age = asyncio.get_running_loop().time() - self._sent
        if news or age >= RENEW_SECONDS or (age >= MOVED_SECONDS and self._moved()):
            self.announce()

    def _moved(self) -> bool:
        """The cost of a link is not any more what was said of it."""
        costs = self._costs(self._links())
        return any(
            abs(cost - said) >= MOVED_LEAST and max(cost, said) >= 2 * min(cost, said)
            for name, cost in costs.items()
            if (said := self._said.get(name)) is not None
        )

    def _costs(self, links: Iterable[LinkDriver]) -> dict[str, int]:
        leaf = self._credentials().leaf
        passes = leaf is not None and leaf.identity.role is Role.ROUTER
        return {
            link.name: cost_of(link, passes=passes)
            for link in links
            if not link.over and link.peer is not None
            if link.peer.identity.role is Role.ROUTER
            if not link.going_away and not self.leaving
        }

    def _sign(self, links: list[LinkDriver]) -> bytes:
        credentials = self._credentials()
        assert credentials.leaf is not None  # noqa: S101  (only an enrolled node is attached)
        self._said = routers = self._costs(links)
        self._counter += 1
        body = Attachment(
            node=credentials.leaf.identity.name,
            routers=tuple(sorted(routers.items())[: limits.ROUTERS_PER_NODE]),
            boot=self._boot,
            counter=self._counter,
            until=self._now() + LIFE,
            down=self.down[: limits.ASSETS_DOWN],
        )
        return sign_body(body, credentials.key, credentials.anchor, credentials.chain)


def cost_of(link: LinkDriver, *, passes: bool) -> int:
    """Half a round trip in µs (F-16). `passes`: a way over it leads on through the router at its other end, whose load
    counts then (F-17); where it ends at this node it has passed that router in any case."""
    trip = link.round_trip
    cost = UNMEASURED_COST if trip is None else int(trip * 500_000)
    if passes:
        cost += COSTS[link.load]
    return min(_MOST, cost if link.sound else cost + SUSPECT_COST)
