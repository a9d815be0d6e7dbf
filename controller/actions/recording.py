"""Recording what nodes report: their events in batches, and the sessions that follow from them (U-05, K-05, K-06)."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import select

from controller.actions.core import Core, Work
from controller.actions.projection import Projection
from controller.store import log
from controller.store.log import Entry
from controller.store.tables import (
    AssetRow,
    CertificateRow,
    LogRow,
    ServiceRow,
)
from overlay.addresses import format_address
from overlay.aio.tasks import spawn
from overlay.audit.event import Event, EventName, Outcome
from overlay.audit.record import FORM, read_leaf, record_of, signed_event
from overlay.audit.signing import EventReader
from overlay.control.messages import Recorded
from overlay.errors import DecodeError, TrustError
from overlay.identity.certificate import Leaf
from overlay.limits import EVENTS_PER_BATCH, LIVE_CIRCUITS

BATCHES_AT_ONCE = 32
"""Batches of different nodes that one transaction takes: each waits for the disk once."""


@dataclass
class Batch:
    """One node's events on their way into the log."""

    leaf: Leaf
    first: int
    signed: Sequence[bytes]
    events: list[Event]
    brief: bool
    """The node makes records itself, and knows proofs that end early."""
    answer: asyncio.Future[Recorded]
    indices: list[int]
    leaves: list[bytes]
    """Empty where the node makes the record itself."""


class Recording(Core):
    """The hub's way to the audit log."""

    def _prepare(self) -> None:
        super()._prepare()
        self._queue: list[Batch] = []
        self._writer: asyncio.Task[None] | None = None
        self._reader = EventReader(self.signers)
        self._forks: set[tuple[str, int]] = set()
        self._opened: Counter[str] = Counter()
        """Circuits that each node said it opened since it told last which live."""

    async def record_events(
        self,
        leaf: Leaf,
        first: int,
        events: Sequence[bytes],
        chain: Sequence[bytes] = (),
        makes: int = 0,
    ) -> Recorded:
        """Append a node's events, numbered from `first`; what is in the log already is not appended again.

        The answer's `id` is 0: the hub fills in the request's. `chain` is the signer's where it came along, `makes` the
        form of records that the node can make itself, which are left out (`Events`).

        Raises:
            DecodeError: not events. TrustError: not signed by this node, of several generations, or not numbered
                gapless from `first`.
            Unavailable: the store cannot be written; nothing was recorded.
        """
        if not 1 <= len(events) <= EVENTS_PER_BATCH:
            raise DecodeError(f"a batch has 1 to {EVENTS_PER_BATCH} events")
        if chain:
            self.signers.learn(chain, self.now(), expired_leaf_ok=True)
        else:
            await self._learn(leaf)
        read = [self._read_event(leaf, first + at, signed) for at, signed in enumerate(events)]
        if any(event.generation != read[0].generation for event in read):
            # Numbers are of a generation: a record of another one would fail all batches of the transaction.
            raise TrustError(f"a batch of {leaf.identity.name} has events of several generations")
        answer: asyncio.Future[Recorded] = asyncio.get_running_loop().create_future()
        self._queue.append(Batch(leaf, first, events, read, makes == FORM, answer, [], []))
        if self._writer is None or self._writer.done():
            self._writer = spawn(self._write(), "audit.writer")
        return await answer

    def _read_event(self, leaf: Leaf, number: int, signed: bytes) -> Event:
        event, signer = self._reader.open(
            signed, self.now(), role=leaf.identity.role, name=leaf.identity.name
        )
        if event.node != leaf.identity.name or event.number != number:
            raise TrustError(f"event {event.number} of {event.node} in place of {number}")
        if event.generation != signer.generation:
            raise TrustError(f"event {number} names another generation than its certificate")
        return event

    async def prove_growth(self, sizes: Sequence[int], size: int) -> list[list[bytes]]:
        """For each of `sizes` the proof that the log of `size` records begins with it (U-13).

        Raises:
            TrustError: it cannot be proven. Unavailable: the store cannot be read.
        """
        async with self.reading() as session:
            return await log.prove_growth(session, sizes, size)

    async def _learn(self, leaf: Leaf) -> None:
        """The certificates that this node ever had here: an event may have waited longer than its key lasted."""
        async with self.reading() as session:
            query = select(CertificateRow).where(CertificateRow.name == leaf.identity.name)
            rows = (await session.execute(query)).scalars().all()
        for row in rows:
            if self.signers.known(row.key) is None:
                self.signers.learn((row.der, self.pki.issuing), self.now(), expired_leaf_ok=True)

    async def _write(self) -> None:
        """Take what waits into one transaction after the other, until nothing waits."""
        while self._queue:
            batches = self._next()
            try:
                await self._commit(batches)
            except asyncio.CancelledError:
                for batch in batches:
                    batch.answer.cancel()
                raise
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of any failure
                for batch in batches:
                    if not batch.answer.done():
                        batch.answer.set_exception(error)

    def _next(self) -> list[Batch]:
        """Some of what waits, one batch of a node at most: the next may repeat what this one brings."""
        batches: dict[str, Batch] = {}
        later: list[Batch] = []
        for batch in self._queue:
            name = batch.leaf.identity.name
            if len(batches) < BATCHES_AT_ONCE and name not in batches:
                batches[name] = batch
            else:
                later.append(batch)
        self._queue = later
        return list(batches.values())

    async def _commit(self, batches: list[Batch]) -> None:
        async with self.change(self.itself, None, EventName.CIRCUIT_OPEN, "events") as work:
            taken: list[tuple[Batch, int]] = []
            projection = Projection()
            for batch in batches:
                await self._take(work, batch, taken, projection)
            await projection.write(work)
        for batch, at in taken:
            if batch.events[at].event is EventName.CIRCUIT_OPEN:
                self.presence.doubt(batch.leaf.identity.name)
        await self._answer([one for one in batches if not one.answer.done()], work, taken)

    async def _take(
        self, work: Work, batch: Batch, taken: list[tuple[Batch, int]], projection: Projection
    ) -> None:
        """Put what is new of a batch into the work.

        A known number with other content is not recorded: the answer proves what is, so that a node whose folder was
        set back can number its event anew instead of being stuck for ever (K-05).
        """
        node, generation = batch.leaf.identity.name, batch.events[0].generation
        numbers = [event.number for event in batch.events]
        last = await log.last_number(work.session, node, generation)
        held: dict[int, log.Stored] = {}
        if numbers[0] <= last:  # else all are new, and there is nothing to look for
            held = await log.find_events(work.session, node, generation, numbers)
        for number, signed in zip(numbers, batch.signed, strict=True):
            stored = held.get(number)
            if stored is not None and signed_event(read_leaf(stored.leaf)) != signed:
                self._forked(work, node, generation, number)
        if numbers[0] > last + 1:
            work.note(
                EventName.SPOOL_FULL,
                Outcome.FAILED,
                via=node,
                reason=f"events {last + 1} to {numbers[0] - 1} of {node} never arrived",
                detail={"node": node, "generation": generation},
            )
        batch.indices, batch.leaves = [-1] * len(numbers), [b""] * len(numbers)
        for at, (event, signed) in enumerate(zip(batch.events, batch.signed, strict=True)):
            stored = held.get(event.number)
            if stored is not None:
                batch.indices[at] = stored.at
                as_sent = record_of(stored.at + 1, signed, event).leaf() if batch.brief else None
                batch.leaves[at] = b"" if stored.leaf == as_sent else stored.leaf
                continue
            asset, address = await self._where(work, event)
            taken.append((batch, at))
            work.entries.append(Entry(signed, event, asset, address))
            if self._shown(event):
                projection.add(event, event.asset or asset, event.address or address)

    def _shown(self, event: Event) -> bool:
        """False for a session of a node that opens more than can live and does not say which do (K-06): else it could
        make the table of sessions as long as the log, in which it is all the same.
        """
        if event.event is not EventName.CIRCUIT_OPEN or event.outcome is not Outcome.ALLOWED:
            return True
        self._opened[event.node] += 1
        return self._opened[event.node] <= LIVE_CIRCUITS

    def _forked(self, work: Work, node: str, generation: int, number: int) -> None:
        """Say once that a node counts twice: it was restored from a copy, or there are two of it."""
        if (node, generation) not in self._forks:
            self._forks.add((node, generation))
            work.note(
                EventName.SECURITY_FORK,
                Outcome.FAILED,
                via=node,
                reason=f"{node} sent another event {number} than the one that is recorded",
                detail={"node": node, "generation": generation, "number": number},
            )

    async def _where(self, work: Work, event: Event) -> tuple[str, str]:
        """Asset and address of the service, for an attempt whose edge knows no more than a name."""
        if not event.service or (event.asset and event.address):
            return "", ""
        service = await work.session.get(ServiceRow, event.service)
        if service is None:
            return "", ""
        asset = await work.session.get(AssetRow, service.asset)
        address = (
            format_address(asset.address, service.port)
            if asset is not None and asset.address
            else ""
        )
        return service.asset, address

    async def _answer(
        self, batches: list[Batch], work: Work, taken: list[tuple[Batch, int]]
    ) -> None:
        """Proofs for all of them under the newest head."""
        appended = work.appended
        if appended is not None:
            for (batch, at), record in zip(taken, appended.records, strict=False):
                event = batch.events[at]
                filled_in = (record.asset, record.address) != (event.asset, event.address)
                batch.indices[at] = record.index
                batch.leaves[at] = b"" if batch.brief and not filled_in else record.leaf()
        async with self.reading() as session:
            if appended is None:
                row = (await session.execute(select(LogRow))).scalar_one()
                size, head, nodes = row.size, row.head, {}
            else:
                size, head, nodes = appended.size, appended.head, appended.nodes
            for batch in batches:
                proofs = await log.prove(session, batch.indices, size, nodes, whole=not batch.brief)
                answers = zip(batch.indices, batch.leaves, map(tuple, proofs), strict=True)
                if not batch.answer.done():
                    batch.answer.set_result(Recorded(0, batch.first, head, tuple(answers)))
