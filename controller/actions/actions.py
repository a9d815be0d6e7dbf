"""The facade of the action layer: `Actions` is what API, command line (through the API) and hub call."""

from collections.abc import AsyncIterator, Sequence

from controller.actions import types as t
from overlay.control.messages import Assignments, GrantUpdate, Recorded
from overlay.identity.certificate import Leaf
from overlay.identity.trust import Anchor, Credentials, Signers


class Subscription:
    """What changed since the last look: `await wait()` returns a set of topics, merged, never lost, never unbounded.

    Topics: "authority" (publish now), "map", "policy" (assignments and grants of all nodes may differ), "audit" (records),
    "sessions", "presence".
    """

    async def wait(self) -> frozenset[str]:
        """The topics that changed since the last call; waits for one."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop; a waiter gets an empty set."""
        raise NotImplementedError


class Actions:
    """Every decision. Methods that people call take the `Actor` first and raise `ActionError`s; texts are for people."""

    plant: str
    name: str
    """This controller's own name."""
    anchor: Anchor
    credentials: Credentials
    signers: Signers
    boot: int
    """How often this controller was started."""

    def now(self) -> int:
        """Plant time in microseconds; never goes back."""
        raise NotImplementedError

    def subscribe(self) -> Subscription: ...  # type: ignore[empty-body]

    # --- people: sessions of the API --------------------------------------------------------------
    async def login(self, request: t.Login, source: str) -> t.LoggedIn: ...  # type: ignore[empty-body]
    async def session(self, token: str) -> t.Actor:  # type: ignore[empty-body]
        """The actor of a login session; NotAuthenticated when there is none."""

    async def logout(self, actor: t.Actor, token: str) -> None: ...

    # --- inventory --------------------------------------------------------------------------------
    async def add_zone(self, actor: t.Actor, new: t.NewZone) -> t.Zone: ...  # type: ignore[empty-body]
    async def add_router(self, actor: t.Actor, new: t.NewRouter) -> t.AddedRouter: ...  # type: ignore[empty-body]
    async def add_edge(self, actor: t.Actor, new: t.NewEdge) -> t.AddedEdge: ...  # type: ignore[empty-body]
    async def make_token(self, actor: t.Actor, role: str, name: str) -> t.Token: ...  # type: ignore[empty-body]
    async def add_asset(self, actor: t.Actor, new: t.NewAsset) -> t.Asset: ...  # type: ignore[empty-body]
    async def add_service(self, actor: t.Actor, new: t.NewService) -> t.Service: ...  # type: ignore[empty-body]
    async def add_listener(self, actor: t.Actor, new: t.NewListener) -> t.Listener: ...  # type: ignore[empty-body]
    async def list_objects(self, actor: t.Actor, kind: str) -> list[t.Result]:  # type: ignore[empty-body]
        """`ls KIND`: objects of that kind, by name; Unsupported for kinds that this build does not have."""

    async def show_object(self, actor: t.Actor, kind: str, name: str) -> t.Result: ...  # type: ignore[empty-body]
    async def set_object(
        self, actor: t.Actor, kind: str, name: str, new: t.Changes
    ) -> t.Result: ...  # type: ignore[empty-body]
    async def remove_object(self, actor: t.Actor, kind: str, name: str) -> t.Removed:  # type: ignore[empty-body]
        """`rm KIND NAME`; Conflict names what depends on it. `rm conduit` is `deny`, and then Conflict never rises:
        use `deny` where the answer must say what still allows."""

    # --- policy -----------------------------------------------------------------------------------
    async def allow(self, actor: t.Actor, request: t.Allow) -> t.Conduit: ...  # type: ignore[empty-body]
    async def allow_dry_run(self, actor: t.Actor, request: t.Allow) -> t.Effect: ...  # type: ignore[empty-body]
    async def deny(self, actor: t.Actor, request: t.Deny) -> t.Denied: ...  # type: ignore[empty-body]
    async def why(self, actor: t.Actor, who: str, to: str, protocol: str) -> t.Why: ...  # type: ignore[empty-body]

    # --- sovereignty ------------------------------------------------------------------------------
    async def kill(self, actor: t.Actor, request: t.NewKill) -> t.Kill: ...  # type: ignore[empty-body]
    async def kill_session(self, actor: t.Actor, request: t.KillSession) -> t.Session: ...  # type: ignore[empty-body]
    async def restore(self, actor: t.Actor, request: t.Restore) -> t.Restored: ...  # type: ignore[empty-body]
    async def revoke(self, actor: t.Actor, request: t.Revoke) -> t.Revoked: ...  # type: ignore[empty-body]

    # --- what happens -----------------------------------------------------------------------------
    async def status(self, actor: t.Actor) -> t.Status: ...  # type: ignore[empty-body]
    async def sessions(self, actor: t.Actor, *, history: bool = False) -> list[t.Session]: ...  # type: ignore[empty-body]
    async def audit_tail(
        self, actor: t.Actor, *, after: int | None = None, limit: int = 50
    ) -> list[t.AuditRecord]:  # type: ignore[empty-body]
        """The newest `limit` records, or the first `limit` with `seq` above `after` (to follow), by `seq`."""

    async def audit_search(self, actor: t.Actor, request: t.Search) -> list[t.AuditRecord]: ...  # type: ignore[empty-body]
    async def audit_verify(self, actor: t.Actor) -> t.Verified: ...  # type: ignore[empty-body]
    async def audit_prove(self, actor: t.Actor, seq: int) -> t.Proof:  # type: ignore[empty-body]
        """The inclusion proof of one record under the newest signed head; NotFound when there is no such record."""

    def audit_export(self, actor: t.Actor) -> AsyncIterator[bytes]:  # type: ignore[empty-body]
        """The export in pieces, each some complete lines; the last line is the signed head."""

    # --- the hub: nodes on `_control` -------------------------------------------------------------
    async def check_leaf(self, leaf: Leaf) -> None:
        """May this node speak on `_control`? Known, not removed, generation not revoked; TrustError otherwise."""

    async def authority(self) -> bytes:  # type: ignore[empty-body]
        """A freshly signed authority (`Signed` bytes) at the current version and time."""

    async def authority_version(self) -> int:  # type: ignore[empty-body]
        """For `Answer`; raises Unavailable when the store cannot be written, and then there must be no answer (K-03)."""

    async def fabric_map(self) -> bytes: ...  # type: ignore[empty-body]
    async def routers_to_dial(self) -> list[tuple[str, str, bool]]:  # type: ignore[empty-body]
        """(name, HOST:PORT, enrolled) of every router that is not revoked."""

    async def assignments_for(self, leaf: Leaf) -> Assignments: ...  # type: ignore[empty-body]
    async def grants_for(self, leaf: Leaf) -> GrantUpdate:  # type: ignore[empty-body]
        """All grants of this edge now, signed, `full`; empty for a router."""

    async def record_events(self, leaf: Leaf, first: int, events: Sequence[bytes]) -> Recorded:  # type: ignore[empty-body]
        """Append a node's events; `Recorded.id` is 0: the hub fills in the request's. DecodeError or TrustError for a bad one."""

    async def redeem_token(  # type: ignore[empty-body]
        self, token: bytes, csr: bytes, proof: bytes, exporter: bytes, peer_public: bytes
    ) -> tuple[bytes, ...]:
        """Enrol: the chain (leaf first). TrustError with one text for every refusal (E-05)."""

    async def renew(self, leaf: Leaf, csr: bytes) -> tuple[bytes, ...]: ...  # type: ignore[empty-body]
    async def node_connected(self, leaf: Leaf, version: str, boot: int) -> None:
        """The node's control circuit is up (its `Start` came). The token that made its leaf is spent from now on (E-05)."""

    async def node_disconnected(self, leaf: Leaf, reason: str) -> None: ...
    def node_links(self, name: str, routers: Sequence[str]) -> None:
        """The routers to which this node is attached, where the hub knows (`status` of edges needs it)."""

    async def node_live(self, leaf: Leaf, circuits: Sequence[tuple[bytes, int, int]]) -> None:
        """A `Live` report of hosted circuits."""
