"""Accepts links: bounds before authentication, then a `LinkDriver` for the owner (L-03, L-04)."""

import asyncio
from collections.abc import Callable, Collection

from overlay import limits
from overlay.aio.handshake import Handshake
from overlay.aio.link_driver import LinkDriver
from overlay.aio.link_owner import LinkOwner
from overlay.aio.preamble import Preamble
from overlay.aio.world import Connection, Listener, World
from overlay.crypto.handshake import PeerCertificate
from overlay.errors import Code, DecodeError, TrustError
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials
from overlay.link.opening import Opened, Opening
from overlay.ordered import OrderedSet
from overlay.slots import Slots, source_of
from overlay.wire.bodies import EXPRESS

KNOWN_SOURCES = 4096
"""Source addresses that are remembered because somebody authenticated from there; the oldest gives way."""
Refuse = Callable[[Opened], tuple[Code, str] | None]
Failed = Callable[[tuple[str, int], Exception], None]
Over = Callable[[bool], None]
"""Told once that a connection's handshake is over, and whether somebody authenticated."""
HandOver = Callable[[int, Connection, bytes, float, Over], bool]
"""(lane, connection, bytes read already, seconds left, over): takes a connection of another lane to its own process;
False: nobody serves that lane."""


class LinkListener:
    """Listens for links until closed.

    Args:
        credentials: asked anew for each connection, since a renewal changes them. A newcomer (no leaf) accepts only
            controllers that come to enrol it (E-07).
        now: plant time in microseconds.
        refuse: judges an authenticated peer (revoked, leaving): code and reason are said sealed, then it is closed.
        failed: told of each handshake that failed, with the other side's address.
        lanes: those that this listener takes; `bulk_lanes`: how many the node has in all (L-08).
        hand_over: gets the connections of other lanes. They keep their place (L-04) until they are `over`.
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
        hand_over: HandOver | None = None,
    ) -> None:
        self.links = OrderedSet[LinkDriver]()
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
        self._hand_over = hand_over
        self._handshakes = Slots[str](
            limits.HANDSHAKES_AT_ONCE,
            limits.HANDSHAKES_PER_SOURCE,
            limits.HANDSHAKES_RESERVED,
            KNOWN_SOURCES,
        )
        self._pending: dict[Handshake | Preamble, asyncio.TimerHandle] = {}
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

    def adopt(self, connection: Connection, received: bytes, left: float, over: Over) -> None:
        """Take a connection that another listener of this node accepted; its place is kept there until `over`."""
        self._shake(connection, received, asyncio.get_running_loop().time() + left, over)

    def _accepted(self, connection: Connection) -> None:
        source = source_of(connection.peer[0])
        if not self._handshakes.enter(source):
            self.refused += 1
            connection.abort()
            return
        deadline = asyncio.get_running_loop().time() + limits.HANDSHAKE_SECONDS

        def over(authenticated: bool) -> None:  # noqa: FBT001 - the only thing that it says
            self._handshakes.leave(source)
            if authenticated:
                self._handshakes.welcome(source)

        if self._hand_over is None:
            self._shake(connection, b"", deadline, over)
            return
        preamble = Preamble(connection, lambda done: self._begun(done, deadline, over))
        self._wait(preamble, deadline)
        preamble.start()

    def _begun(self, preamble: Preamble, deadline: float, over: Over) -> None:
        """It is known for which lane a connection is."""
        self._pending.pop(preamble).cancel()
        connection, lane = preamble.connection, preamble.lane
        if lane is None:
            self._gave_up(connection, preamble.error, over)
        elif lane in self._lanes or self._hand_over is None:
            self._shake(connection, preamble.begin, deadline, over)
        else:
            left = deadline - asyncio.get_running_loop().time()
            if not self._hand_over(lane, connection, preamble.begin, left, over):
                connection.close()
                self._gave_up(connection, DecodeError(f"there is no lane {lane} here"), over)

    def _shake(self, connection: Connection, received: bytes, deadline: float, over: Over) -> None:
        credentials = self._credentials()
        enrolled = credentials.leaf is not None
        opening = Opening(
            credentials,
            None,
            self._now(),
            self._admit,
            lanes=self._lanes,
            accept_newcomers=self._accept_newcomers,
            expired_leaf_ok=self._expired_leaf_ok,
        )
        handshake = Handshake(
            connection, opening, lambda done: self._shaken(done, over, enrolled=enrolled)
        )
        self._wait(handshake, deadline)
        handshake.start(received)

    def _wait(self, what: Handshake | Preamble, deadline: float) -> None:
        too_late = TimeoutError("the handshake took too long")
        timer = asyncio.get_running_loop().call_at(deadline, what.cancel, too_late)
        self._pending[what] = timer

    def _gave_up(self, connection: Connection, error: Exception | None, over: Over) -> None:
        over(False)  # noqa: FBT003
        if self._failed is not None and error is not None:
            self._failed(connection.peer, error)

    def _admit(self, peer: PeerCertificate) -> None:
        if self._credentials().leaf is None and (
            peer.leaf is None or peer.leaf.identity.role is not Role.CONTROLLER
        ):
            raise TrustError("only a controller may dial a router that is not enrolled")

    def _shaken(self, handshake: Handshake, over: Over, *, enrolled: bool) -> None:
        self._pending.pop(handshake).cancel()
        connection, opened = handshake.connection, handshake.opened
        if opened is None:
            # Who came before this node had its certificate is of this plant as a rule: the controller comes at once.
            self._gave_up(connection, handshake.error if enrolled else None, over)
            return
        over(opened.peer is not None)
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
