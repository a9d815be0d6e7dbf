"""What a node holds by the word of controllers: authority, map, assignments, grants. All of it is also on disk."""

from collections.abc import Callable, Iterable
from typing import Protocol

from overlay.aio.logs import get_logger
from overlay.aio.state import KeptState
from overlay.control.messages import Assignments, GrantUpdate
from overlay.errors import DecodeError, ProtocolError, TrustError
from overlay.fabric.authority import Authority, FabricMap
from overlay.fabric.state import published_kind
from overlay.identity.certificate import Leaf, Role
from overlay.identity.trust import open_signed
from overlay.policy.grant import Grant
from overlay.wire.codec import Signed, decode

GRANTS = 65_536
"""Grants that a node keeps."""

_log = get_logger("node")


class NodeHooks(Protocol):
    """What the program does with what its agent learns. Called from the event loop; must not block or raise."""

    def authority_changed(self, authority: Authority) -> None:
        """An authority of a higher version is in force: cut what it names, close links of revoked nodes (A-04)."""
        ...

    def authority_renewed(self, authority: Authority) -> None:
        """The authority in force was signed anew, and names the same (A-02)."""
        ...

    def map_changed(self, fabric: FabricMap) -> None:
        """A newer fabric map is in force."""
        ...

    def assigned(self, assignments: Assignments) -> None:
        """Listeners and hosted services, replacing the previous; at start, those kept on disk."""
        ...

    def granted(self, put: list[tuple[Grant, bytes]], gone: list[Grant]) -> None:
        """Grants that are new or refreshed (verified, with their signed bytes), and those not held any more; at start,
        those kept on disk."""
        ...

    def live(self) -> Iterable[tuple[bytes, int, int]]:
        """Hosted circuits that are open: (circuit id, bytes towards the service, bytes back)."""
        ...


class Holdings:
    """Takes what comes over links and `_control`, checks it, keeps it, and tells the program.

    `now` is the time for certificates (`NodeAgent.certificate_now`).
    """

    def __init__(self, state: KeptState, now: Callable[[], int]) -> None:
        self._state = state
        self._now = now
        self._more: list[bytes] = []
        self.hooks: NodeHooks | None = None
        self.grants: dict[bytes, tuple[Grant, bytes]] = {}
        """Grants in hand by id, with their signed bytes."""

    def begin(self, hooks: NodeHooks) -> None:
        """Go on with what was kept on disk: no controller is needed to start."""
        self.hooks = hooks
        state = self._state
        if state.authority.held is not None:
            hooks.authority_changed(state.authority.held.body)
        if state.fabric.map is not None:
            hooks.map_changed(state.fabric.map)
        if state.assignments is not None:
            hooks.assigned(state.assignments)
        put: list[tuple[Grant, bytes]] = []
        for signed in state.grants:
            try:
                put.append(self._open_grant(signed))
            except (DecodeError, TrustError) as error:
                _log.warning("grant.dropped", reason=str(error))
        self.grants = {grant.id: (grant, signed) for grant, signed in put}
        hooks.granted(put, [])

    def admit(self, leaf: Leaf) -> None:
        """Is this certificate still good? Raises: TrustError: it is revoked."""
        if self._state.authority.revoked(leaf):
            raise TrustError(f"{leaf.identity.role.value} {leaf.identity.name} is revoked")

    def publications(self) -> list[bytes]:
        """The authority and map in force, as signed (A-01)."""
        held = (self._state.authority.held, self._state.fabric.held)
        return [one.signed for one in held if one is not None]

    def offer(self, signed: bytes) -> bool:
        """Apply an authority or a map (A-02, F-01); whether it was news.

        Raises:
            DecodeError: it is neither.
            TrustError: it does not hold; nothing has changed.
        """
        if published_kind(signed) == FabricMap.TYPE:
            fabric = self._state.fabric.offer(signed, self._now())
            if fabric is None:
                return False
            self._state.keep_map()
            self._keep_chain(signed)
            if self.hooks is not None:
                self.hooks.map_changed(fabric)
            return True
        version = self._state.authority.version
        authority = self._state.authority.offer(signed, self._now())
        if authority is None:
            return False
        self._state.keep_authority()
        self._keep_chain(signed)
        if self.hooks is not None and authority.version == version:
            self.hooks.authority_renewed(authority)
        elif self.hooks is not None:
            self.hooks.authority_changed(authority)
        return True

    def assignments_came(self, assignments: Assignments) -> None:
        """Raises: DecodeError, TrustError: its map does not hold."""
        if assignments.fabric:
            self.offer(assignments.fabric)
        self._state.keep_assignments(assignments)
        if self.hooks is not None:
            self.hooks.assigned(assignments)

    def grants_begin(self) -> None:
        """A new control circuit: parts of an update that the last one did not finish are forgotten."""
        self._more = []

    def grants_came(self, update: GrantUpdate) -> None:
        """Raises: DecodeError, TrustError: a grant does not hold. ProtocolError: more than `GRANTS`."""
        self._more += update.put
        if len(self._more) > GRANTS:
            raise ProtocolError(f"more than {GRANTS} grants for one node")
        if update.more:
            return
        parts, self._more = self._more, []
        put = [self._open_grant(signed) for signed in parts]
        kept = {grant.id for grant, _ in put}
        dropped = set(update.drop)
        gone = [
            grant
            for grant, _ in self.grants.values()
            if grant.id not in kept and (update.full or grant.id in dropped)
        ]
        for grant in gone:
            del self.grants[grant.id]
        for grant, signed in put:
            self.grants[grant.id] = (grant, signed)
        self._state.keep_grants(tuple(signed for _, signed in self.grants.values()))
        if self.hooks is not None:
            self.hooks.granted(put, gone)

    def _open_grant(self, signed: bytes) -> tuple[Grant, bytes]:
        grant, _ = open_signed(
            Grant, signed, self._state.signers, self._now(), role=Role.CONTROLLER
        )
        return grant, signed

    def _keep_chain(self, signed: bytes) -> None:
        self._state.keep_chain(decode(Signed, signed).chain)
