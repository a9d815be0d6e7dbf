"""The authority and the fabric map that a node holds (docs/protocol/control.md, A-01 to A-07; link.md, F-01). Pure.

A push can only add what the controller signed: these classes take the newest signed bytes, refuse what goes back, and
answer the one question that every node asks of each grant and each certificate: is it void?
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from overlay.errors import Code, DecodeError, TrustError
from overlay.fabric.authority import Authority, FabricMap, Kill
from overlay.identity.certificate import Leaf, Role
from overlay.identity.trust import Signers, open_signed
from overlay.wire.codec import Signed, decode

if TYPE_CHECKING:  # grants are a sibling core: only their shape is needed here
    from overlay.policy.grant import Grant

Versioned = TypeVar("Versioned", Authority, FabricMap)


@dataclass(frozen=True)
class Held(Generic[Versioned]):
    """What is in force: the body, the bytes as signed, and when it was accepted (plant time in µs, not before its
    signer's certificate begins)."""

    body: Versioned
    signed: bytes
    accepted: int


def _newest(
    kind: type[Versioned], data: bytes, signers: Signers, held: Held[Versioned] | None, now: int
) -> tuple[Held[Versioned], Leaf] | None:
    """Check signature, role and version; None when it is no news.

    Raises:
        DecodeError: not a signed body of this kind.
        TrustError: signature or role does not hold, or two contents under one version.
    """
    if held is not None and data == held.signed:
        return None
    body, leaf = open_signed(kind, data, signers, now, role=Role.CONTROLLER)
    if held is not None and body.version <= held.body.version:
        if body.version == held.body.version and _content(body) != _content(held.body):
            raise TrustError(f"two different contents of {kind.TYPE} version {body.version}")
        if _age(body) <= _age(held.body):
            return None
    return Held(body, data, max(int(now), leaf.not_before)), leaf


def _content(body: Authority | FabricMap) -> tuple[object, ...]:
    """What may not differ within one version (A-02)."""
    if isinstance(body, Authority):
        return (body.kills, body.revoked, body.withdrawn)
    return (body.routers,)


def _age(body: Authority | FabricMap) -> tuple[int, int]:
    """Newer is larger: an authority is signed anew every 5 s under one version."""
    return (body.version, body.time if isinstance(body, Authority) else 0)


class AuthorityState:
    """The newest authority, indexed for matching. Lookups cost the same with one kill and with `KILLS`."""

    def __init__(self, signers: Signers) -> None:
        self._signers = signers
        self.held: Held[Authority] | None = None
        self._kills: dict[tuple[str, str], Kill] = {}
        self._revoked: dict[str, int] = {}
        self._withdrawn: dict[str, int] = {}

    @property
    def version(self) -> int:
        """Version in force; 0 before the first."""
        return 0 if self.held is None else self.held.body.version

    def offer(self, data: bytes, now: int) -> Authority | None:
        """Take signed bytes from anybody; the authority when it is newer and now in force, None when it is no news.

        A lower version is no news: routers that were cut off still have one. It changes nothing (A-02).

        Raises:
            DecodeError: not a signed authority.
            TrustError: signer unknown, not a controller or revoked, bad signature, or the same version with
                another content.
        """
        news = _newest(Authority, data, self._signers, self.held, now)
        if news is None:
            return None
        held, leaf = news
        if self.revoked(leaf) or _voids(held.body, leaf):
            raise TrustError(f"the authority is signed by {leaf.identity.name}, which is revoked")
        self._hold(held)
        return held.body

    def restore(self, data: bytes, accepted: int) -> None:
        """Take what this node accepted at plant time `accepted` and kept on its own disk.

        Raises:
            DecodeError, TrustError: the file does not hold an authority of this plant.
        """
        body, _ = open_signed(Authority, data, self._signers, accepted, role=Role.CONTROLLER)
        self._hold(Held(body, data, accepted))

    def revoked(self, leaf: Leaf) -> bool:
        """All leaves of this name up to a generation that includes this one are void (I-04)."""
        return leaf.generation <= self._revoked.get(leaf.identity.name, -1)

    def withdrawn(self, conduit: str, now: int) -> bool:
        """The conduit was ended by decision, and the moment has come."""
        at = self._withdrawn.get(conduit)
        return at is not None and now >= at

    def blocks(
        self,
        grant: "Grant",
        now: int,
        *,
        circuit: bytes = b"",
        host: str | None = None,
        leaves: Iterable[Leaf] = (),
    ) -> tuple[Code, str] | None:
        """Why this grant may not be used now, in the order of A-06; None when nothing stands against it.

        `circuit` is the circuit's id where there is one, `host` the hosting edge where it is chosen (before that one of
        the permitted must be left), `leaves` are the certificates of its ends as far as known.
        """
        kill = self.kill_of(grant, now, circuit, host)
        if kill is not None:
            what = f"{kill.level} {kill.name}".strip()
            return Code.KILLED, f"killed: {what}" + (f" ({kill.reason})" if kill.reason else "")
        for leaf in leaves:
            if self.revoked(leaf):
                return Code.REVOKED, f"{leaf.identity.name} is revoked"
        if grant.generation <= self._revoked.get(grant.via, -1):
            return Code.REVOKED, f"{grant.via} is revoked"
        if self.withdrawn(grant.conduit, now):
            return Code.WITHDRAWN, f"conduit {grant.conduit} was ended"
        return None

    def usable_hosts(self, grant: "Grant", now: int) -> tuple[str, ...]:
        """The permitted hosts that are not killed, for a circuit that has none yet (A-05)."""
        return tuple(one for one in grant.hosts if self._active("identity", one, now) is None)

    def kill_of(
        self, grant: "Grant", now: int, circuit: bytes = b"", host: str | None = None
    ) -> Kill | None:
        """The first active kill that matches (A-05); `host` as in `blocks`."""
        if not self._kills:
            return None
        names = [("plant", "")]
        names += [("zone", zone) for zone in (*grant.who_zones, *grant.asset_zones)]
        names += [("service", grant.service)]
        names += [("identity", one) for one in (grant.who, grant.via, grant.asset)]
        names += [("identity", host)] if host is not None else []
        names += [("circuit", circuit.hex())]
        for level, name in names:
            kill = self._active(level, name, now)
            if kill is not None:
                return kill
        if host is None and grant.hosts and not self.usable_hosts(grant, now):
            return self._active("identity", grant.hosts[0], now)
        return None

    def _active(self, level: str, name: str, now: int) -> Kill | None:
        kill = self._kills.get((level, name))
        return kill if kill is not None and (kill.until == 0 or now < kill.until) else None

    def next_withdrawal(self, now: int) -> int | None:
        """When the next conduit ends that is listed with a time to come; microseconds."""
        return min((at for at in self._withdrawn.values() if at > now), default=None)

    def next_restoring(self, now: int) -> int | None:
        """When the next kill that has an end is over; microseconds."""
        return min((kill.until for kill in self._kills.values() if kill.until > now), default=None)

    def _hold(self, held: Held[Authority]) -> None:
        self.held = held
        self._kills = {}
        for kill in held.body.kills:
            key = (kill.level, kill.name.lower())
            other = self._kills.get(key)
            if other is None or (other.until and (kill.until == 0 or kill.until > other.until)):
                self._kills[key] = kill
        self._revoked = {}
        for entry in held.body.revoked:
            self._revoked[entry.name] = max(entry.generation, self._revoked.get(entry.name, 0))
        self._withdrawn = {}
        for gone in held.body.withdrawn:
            self._withdrawn[gone.conduit] = min(gone.at, self._withdrawn.get(gone.conduit, gone.at))


class MapState:
    """The newest fabric map (F-01)."""

    def __init__(self, signers: Signers, authority: AuthorityState) -> None:
        self._signers = signers
        self._authority = authority
        self.held: Held[FabricMap] | None = None

    def offer(self, data: bytes, now: int) -> FabricMap | None:
        """As `AuthorityState.offer`, for the map.

        Raises:
            DecodeError: not a signed map.
            TrustError: signer unknown, not a controller or revoked, bad signature, or the same version with
                another content.
        """
        news = _newest(FabricMap, data, self._signers, self.held, now)
        if news is None:
            return None
        held, leaf = news
        if self._authority.revoked(leaf):
            raise TrustError(f"the map is signed by {leaf.identity.name}, which is revoked")
        self.held = held
        return held.body

    def restore(self, data: bytes, accepted: int) -> None:
        """Take what this node accepted and kept on its own disk.

        Raises:
            DecodeError, TrustError: the file does not hold a map of this plant.
        """
        body, _ = open_signed(FabricMap, data, self._signers, accepted, role=Role.CONTROLLER)
        self.held = Held(body, data, accepted)

    @property
    def map(self) -> FabricMap | None:
        """The map in force."""
        return None if self.held is None else self.held.body


def published_kind(data: bytes) -> str:
    """Whether a Publish holds an `authority` or a `map`.

    Raises:
        DecodeError: neither.
    """
    signed = decode(Signed, data)
    if signed.type not in {Authority.TYPE, FabricMap.TYPE}:
        raise DecodeError(f"a publication of an unknown type {signed.type[:32]!r}")
    return signed.type


def _voids(body: Authority, leaf: Leaf) -> bool:
    return any(
        entry.name == leaf.identity.name and leaf.generation <= entry.generation
        for entry in body.revoked
    )
