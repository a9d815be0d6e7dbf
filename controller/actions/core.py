"""What all actions stand on: reading, and changes that are authorised and audited in one transaction."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from controller.actions import roles
from controller.actions.changes import TOPICS, Changes, Subscription
from controller.actions.errors import NotAllowed, Unavailable
from controller.actions.kept import Kept
from controller.actions.presence import Presence
from controller.actions.roles import Permission
from controller.actions.types import Actor
from controller.clock import PlantClock
from controller.pki import Pki
from controller.store import log
from controller.store.log import Entry
from controller.store.snapshot import load_plant
from controller.store.store import Store, StoreError
from controller.store.tables import LogRow, PlantRow
from overlay import limits
from overlay.aio.world import World
from overlay.audit.event import Event, EventName, Outcome
from overlay.errors import FerruleError, TrustError
from overlay.identity.trust import Anchor, Credentials, Signers, sign_body
from overlay.policy.model import Plant
from overlay.wire.bodies import TreeHead

HASHES_AT_ONCE = 2
"""Passwords that are checked at once: Argon2id takes memory and time on purpose; more wait."""
COUNTED = frozenset({"policy", "map", "authority"})
"""Topics that have a counter in the plant's row."""
SNAPSHOT = frozenset({"policy", "map", "authority"})
"""Topics after which the plant must be read anew."""


class RecordLimiter:
    """Keeps strangers from filling the log: `LIMIT` records in `PERIOD`, others are counted into the next one."""

    LIMIT = 10
    PERIOD = 60 * 1_000_000

    def __init__(self) -> None:
        self._began = 0
        self._made = 0
        self._held = 0

    def take(self, now: int) -> int:
        """How many attempts the record of this one stands for; 0: make none now."""
        if now - self._began >= self.PERIOD:
            self._began, self._made = now, 0
        self._held += 1
        if self._made >= self.LIMIT:
            return 0
        self._made += 1
        count, self._held = self._held, 0
        return count


@dataclass
class Work:
    """A change in progress: what it notes is recorded, what it announces is published, when it is committed."""

    session: AsyncSession
    now: int
    actor: Actor
    notes: list[dict[str, Any]] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)
    topics: set[str] = field(default_factory=set)
    appended: log.Appended | None = None

    def note(
        self,
        event: EventName,
        outcome: Outcome = Outcome.DONE,
        *,
        reason: str = "",
        detail: object = None,
        **fields: Any,
    ) -> None:
        """Record an event of this controller; `fields` are those of `overlay.audit.event.Event`."""
        text = "" if detail is None else msgspec.json.encode(detail).decode()
        self.notes.append(
            {"who": self.actor.name}
            | fields
            | {
                "event": event,
                "outcome": outcome,
                "reason": reason[: limits.MAX_REASON],
                "detail": text,
            }
        )


class Core:
    """State and helpers that every group of actions shares. One instance per controller."""

    def __init__(
        self, world: World, store: Store, pki: Pki, plant: PlantRow, floor: int = 0
    ) -> None:
        """`floor` is the largest plant time that the store knows (`read_plant`)."""
        self.world = world
        self.store = store
        self.pki = pki
        self.plant: str = plant.name
        self.time_zone: str = plant.time_zone
        self.boot: int = plant.boot
        """How often this controller was started."""
        self.version = ""
        self.started = 0
        self.anchor: Anchor = pki.anchor
        self.signers = Signers(pki.anchor)
        self.clock = PlantClock(world.clock, max(floor, plant.created))
        self.presence = Presence()
        self._hashing = asyncio.Semaphore(HASHES_AT_ONCE)
        self._changes = Changes()
        self._snapshot = Kept(lambda: self.epoch, self._load_snapshot)
        self.epoch = 0
        """Rises with every change of `SNAPSHOT`."""
        self.issues = 0
        """Rises whenever a node gets a certificate."""
        self._unwritable = False
        self.signers.learn(self.credentials.chain, self.now(), expired_leaf_ok=True)
        self._prepare()

    def _prepare(self) -> None:
        """State of the groups of actions; each calls the next."""

    @property
    def credentials(self) -> Credentials:
        """This controller's key and chain, as they are now."""
        return self.pki.credentials

    @property
    def name(self) -> str:
        """This controller's own name."""
        leaf = self.credentials.leaf
        assert leaf is not None  # noqa: S101 - a controller is always enrolled
        return leaf.identity.name

    @property
    def itself(self) -> Actor:
        """The controller as the one who acts."""
        return Actor(name=self.name, role="admin")

    def now(self) -> int:
        """Plant time in microseconds; never goes back."""
        return self.clock.now()

    def subscribe(self) -> Subscription:
        """News of changes; close it when done."""
        return self._changes.subscribe()

    def publish(self, *topics: str) -> None:
        """Tell subscribers."""
        self._changes.publish(topics)

    @asynccontextmanager
    async def reading(
        self, actor: Actor | None = None, permission: Permission = Permission.READ
    ) -> AsyncIterator[AsyncSession]:
        """A read-only transaction, for an actor when one is given.

        Raises:
            NotAllowed: the actor's role lacks the permission.
            Unavailable: the store cannot be read.
        """
        if actor is not None:
            roles.check(actor, permission)
        try:
            async with self.store.read() as session:
                yield session
        except StoreError as error:
            raise Unavailable(str(error)) from None

    @asynccontextmanager
    async def change(
        self, actor: Actor, permission: Permission | None, event: EventName, about: str
    ) -> AsyncIterator[Work]:
        """A write transaction by `actor`. What the body notes is recorded with it, or nothing happens at all.

        A missing permission is recorded, too, as a denied `event` about `about`. None: the controller's own doing.

        Raises:
            NotAllowed: the actor's role lacks the permission; that is recorded.
            Unavailable: the store cannot be written; nothing was changed.
        """
        if permission is not None:
            try:
                roles.check(actor, permission)
            except NotAllowed as error:
                async with self._writing(actor) as work:
                    work.note(event, Outcome.DENIED, reason=f"{about}: {error}")
                raise
        async with self._writing(actor) as work:
            yield work

    @asynccontextmanager
    async def _writing(self, actor: Actor) -> AsyncIterator[Work]:
        try:
            async with self.store.write() as session:
                row = await log.begin(session)
                work = Work(session, self.now(), actor)
                yield work
                await self._finish(work, row)
        except asyncio.CancelledError:
            self._committed(TOPICS)  # perhaps it was: news without a change harms nobody
            raise
        except StoreError as error:
            self._unwritable = True
            raise Unavailable(str(error)) from None
        except TrustError as error:
            if "tree" in str(error):
                raise Unavailable(f"The audit log is damaged: {error}") from None
            raise
        self._unwritable = False
        self._committed(work.topics)

    async def check_writable(self) -> None:
        """Where the last change failed for the store's sake: try again, with one that changes nothing.

        Raises:
            Unavailable: it still cannot be written.
        """
        if self._unwritable:
            async with self._writing(self.itself) as work:
                await work.session.execute(update(PlantRow).values(boot=PlantRow.boot))

    def _committed(self, topics: Iterable[str]) -> None:
        news = frozenset(topics)
        if news & SNAPSHOT:
            self.epoch += 1
        if "certificates" in news:
            self.issues += 1
        self._changes.publish(news)

    async def _finish(self, work: Work, row: LogRow) -> None:
        """Sign and append what was noted; raise the counters of what changed."""
        if work.notes:
            leaf = self.credentials.leaf
            assert leaf is not None  # noqa: S101
            number = await log.last_number(work.session, self.name, leaf.generation)
            for note in work.notes:
                number += 1
                event = Event(
                    node=self.name,
                    generation=leaf.generation,
                    number=number,
                    time=work.now,
                    **note,
                )
                signed = sign_body(event, self.credentials.key, self.anchor, self.credentials.chain)
                work.entries.append(Entry(signed, event))
        if work.entries:
            work.appended = await log.append(
                work.session, row, work.entries, work.now, self.sign_head
            )
            work.topics.add("audit")
        raised = {name: getattr(PlantRow, name) + 1 for name in work.topics & COUNTED}
        if raised:
            await work.session.execute(update(PlantRow).values(raised))

    def sign_head(self, head: TreeHead) -> bytes:
        """A signed tree head."""
        return sign_body(head, self.credentials.key, self.anchor, self.credentials.chain)

    async def snapshot(self, session: AsyncSession | None = None) -> Plant:
        """The plant as policy sees it. Inside a change give its session: then it is read anew."""
        if session is not None:
            return await load_plant(session, self.now())
        return await self._snapshot.get()

    async def _load_snapshot(self) -> Plant:
        async with self.reading() as session:
            return await load_plant(session, self.now())


async def read_plant(store: Store) -> tuple[PlantRow, int]:
    """The plant's row at the program's start, and the largest plant time that the controller recorded.

    Raises:
        FerruleError: the store holds no plant, or cannot be read.
    """
    async with store.read() as session:
        found = (await session.execute(select(PlantRow))).scalar_one_or_none()
        row = (await session.execute(select(LogRow))).scalar_one_or_none()
    if found is None or row is None:
        raise FerruleError("The store is empty: make the plant with `ferrule-controller init`.")
    return found, log.head_of(row).time if row.head else 0
