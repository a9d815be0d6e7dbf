"""What a worker knows of the node that it is part of: what the first process told it, and nothing else. Pure."""

from collections.abc import Callable

from overlay.audit.event import EventName, Outcome
from overlay.audit.merging import Merger
from overlay.errors import FerruleError, TrustError
from overlay.fabric.paths import Topology
from overlay.fabric.state import AuthorityState
from overlay.identity.certificate import Leaf
from overlay.identity.fields import FloorTime
from overlay.identity.keys import SigningKey
from overlay.identity.trust import Anchor, Credentials, Signers
from overlay.wire.bodies import Attachment
from router import messages
from router.admission import Admission

LIFE_CHECK = 60.0
"""Attachments that have ended are forgotten so often (seconds)."""


class Copies:
    """Where nodes are attached (`overlay.fabric.paths.Places`): what the first process verified."""

    def __init__(self) -> None:
        self._by_node: dict[str, Attachment] = {}

    def __len__(self) -> int:
        return len(self._by_node)

    def where(self, node: str, now: int) -> Attachment | None:
        """Where a node is attached now."""
        found = self._by_node.get(node)
        return found if found is not None and found.until > now else None

    def controllers(self, now: int) -> list[str]:
        """None: `_control` stays on express."""
        return []

    def take(self, attachment: Attachment) -> None:
        """Newer word of one node."""
        self._by_node[attachment.node] = attachment

    def expire(self, now: int) -> None:
        """Forget what is over."""
        self._by_node = {name: one for name, one in self._by_node.items() if one.until > now}


class Replica:
    """The node, as `router.switch` needs it.

    Args:
        boot: CLOCK_BOOTTIME in seconds, the same for all processes of a machine.
        say: tells the first process.
    """

    def __init__(self, boot: Callable[[], float], say: Callable[[messages.ToFirst], None]) -> None:
        self.places = Copies()
        self.admission: Admission | None = None
        """None until the first process has said who this is."""
        self.leaf: Leaf | None = None
        self._boot = boot
        self._say = say
        self._time = messages.Time(0, 0, answered=False)
        self._latest = 0
        self._room = False
        self.drained = False
        """The map says that this router drains (L-37)."""
        self._credentials: Credentials | None = None
        self._signers: Signers | None = None
        self._authority: AuthorityState | None = None
        self._topology: Topology | None = None
        self._merger = Merger()
        self._expired = 0.0

    # --- what a switch asks -------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """This node's name; empty before it is known."""
        return "" if self.leaf is None else self.leaf.identity.name

    def plant_now(self) -> int:
        """Plant time, microseconds; it never goes back."""
        self._latest = max(self._latest, int(self._boot() * 1e6) + self._time.offset)
        return self._latest

    def certificate_now(self) -> int:
        """The time for certificates of others (A-20)."""
        return self.plant_now() if self._time.answered else FloorTime(self._time.floor)

    def room(self) -> bool:
        """The spool takes events of new circuits."""
        return self._room

    def record(self, event: EventName, outcome: Outcome, **fields: str | int) -> None:
        """Tell the first process, which records it. Who knocks without end is merged here already (U-06)."""
        merged = self._merger.offer(event, outcome, fields, self._boot())
        if merged is not None:
            self._say(messages.Recorded(*merged))

    def admit(self, leaf: Leaf) -> None:
        """Is this certificate still good? Raises: TrustError: it is revoked."""
        if self.authority().revoked(leaf):
            raise TrustError(f"{leaf.identity.role.value} {leaf.identity.name} is revoked")

    def credentials(self) -> Credentials:
        """Key and chain. Raises: FerruleError: not known yet."""
        if self._credentials is None:
            raise FerruleError("this worker has not been told who it is")
        return self._credentials

    def authority(self) -> AuthorityState:
        """What is in force. Raises: FerruleError: the plant is not known yet."""
        if self._authority is None:
            raise FerruleError("this worker has not been told who it is")
        return self._authority

    # --- what the first process says ----------------------------------------------------------------

    def identify(self, told: messages.Identity) -> None:
        """Who this node is, first of all and after each renewal. Raises: FerruleError: that cannot be."""
        anchor = Anchor.of(told.root)
        key = SigningKey.generate(told.seed)
        self._credentials = Credentials.enrolled(anchor, key, told.chain)
        self.leaf = self._credentials.leaf
        if self._signers is None:
            self._signers = Signers(anchor)
            self._authority = AuthorityState(self._signers)
            self._topology = Topology(self.name)
            self.admission = Admission(
                self.name, self._signers, self._authority, self.places, self._topology
            )

    def learn(
        self,
        told: messages.Time
        | messages.Signers
        | messages.Restrictions
        | messages.Condition
        | messages.Places
        | messages.Ways,
    ) -> None:
        """Anything else that has no consequence of its own. Raises: FerruleError: it does not fit or came too early."""
        if isinstance(told, messages.Time):
            self._time = told
            return
        if self._signers is None or self._authority is None or self._topology is None:
            raise FerruleError("this worker has not been told who it is")
        if isinstance(told, messages.Signers):
            self._signers.adopt(told.leaves)
        elif isinstance(told, messages.Restrictions):
            self._authority.restore(told.signed, told.accepted)
        elif isinstance(told, messages.Condition):
            self._room, self.drained = told.room, told.drained
        elif isinstance(told, messages.Places):
            for attachment in told.attachments:
                self.places.take(attachment)
        else:
            self._topology.ways = dict(told.ways)

    def tick(self) -> None:
        """Say what was merged; forget what is over."""
        now = self._boot()
        for merged in self._merger.due(now):
            self._say(messages.Recorded(*merged))
        if now - self._expired >= LIFE_CHECK:
            self._expired = now
            self.places.expire(self.plant_now())
