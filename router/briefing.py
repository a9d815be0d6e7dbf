"""What a worker has to know of its node, and what of it is news to one that was told before."""

from collections.abc import Callable, Iterator

from overlay.aio.node import NodeAgent
from overlay.identity.trust import Credentials
from overlay.wire.bodies import Attachment
from router import messages
from router.fabric import Fabric

_TIME_STEP = 2_000
"""Microseconds by which plant time may drift in a worker before it is told again."""
_FLOOR_STEP = 60_000_000
"""The same for the floor, which says only that a certificate has ended; it goes on until the first answer."""
_BATCH = 32
"""Attachments in one message: it holds so many of the largest."""


class Told:
    """What one process was told last, by kind of message. Pure."""

    def __init__(self) -> None:
        self._last: dict[type[messages.ToWorker], messages.ToWorker] = {}

    def is_news(self, message: messages.ToWorker) -> bool:
        """Whether this was not said before; it counts as said from now on."""
        kind = type(message)
        if self._last.get(kind) == message:
            return False
        self._last[kind] = message
        return True


class Briefing:
    """Collects it from the node agent and the fabric. Nothing is known before the router is enrolled."""

    def __init__(
        self,
        agent: NodeAgent,
        fabric: Callable[[], Fabric | None],
        version: str,
        boot: Callable[[], float],
    ) -> None:
        self._agent = agent
        self._fabric = fabric
        self._version = version
        self._boot = boot
        self._credentials: Credentials | None = None
        self._identity: messages.Identity | None = None
        self._time = messages.Time(0, 0, answered=False)
        self.tick()

    @property
    def version(self) -> int:
        """Of the authority in force."""
        return self._agent.state.authority.version if self._agent.name else 0

    def tick(self) -> None:
        """Look at what changes without anybody saying so: time and certificate."""
        if not self._agent.name:
            return
        state = self._agent.state
        answered = state.time.answered
        offset = self._agent.plant_now() - int(self._boot() * 1e6)
        floor = 0 if answered else state.time.floor
        old = self._time
        drifted = abs(offset - old.offset) > _TIME_STEP or abs(floor - old.floor) > _FLOOR_STEP
        if drifted or old.answered != answered:
            self._time = messages.Time(offset, floor, answered)
        credentials = self._agent.credentials()
        if credentials is not self._credentials:
            self._credentials = credentials
            self._identity = messages.Identity(
                credentials.anchor.root, credentials.key.seed, credentials.chain,
                self._agent.boot, self._version,
            )  # fmt: skip

    def messages(self, lane: int) -> Iterator[messages.ToWorker]:
        """All of it but where nodes are attached, in the order in which it must be said."""
        fabric = self._fabric()
        if self._identity is None or fabric is None:
            return
        yield self._identity
        yield self._time
        yield messages.Signers(self._agent.signers.controllers())
        held = self._agent.state.authority.held
        if held is not None:
            yield messages.Restrictions(held.signed, held.accepted)
        fabric_map = self._agent.state.fabric.map
        drained = fabric_map is not None and self._agent.name in fabric_map.drained()
        yield messages.Condition(self._agent.room(), drained)
        yield messages.Ways(fabric.topology.ways)
        yield messages.Dials(fabric.dials(lane))

    def places(self) -> Iterator[tuple[Attachment, ...]]:
        """Where nodes are attached, in messages of a size that fits."""
        fabric = self._fabric()
        if fabric is None:
            return
        every = fabric.attachments.bodies(self._agent.plant_now())
        for at in range(0, len(every), _BATCH):
            yield tuple(every[at : at + _BATCH])
