"""Dials links: once, or again and again until told to stop, through an HTTP CONNECT proxy where there is one."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, NamedTuple

from overlay import limits
from overlay.aio.handshake import shake
from overlay.aio.http_proxy import connect
from overlay.aio.lifecycle import describe
from overlay.aio.link_driver import LinkDriver
from overlay.aio.link_owner import LinkOwner
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.crypto.handshake import PeerCertificate
from overlay.errors import FerruleError, TrustError
from overlay.identity.certificate import Leaf, Role
from overlay.identity.trust import Credentials
from overlay.link.opening import ENROL_MODE, LINK_ID, Opening
from overlay.wire.bodies import EXPRESS

CONNECT_SECONDS = 10.0
"""For the TCP connection, the proxy's answer included."""
BULK_UNSENT = 128 * 1024
"""Bytes that the kernel takes of a bulk lane ahead of what it sends."""
_ANEW = 1.0
"""Seconds between two attempts that are ended because the host's network changed."""
_STEADY = 5.0
"""A link that lasted this long was a good one, since one that leads to nobody is given up before (`DEAD_AFTER` after
its last PING): the next attempt starts with the shortest pause again."""

_log = get_logger("dialer")


class Reach(NamedTuple):
    """How a node reaches routers: an HTTP proxy to go through, and the record mode of its links (L-01)."""

    proxy: str | None = None
    records: str = "header"


DIRECT = Reach()


async def dial_link(  # noqa: PLR0913 - each is named where it is called
    world: World,
    host: str,
    port: int,
    credentials: Credentials,
    owner: LinkOwner,
    *,
    mode: str = "header",
    now: Callable[[], int],
    expect: str | None = None,
    proxy: str | None = None,
    enrol: bool = False,
    admit: Callable[[Leaf], None] | None = None,
    expired_leaf_ok: bool = False,
    boot: int = 0,
    version: str = "",
    lane: int = EXPRESS,
) -> LinkDriver:
    """Dial a router (or a controller that listens) and wait for its Hello; `owner.link_up` was called then.

    Args:
        mode: record mode, one of `overlay.link.opening.MODES`.
        now: plant time in microseconds.
        expect: the other side's name, where it is known.
        proxy: URL of an HTTP proxy to go through.
        enrol: this side or the other is a newcomer (E-03, E-07).
        admit: raises TrustError for a leaf that is not wanted (revoked).
        lane: which one (L-08).
        boot, version: what Hello says of this side.

    Raises:
        LinkRefused: the other side refuses the link and says why.
        FerruleError: it is not who it should be, or the proxy refuses.
        OSError: it cannot be reached, or not in time.
    """
    async with asyncio.timeout(CONNECT_SECONDS):
        connection = await connect(world, host, port, proxy)
    if lane != EXPRESS:
        connection.hold(BULK_UNSENT)
    opening = Opening(
        credentials,
        ENROL_MODE if enrol else mode,
        now(),
        _Admission(credentials, expect, admit, enrol=enrol),
        link_id=world.entropy.bytes(LINK_ID),
        lane=lane,
        accept_newcomers=enrol,
        expired_leaf_ok=expired_leaf_ok,
    )
    driver: LinkDriver | None = None
    try:
        async with asyncio.timeout(limits.HANDSHAKE_SECONDS):
            handshake = await shake(connection, opening)
            assert handshake.opened is not None  # noqa: S101 - shake() raised otherwise
            driver = LinkDriver(
                connection, handshake.opened, owner, dialer=True, boot=boot, version=version
            )
            driver.start(handshake.flight)
            await driver.wait_up()
    except BaseException:
        if driver is None:
            connection.abort()
        else:
            driver.close()
        raise
    return driver


class _Admission:
    """What a dialer demands of the other side (L-03, E-03, E-07)."""

    def __init__(
        self,
        credentials: Credentials,
        expect: str | None,
        admit: Callable[[Leaf], None] | None,
        *,
        enrol: bool,
    ) -> None:
        self._newcomer = credentials.leaf is None
        self._enrol = enrol
        self._expect = expect
        self._admit = admit

    def __call__(self, peer: PeerCertificate) -> None:
        if peer.leaf is None:
            if self._newcomer:
                raise TrustError("the other side is not enrolled either")
            return
        role, name = peer.leaf.identity.role, peer.leaf.identity.name
        if role not in {Role.ROUTER, Role.CONTROLLER}:
            raise TrustError(f"the other side is {role.value} {name}, not a router")
        if self._expect is not None and name != self._expect:
            raise TrustError(f"the other side is {name}, not {self._expect}")
        if self._enrol and not self._newcomer:
            # On a link for enrolling there would be nobody to enrol, and for 30 s no link at all.
            raise TrustError(f"{name} is enrolled already")
        if self._admit is not None:
            self._admit(peer.leaf)


class _Anew(Exception):
    """The attempt is to begin anew."""


def _cancelled() -> bool:
    """Whether the running task itself is being cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Dialer:
    """Keeps one link: dials, waits until it is gone, dials again with growing, jittered pauses.

    Args:
        dial: one attempt; returns a link that is up (see `dial_link`).
        longest: seconds between two attempts at most.
        name: what is dialed, for the log.
        gone: waits until a link is; another one where the link belongs to another event loop.
        drop: ends a link that came up in the moment in which the dialer was closed; likewise.
    """

    def __init__(
        self,
        world: World,
        name: str,
        dial: Callable[[], Coroutine[Any, Any, LinkDriver]],
        *,
        longest: float = limits.RECONNECT_MAX,
        gone: Callable[[LinkDriver], Awaitable[None]] = LinkDriver.wait_closed,
        drop: Callable[[LinkDriver], None] = LinkDriver.close,
    ) -> None:
        self.name = name
        self.link: LinkDriver | None = None
        self.error = ""
        """Why the last attempt failed; empty while the link is up."""
        self._world = world
        self._dial = dial
        self._longest = longest
        self._gone = gone
        self._drop = drop
        self._awake = asyncio.Event()
        self._attempt: asyncio.Task[LinkDriver] | None = None
        self._anew = float("-inf")
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin; nothing when it has begun already."""
        if self._task is None:
            self._task = spawn(self._run(), f"dial {self.name}")

    def wake(self) -> None:
        """Something changed (a router came back, an address moved): dial at once if the link is not up."""
        self._awake.set()

    def again(self) -> None:
        """As `wake`, and an attempt that is under way begins anew, since it may wait for an answer on a way that is no
        more; once in `_ANEW` at most, so that it can end where changes do not."""
        now = asyncio.get_running_loop().time()
        if self.link is None and self._attempt is not None and now - self._anew >= _ANEW:
            self._anew = now
            self._attempt.cancel()
        self.wake()

    async def close(self) -> None:
        """Stop dialing. A link that is up stays up: close it where you mean to."""
        await cancel(self._task)
        self._task = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        pause = limits.RECONNECT_MIN
        while True:
            began = loop.time()
            self._awake.clear()
            try:
                self.link = await self._try()
                self.error = ""
                await self._gone(self.link)
            except _Anew:
                self._awake.set()
            except (FerruleError, OSError) as error:
                text = describe(error) if isinstance(error, OSError) else str(error)
                self._note(text)
            finally:
                self.link = None
            pause = limits.RECONNECT_MIN if loop.time() - began > _STEADY else 2 * pause
            pause = min(pause, self._longest)
            try:
                # Full jitter: a plant whose router comes back does not dial it in step.
                async with asyncio.timeout(pause * self._world.entropy.uniform()):
                    await self._awake.wait()
                pause = limits.RECONNECT_MIN
            except TimeoutError:
                pass

    async def _try(self) -> LinkDriver:
        """One attempt. Raises: _Anew: `again` ended it. FerruleError, OSError: it failed."""
        self._attempt = attempt = spawn(self._dial(), f"attempt {self.name}", awaited=True)
        try:
            return await attempt
        except asyncio.CancelledError:
            if attempt.cancelled() and not _cancelled():
                raise _Anew from None
            await cancel(attempt)
            if not attempt.cancelled() and attempt.exception() is None:
                self._drop(attempt.result())  # nobody else knows that it was dialed
            raise
        finally:
            self._attempt = None

    def _note(self, error: str) -> None:
        """Say it once, not at every attempt."""
        if error != self.error:
            self.error = error
            _log.warning("dial.failed", to=self.name, error=error)
