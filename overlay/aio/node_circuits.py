"""The circuits and hops of one node, and what opening and hosting them needs of it: identity, time, chance, grants.

`overlay.aio.endpoint` is the whole; this is what its two sides, calling and hosting, share.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from overlay import limits
from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.circuit_roles import GrantCheck, StreamOwner
from overlay.aio.hops import Hops
from overlay.aio.world import World
from overlay.circuit.circuit import Circuit
from overlay.circuit.memory import Memory
from overlay.crypto.handshake import PeerCertificate
from overlay.errors import Code, TrustError
from overlay.identity.certificate import Leaf, Role
from overlay.identity.trust import Credentials, Signers
from overlay.policy.grant import Grant
from overlay.policy.verified_grants import VerifiedGrants
from overlay.wire.bodies import EXPRESS

if TYPE_CHECKING:
    from overlay.aio.bulk_circuits import BulkCircuits
    from overlay.aio.lanes import Lanes
    from overlay.aio.link_driver import LinkDriver

HOSTED_PER_CALLER = limits.CIRCUITS_PER_LINK // 3
"""Circuits of one caller that a node hosts at once, so that none takes the places of all others."""
CONTROL_PER_CALLER = 16
"""Control circuits of one node at once: those of lost paths linger for a while."""


@dataclass
class Resumed:
    """How often circuits went on by a new path, the bytes that were sent again, and the seconds without any path;
    `late` are the paths that their callers had given up before they led here (C-15, C-61).
    """

    resumes: int = 0
    resent_bytes: int = 0
    stalled: float = 0.0
    late: int = 0

    def count(self, core: Circuit, now: float) -> None:
        """Add what one circuit had until now."""
        self.resumes += core.resumes
        self.resent_bytes += core.resent
        self.stalled += core.stalled_by(now)


class NodeCircuits(Hops, StreamOwner):
    """Who has which circuit and which hop. What a stream tells its owner is the endpoint's to answer.

    Args:
        certificate_now: the time for certificates where it is not `plant_now` (A-20).
        admit: raises TrustError for a leaf that is revoked.
        memory: bytes that its circuits may hold beyond their first windows (C-35).
    """

    def __init__(
        self,
        world: World,
        credentials: Callable[[], Credentials],
        signers: Signers,
        plant_now: Callable[[], int],
        grants: GrantCheck,
        boot: int,
        *,
        certificate_now: Callable[[], int] | None,
        admit: Callable[[Leaf], None] | None,
        memory: int,
    ) -> None:
        super().__init__(world.loops.here())
        self.credentials = credentials
        self.plant_now = plant_now
        self.certificate_now = plant_now if certificate_now is None else certificate_now
        self.check = grants
        self.boot = boot
        self.on_security: Callable[[Code, str, Grant | None, bytes], None] | None = None
        """Gets code, sentence, grant and circuit id of what must not have come (a security event)."""
        self.lanes: Lanes | None = None
        """Bulk lanes; None where this node has none."""
        self._world = world
        self._admit = admit
        self._verified = VerifiedGrants(signers, self.admit)
        self._streams: dict[bytes, CircuitDriver] = {}
        self._hosted: Counter[str] = Counter()
        self._dropped = 0
        self._resumed = Resumed()
        self.memory = Memory(memory)

    @property
    def home(self) -> StreamOwner:
        """StreamOwner: here."""
        return self

    def hops_of(self, link: "LinkDriver") -> "NodeCircuits | BulkCircuits":
        """Whose loop a link belongs to."""
        return self if link.lane == EXPRESS or self.lanes is None else self.lanes.bulk

    # --- the node -----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """This node's name; empty before it is enrolled."""
        leaf = self.credentials().leaf
        return "" if leaf is None else leaf.identity.name

    @property
    def role(self) -> Role | None:
        """This node's role; None before it is enrolled."""
        leaf = self.credentials().leaf
        return None if leaf is None else leaf.identity.role

    def random(self, count: int) -> bytes:
        """From the world."""
        return self._world.entropy.bytes(count)

    def uniform(self) -> float:
        """From the world."""
        return self._world.entropy.uniform()

    def admit(self, leaf: Leaf) -> None:
        """Raises: TrustError: the leaf is revoked or has ended."""
        if not leaf.valid_at(self.certificate_now()):
            raise TrustError(f"the certificate of {leaf.identity.name} is not valid now")
        if self._admit is not None:
            self._admit(leaf)

    def admit_peer(self, peer: PeerCertificate) -> None:
        """For handshakes. Raises: TrustError: the peer is revoked."""
        if peer.leaf is not None and self._admit is not None:
            self._admit(peer.leaf)

    def verified(self, grant: bytes) -> Grant:
        """A grant whose signature holds now. Raises: TrustError, DecodeError."""
        return self._verified.open(grant, self.certificate_now())

    def security(self, code: Code, reason: str, stream: CircuitDriver | None) -> None:
        """Something came that must not have come."""
        if self.on_security is not None:
            grant = None if stream is None else stream.grant
            self.on_security(code, reason, grant, b"" if stream is None else stream.circuit_id)

    def came_late(self) -> None:
        """What began a path here is genuine, but its caller has gone on by another one since."""
        self._resumed.late += 1

    # --- circuits and hops --------------------------------------------------------------------------

    @property
    def hosted(self) -> int:
        """Circuits of others that are here."""
        return self._hosted.total()

    @property
    def datagrams_dropped(self) -> int:
        """Datagrams that this node's circuits have dropped since it started."""
        return self._dropped + sum(stream.datagrams_dropped for stream in self._streams.values())

    def resumed(self) -> "Resumed":
        """What new paths have cost this node's circuits since it started."""
        total = replace(self._resumed)
        for stream in self._streams.values():
            if stream.core is not None:
                total.count(stream.core, stream.now())
        return total

    def too_many_of(self, stream: CircuitDriver) -> bool:
        """Its caller has more circuits here than its share."""
        share = HOSTED_PER_CALLER if stream.grant is not None else CONTROL_PER_CALLER
        return stream.peer is not None and self._hosted[_caller_of(stream)] > share

    def add(self, stream: CircuitDriver) -> None:
        """A circuit has begun."""
        self._streams[stream.circuit_id] = stream
        if stream.hosting:
            self._hosted[_caller_of(stream)] += 1

    def find(self, circuit_id: bytes) -> CircuitDriver | None:
        """A circuit that is not finished."""
        return self._streams.get(circuit_id)

    def remove(self, stream: CircuitDriver) -> None:
        """It is over altogether."""
        if stream.core is not None:
            # Also where it was over before, and has told its end in a lane since (C-62).
            stream.core.share(None)
        if self._streams.get(stream.circuit_id) is stream:
            del self._streams[stream.circuit_id]
            self._dropped += stream.datagrams_dropped
            if stream.core is not None:
                self._resumed.count(stream.core, stream.now())
            if stream.hosting:
                caller = _caller_of(stream)
                self._hosted[caller] -= 1
                if not self._hosted[caller]:
                    del self._hosted[caller]


def _caller_of(stream: CircuitDriver) -> str:
    """Newcomers, who have no name yet, count together; others bound them."""
    return "" if stream.peer is None else stream.peer.identity.name
