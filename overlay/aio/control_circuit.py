"""Keeps one control circuit open: dials it over any link, talks, and dials again (docs/protocol/control.md, K-07)."""

import asyncio
from typing import TYPE_CHECKING, Protocol

from overlay import limits
from overlay.aio.conversation import Conversation, ConversationOwner
from overlay.aio.enrol import CONTROL_RETRY
from overlay.aio.logs import get_logger
from overlay.aio.spool import Spool
from overlay.aio.state import KeptState
from overlay.aio.world import World
from overlay.errors import Code, FerruleError, TrustError
from overlay.fabric.plant_time import Freshness
from overlay.identity.certificate import Leaf, Role
from overlay.wire.bodies import CONTROL_SERVICE

if TYPE_CHECKING:
    from overlay.aio.endpoint import Endpoint
    from overlay.aio.link_driver import LinkDriver

DIAL_SECONDS = 10.0
STEADY_SECONDS = 10.0
"""A circuit that lasted so long was a good one: the next attempt comes after the shortest pause again."""

_log = get_logger("control")


class ControlOwner(ConversationOwner, Protocol):
    """What the circuit asks of its node, besides what a conversation does."""

    async def control_links(self) -> "list[LinkDriver]":
        """Links to try in order, a controller's own first; waits until there is one."""
        ...

    def admit_controller(self, leaf: Leaf) -> None:
        """A conversation with this controller begins. Raises: TrustError: it is revoked."""
        ...

    def leave_links(self) -> None:
        """This node has a certificate again after the last had expired: all links begin anew with it."""
        ...


class ControlCircuit:
    """`run` never returns; no failure of a controller or router ends a node."""

    def __init__(self, world: World, state: KeptState, owner: ControlOwner, version: str) -> None:
        self._world = world
        self._state = state
        self._owner = owner
        self._version = version
        self._conversation: Conversation | None = None
        self._renewed = b""
        self.freshness = Freshness()

    @property
    def connected(self) -> bool:
        """The circuit is up and the controller has answered."""
        return self._conversation is not None and self._conversation.started

    def links_changed(self) -> None:
        """A link came or went: the controller is told."""
        if self._conversation is not None:
            self._conversation.links_changed()

    def authority_changed(self) -> None:
        """A newer authority is in force."""
        if self._conversation is not None:
            self._conversation.authority_changed()

    async def run(self, spool: Spool, endpoint: "Endpoint") -> None:
        """Dial, talk, dial again, with growing, jittered pauses."""
        pause, told = limits.RECONNECT_MIN, ""
        while True:
            links = await self._owner.control_links()
            began = self._world.clock.boot()
            try:
                await self._talk(spool, endpoint, links)
                why = "it ended"
            except (FerruleError, OSError) as error:
                why = str(error) or type(error).__name__
            if self.connected and self._world.clock.boot() - began >= STEADY_SECONDS:
                pause, told = limits.RECONNECT_MIN, ""
            self._conversation = None
            if why != told:
                told = why
                _log.warning("control.down", reason=why)
            await asyncio.sleep(pause * (0.5 + self._world.entropy.uniform() / 2))
            pause = min(2 * pause, CONTROL_RETRY)

    async def _talk(self, spool: Spool, endpoint: "Endpoint", links: "list[LinkDriver]") -> None:
        async with asyncio.timeout(DIAL_SECONDS):
            stream = await endpoint.dial(CONTROL_SERVICE, links=links)
        try:
            peer = stream.peer
            if peer is None or peer.identity.role is not Role.CONTROLLER:
                raise TrustError("who answered is not a controller of this plant")
            self._owner.admit_controller(peer)
            expired = self._expired()
            _log.info("control.up", controller=peer.identity.name, renew_only=expired)
            self._conversation = Conversation(
                self._world, self._state, spool, self.freshness, self._owner, stream, self._version
            )
            leaf = self._state.leaf
            await self._conversation.run(renew_only=expired)
            if expired and leaf != self._state.leaf:
                self._renewed = self._state.leaf.fingerprint
            if expired and not self._expired():
                self._owner.leave_links()
        finally:
            stream.abort(Code.NORMAL, "the control circuit ends")

    def _expired(self) -> bool:
        """The own certificate has ended (I-05). One that was renewed for that reason and seems to have ended already
        shows that this machine's clock is wrong."""
        leaf = self._state.leaf
        return leaf.not_after < self._state.now() and leaf.fingerprint != self._renewed
