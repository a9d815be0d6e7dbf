"""What edge and router share as nodes: identity, authority, plant time, `_control`, audit events.

A program builds it in this order (no step needs the network before `run`)::

    state = await NodeState.open(world, directory)             # lock, key, chain, authority, map, floor, boot
    agent = NodeAgent(world, state, version="0.1.0", token=text or None, dial=True, proxy=None)
    endpoint = Endpoint(world, agent.credentials, agent.signers, agent.plant_now, ..., state.boot, agent.link_control)
    agent.use(endpoint)                                        # an edge's links belong to the endpoint
    await agent.run(stop)                                      # enrols first when needed; returns soon after `stop`
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Protocol

from overlay.aio.state import NodeState
from overlay.aio.world import World
from overlay.audit.event import EventName, Outcome
from overlay.control.messages import Assignments, GrantUpdate
from overlay.errors import Code
from overlay.fabric.authority import Authority, FabricMap
from overlay.identity.certificate import Leaf
from overlay.identity.trust import Credentials, Signers
from overlay.wire.bodies import LinkControl

if TYPE_CHECKING:
    from overlay.aio.endpoint import Endpoint
    from overlay.aio.link_driver import LinkDriver


class NodeHooks(Protocol):
    """What the program does with what its agent learns. Called from the event loop; must not block or raise."""

    def authority_changed(self, authority: Authority) -> None:
        """A newer authority is in force (and on disk): cut what it names, close revoked links (A-04)."""
        ...

    def map_changed(self, fabric: FabricMap) -> None:
        """A newer fabric map is in force."""
        ...

    def assigned(self, assignments: Assignments) -> None:
        """Listeners and hosted services, replacing the previous; also called at start with those kept on disk."""
        ...

    def granted(self, update: GrantUpdate) -> None:
        """Grants to put and to drop; also called at start with those kept on disk (`full`). Signatures are not checked
        yet."""
        ...

    def live(self) -> Iterable[tuple[bytes, int, int]]:
        """Hosted circuits that are open: (circuit id, bytes towards the service, bytes back)."""
        ...


class NodeAgent:
    """One node's side of the control conversation, and all that the rest of the program asks of it."""

    def __init__(
        self,
        world: World,
        state: NodeState,
        *,
        version: str,
        token: str | None = None,
        dial: bool,
        proxy: str | None = None,
    ) -> None:
        """`dial`: keep links to all known routers (edge); without it links come from outside (router)."""

    def use(self, endpoint: "Endpoint", hooks: NodeHooks) -> None:
        """The endpoint that carries `_control` (and, in an edge, owns the links), and the program's own side."""

    async def run(self, stop: asyncio.Event) -> None:
        """Enrol if needed, keep links and `_control`, until `stop`; then write what is pending and return.

        Raises:
            FerruleError: the token is missing or refused; nothing else ends it.
        """

    # --- asked all the time, no I/O -------------------------------------------------------------

    def plant_now(self) -> int:
        """Plant time in microseconds (A-20)."""
        raise NotImplementedError

    def fresh(self) -> bool:
        """The authority is fresh (K-03)."""
        raise NotImplementedError

    def refresh_binds(self) -> bool:
        """What `check_grant` wants as `fresh`: fresh, and the 30 s of G-02 are over."""
        raise NotImplementedError

    @property
    def connected(self) -> bool:
        """The control circuit is up."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """This node's name; empty before it is enrolled."""
        raise NotImplementedError

    @property
    def signers(self) -> Signers:
        """Who may sign for this plant."""
        raise NotImplementedError

    def credentials(self) -> Credentials:
        """Key and chain as they are now; after a renewal the new ones."""
        raise NotImplementedError

    def room(self) -> bool:
        """The spool takes events of new circuits; False: refuse them with BUSY (U-09)."""
        raise NotImplementedError

    def record(self, event: EventName, outcome: Outcome, **fields: str | int) -> None:
        """Put an event in the spool (`overlay.audit.event.Event` has the fields). Never blocks, never fails; repeated
        denials of one kind are merged into one event with `count` when they come faster than the rate limit."""
        raise NotImplementedError

    # --- from links -----------------------------------------------------------------------------

    def link_control(self, link: "LinkDriver", message: LinkControl) -> list[bytes]:
        """A CONTROL message came in on a link. Publish is applied: the result holds what was news and has to be
        forwarded by a router. Attach is the router's own affair.

        Raises:
            ProtocolError: a Publish from an edge (A-10), or one that does not decode or whose signature does not hold.
        """
        raise NotImplementedError

    def admit(self, leaf: Leaf) -> None:
        """For handshakes: is this peer's certificate still good?

        Raises:
            TrustError: it is revoked.
        """
        raise NotImplementedError

    def publications(self) -> list[bytes]:
        """The authority and map in force, for a link that has just come up (A-01)."""
        raise NotImplementedError

    def link_up(self, link: "LinkDriver") -> None:
        """A link to a router or controller is up (an edge attaches itself; a router without `_control` tries now)."""

    def link_down(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """A link is gone."""


Hook = Callable[[], None]
