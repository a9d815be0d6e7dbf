"""What the hub asks of the action layer; `controller.actions.actions.Actions` is it."""

from collections.abc import Sequence
from typing import Protocol

from overlay.control.messages import Assignments, Recorded
from overlay.errors import Code
from overlay.identity.certificate import Leaf
from overlay.identity.trust import Credentials, Signers
from overlay.policy.grant import Grant


class Subscription(Protocol):
    """News of changes, merged."""

    async def wait(self) -> frozenset[str]:
        """Topics that changed since the last call; waits for one. Empty after `close`."""
        ...

    def close(self) -> None:
        """No more news."""
        ...


class RouterToDial(Protocol):
    """A router that gets a link."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def address(self) -> str:
        """HOST:PORT."""
        ...

    @property
    def enrolled(self) -> bool:
        """It has a certificate that is not revoked."""
        ...

    @property
    def newcomer(self) -> bool:
        """It may (still or again) show a self-signed key, since a token waits for it (E-07)."""
        ...


class HubActions(Protocol):
    """Every decision is made behind this. Methods raise `Unavailable` (a FerruleError) when the store is away, and
    TrustError for who or what is not believed."""

    signers: Signers
    boot: int

    @property
    def credentials(self) -> Credentials:
        """The controller's own, as they are now."""
        ...

    def now(self) -> int:
        """Plant time, microseconds."""
        ...

    def subscribe(self) -> Subscription:
        """Topics: authority, map, policy, audit, sessions, presence."""
        ...

    async def check_leaf(self, leaf: Leaf) -> None:
        """May this node speak on `_control`?"""
        ...

    async def authority(self) -> bytes:
        """The authority, signed now."""
        ...

    async def authority_version(self) -> int:
        """The version in force, if the store can be read and written."""
        ...

    async def fabric_map(self) -> bytes:
        """The signed map; the same bytes while it is the same."""
        ...

    async def routers_to_dial(self) -> Sequence[RouterToDial]:
        """All that are not revoked."""
        ...

    async def assignments_for(self, leaf: Leaf) -> Assignments:
        """What the node has to do."""
        ...

    async def grants_for(self, leaf: Leaf) -> Sequence[Grant]:
        """All of its grants, as they are now."""
        ...

    async def sign_grants(self, grants: Sequence[Grant]) -> Sequence[bytes]:
        """The same, signed."""
        ...

    async def record_events(
        self,
        leaf: Leaf,
        first: int,
        events: Sequence[bytes],
        chain: Sequence[bytes] = (),
        makes: int = 0,
    ) -> Recorded:
        """Append events; `id` of the answer is 0. `makes`: as in `Events`."""
        ...

    async def prove_growth(self, sizes: Sequence[int], size: int) -> Sequence[Sequence[bytes]]:
        """For each of `sizes` the proof that the log of `size` records begins with it."""
        ...

    async def redeem_token(
        self, token: bytes, csr: bytes, proof: bytes, exporter: bytes, peer_public: bytes
    ) -> tuple[bytes, ...]:
        """The newcomer's chain."""
        ...

    async def renew(self, leaf: Leaf, csr: bytes) -> tuple[bytes, ...]:
        """The node's next chain."""
        ...

    async def node_connected(self, leaf: Leaf, version: str, boot: int) -> None:
        """A control circuit has begun."""
        ...

    async def node_disconnected(self, leaf: Leaf, reason: str) -> None:
        """One that has begun is over."""
        ...

    async def link_fault(self, router: str, code: Code, reason: str) -> None:
        """The hub found that something came over a router's link that must not have come (L-15)."""
        ...

    def node_links(self, name: str, routers: Sequence[str], trips: Sequence[int] = ()) -> None:
        """Routers that the node has links to, and round trips to them in µs."""
        ...

    async def node_live(self, leaf: Leaf, circuits: Sequence[tuple[bytes, int, int]]) -> None:
        """Circuits that the node hosts."""
        ...
