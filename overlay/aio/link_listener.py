"""Accepts links: bounds before authentication, then a `LinkDriver` for the owner (L-03, L-04)."""

import asyncio
from collections.abc import Callable, Collection

from overlay import limits
from overlay.aio.handshake import Handshake
from overlay.aio.link_driver import LinkDriver, LinkOwner
from overlay.aio.world import Connection, Listener, World
from overlay.crypto.handshake import PeerCertificate
from overlay.errors import Code, TrustError
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials
from overlay.link.opening import Opened, Opening
from overlay.link.places import Places
from overlay.wire.bodies import EXPRESS

Refuse = Callable[[Opened], tuple[Code, str] | None]
Failed = Callable[[tuple[str, int], Exception], None]


class LinkListener:
    """Listens for links until closed.

    Args:
        credentials: asked anew for each connection, since a renewal changes them. A newcomer (no leaf) accepts only
            controllers that come to enrol it (E-07).
        now: plant time in microseconds.
        refuse: judges an authenticated peer (revoked, draining): code and reason are said sealed, then it is closed.
        failed: told of each handshake that failed, with the other side's address.
        lanes: those that this listener takes; `bulk_lanes`: how many the node has in all (L-08).
        expired_leaf_ok: admit leaves after their end (I-05); the owner lets them reach `_control` only.
    """

    def __init__(  # noqa: PLR0913 - each is named where it is called
        self,
        world: World,
        credentials: Callable[[], Credentials],
        owner: LinkOwner,
        now: Callable[[], int],
        *,
        refuse: Refuse | None = None,
        failed: Failed | None = None,
        accept_newcomers: bool = True,
        expired_leaf_ok: bool = True,
        boot: int = 0,
        version: str = "",
        max_links: int = limits.LINKS_PER_ROUTER,
        lanes: Collection[int] = (EXPRESS,),
        bulk_lanes: int = 0,
    ) -> None:
        self.links: set[LinkDriver] = set()
        """All that are up or about to be."""
        self.refused = 0
        """Connections that were closed before a handshake because there was no place (L-04)."""
        self._world = world
        self._credentials = credentials
        self._owner = owner
        self._now = now
        self._refuse = refuse
        self._failed = failed
        self._accept_newcomers = accept_newcomers
        self._expired_leaf_ok = expired_leaf_ok
        self._boot = boot
        self._version = version
        self._max_links = max_links
        self._lanes = lanes
        self._bulk_lanes = bulk_lanes
        self._places = Places()
        self._pending: dict[Handshake, asyncio.TimerHandle] = {}
        self._listener: Listener | None = None

    @property
    def local(self) -> tuple[str, int]:
        """Where it listens. Raises: RuntimeError: it does not."""
        if self._listener is None:
            raise RuntimeError("not listening")
        return self._listener.local

    async def listen(self, host: str, port: int) -> None:
        """Begin to accept. Raises: OSError: the address is taken or not this machine's."""
        self._listener = await self._world.net.listen(host, port, self._accepted)

    def close(self) -> None:
        """Accept nothing more, drop what is not authenticated; links stay."""
        if self._listener is not None:
            self._listener.close()
        for handshake in list(self._pending):
            handshake.cancel(ConnectionAbortedError("closing"))

    def _accepted(self, connection: Connection) -> None:
        source = connection.peer[0]
        if not self._places.enter(source):
            self.refused += 1
            connection.abort()
            return
        opening = Opening(
            self._credentials(),
            None,
            self._now(),
            self._admit,
            lanes=self._lanes,
            accept_newcomers=self._accept_newcomers,
            expired_leaf_ok=self._expired_leaf_ok,
        )
        handshake = Handshake(connection, opening, self._shaken)
        loop = asyncio.get_running_loop()
        too_late = TimeoutError("the handshake took too long")
        timer = loop.call_later(limits.HANDSHAKE_SECONDS, handshake.cancel, too_late)
        self._pending[handshake] = timer
        handshake.start()

    def _admit(self, peer: PeerCertificate) -> None:
        if self._credentials().leaf is None and (
            peer.leaf is None or peer.leaf.identity.role is not Role.CONTROLLER
        ):
            raise TrustError("only a controller may dial a router that is not enrolled")

    def _shaken(self, handshake: Handshake) -> None:
        self._pending.pop(handshake).cancel()
        connection, opened = handshake.connection, handshake.opened
        self._places.leave(
            connection.peer[0], authenticated=opened is not None and opened.peer is not None
        )
        if opened is None:
            if self._failed is not None and handshake.error is not None:
                self._failed(connection.peer, handshake.error)
            return
        refusal = None if self._refuse is None else self._refuse(opened)
        if refusal is None and len(self.links) >= self._max_links:
            refusal = (Code.BUSY, "too many links")
        driver = LinkDriver(
            connection, opened, self._owner, dialer=False, boot=self._boot, version=self._version,
            bulk_lanes=self._bulk_lanes,
        )  # fmt: skip
        self.links.add(driver)
        driver.on_closed = self.links.discard
        driver.start(handshake.flight, refusal)
