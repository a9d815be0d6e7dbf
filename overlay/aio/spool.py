"""The spool: a node's audit events on disk, until the controller proves that it has recorded them (U-01 to U-09).

Files of about `SEGMENT_BYTES`, each named by the number of its first event, and an index. An event is offered to the
controller only after fsync; a file goes when all of its events are proven to be in the log.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from overlay import limits
from overlay.aio.logs import get_logger
from overlay.aio.shelf import DamagedError, Shelf
from overlay.aio.tasks import spawn
from overlay.aio.world import World
from overlay.audit import spool_file
from overlay.audit.event import Event, EventName, Outcome, clipped
from overlay.audit.merkle import leaf_hash
from overlay.audit.proofs import Proven
from overlay.audit.record import check_event, event_of, make_record, read_leaf
from overlay.audit.signing import Unsigned, sign_in_groups
from overlay.control.messages import Recorded
from overlay.errors import TrustError
from overlay.identity.certificate import Role, read_key
from overlay.identity.keys import key_id
from overlay.identity.trust import Credentials, Signers, open_signed
from overlay.wire.bodies import TreeHead
from overlay.wire.codec import Body, encode

SEGMENT_BYTES = 1024 * 1024
RESERVE = limits.SPOOL_BYTES // 4
"""Room that is kept for kills and ends while new circuits are refused (U-09)."""
UNWRITTEN_BYTES = 16 * 1024 * 1024
"""Events in memory while the disk is full; what comes on top is counted and reported, not kept."""
CHAINS = 8  # chains of own keys whose events may still wait
RETRY_SECONDS = 1.0
GROUP_SECONDS = 0.04
"""How long an event waits for others: they share one fsync, one signature, one message and one proof."""

_log = get_logger("audit")


class _Index(Body, frozen=True):
    """`segments` are the first numbers of the files, in order; `gone` a file that is being removed."""

    acknowledged: Annotated[int, Meta(ge=0)]
    segments: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1)]
    chains: Annotated[tuple[tuple[bytes, ...], ...], Meta(max_length=CHAINS)]
    gone: tuple[int, ...] = ()


@dataclass
class _Segment:
    """A file: its events' numbers are `first` to `first + count - 1`."""

    first: int
    count: int = 0
    size: int = 0


class Batch(NamedTuple):
    """Events for one `Events` message: gapless from `first`, all signed with the key of `chain`."""

    first: int
    events: tuple[bytes, ...]
    chain: tuple[bytes, ...]


class Spool:
    """All events of this node that are not proven to be recorded. Made by `open`."""

    def __init__(
        self,
        world: World,
        shelf: Shelf,
        credentials: Callable[[], Credentials],
        now: Callable[[], int],
    ) -> None:
        self._disk = world.disk
        self._shelf = shelf
        self._credentials = credentials
        self._now = now
        self._segments = [_Segment(1)]
        self._current: list[bytes] = []
        self._old: tuple[int, list[bytes]] = (0, [])
        self._chains: list[tuple[bytes, ...]] = []
        self._pending: list[Unsigned] = []
        self._pending_bytes = 0
        self._lost = 0
        self._broken = False
        self._vouched = b""
        self._writer: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.last = 0
        """The highest number that was ever used."""
        self.acknowledged = 0
        """All up to this number are proven to be in the log."""
        self.durable = 0
        """All up to this number are on disk."""
        self.changed = asyncio.Event()
        """Set when there is something new to send; who waits clears it."""
        self.problem = ""
        """Why events cannot be written now, as a sentence; empty while all is well."""

    @classmethod
    async def open(
        cls,
        world: World,
        shelf: Shelf,
        credentials: Callable[[], Credentials],
        now: Callable[[], int],
    ) -> "Spool":
        """Read what is there. A torn end is cut; an event that a damaged disk has lost is replaced by one that says so.

        Raises:
            DamagedError: the index is damaged.
            OSError: the disk cannot be read or written.
        """
        spool = cls(world, shelf, credentials, now)
        without = "start a new spool; events in it are lost"
        index = await shelf.load("spool", _Index, without=without)
        await spool._read(index or _Index(0, (1,), ()))
        return spool

    # --- recording --------------------------------------------------------------------------------

    def room(self) -> bool:
        """Whether events of new circuits have room: not above three quarters, and the disk takes what is written."""
        return not self.problem and self.size < limits.SPOOL_BYTES - RESERVE

    @property
    def size(self) -> int:
        """Bytes on disk and waiting to be written."""
        return sum(segment.size for segment in self._segments) + self._pending_bytes

    def append(self, event: EventName, outcome: Outcome, **fields: str | int) -> int:
        """Number an event; it is signed and written soon. 0 where memory is full and it was only counted."""
        if self._pending_bytes >= UNWRITTEN_BYTES or self.size >= limits.SPOOL_BYTES:
            self._lost += 1
            return 0
        self._take(self._event(self.last + 1, event, outcome, fields))
        return self.last

    def _event(
        self, number: int, event: EventName, outcome: Outcome, fields: dict[str, str | int]
    ) -> Event:
        leaf = self._credentials().leaf
        assert leaf is not None  # noqa: S101  (a spool belongs to an enrolled node)
        values: dict[str, Any] = clipped(fields)
        return Event(
            node=leaf.identity.name, number=number, time=self._now(), event=event, outcome=outcome,
            generation=leaf.generation, **values,
        )  # fmt: skip

    def _take(self, event: Event) -> None:
        unsigned = Unsigned(encode(event), self._credentials())
        self.last = event.number
        self._pending.append(unsigned)
        self._pending_bytes += unsigned.room
        if self._writer is None or self._writer.done():
            self._writer = spawn(self._write(), "spool writer")

    async def flush(self) -> None:
        """Wait until all is on disk, or the disk has failed."""
        while self._pending and not self.problem and self._writer is not None:
            await asyncio.wait([self._writer], timeout=0.05)

    async def close(self) -> None:
        """Write what can be written and stop: a disk that was full is tried once more."""
        self._closing.set()
        if self._writer is not None:
            await asyncio.wait([self._writer])
        if self._pending:
            _log.error("spool.unwritten", events=len(self._pending), text=self.problem)
        try:
            await self._save_index()
        except OSError as error:
            _log.error("spool.unwritten", text=f"the index of the spool was not written: {error}")

    # --- sending ----------------------------------------------------------------------------------

    async def batch(self) -> Batch | None:
        """The oldest events that are on disk and not proven yet; None when there are none.

        Raises:
            OSError: the disk cannot be read.
        """
        first = self.acknowledged + 1
        if first > self.durable:
            return None
        segment = next(one for one in reversed(self._segments) if one.first <= first)
        events = await self._events_of(segment)
        start = first - segment.first
        signer, chosen = spool_file.one_batch(events[start : start + limits.EVENTS_PER_BATCH])
        return Batch(first, chosen, self._chain_of(signer))

    async def acknowledge(self, batch: Batch, answer: Recorded, signers: Signers, now: int) -> None:
        """Take the controller's answer to `batch`; drop what it proves to be in the log, and nothing else (U-05).

        A number that the log already holds with another event was used before this folder was set back (a restored
        backup, a damaged disk): that event is not dropped but numbered and signed anew.

        Raises:
            DecodeError, TrustError: the answer proves nothing; nothing was dropped.
            OSError: the disk failed; nothing is lost, and what was dropped stays dropped or comes again.
        """
        if answer.first != batch.first or len(answer.records) > len(batch.events):
            raise TrustError("the answer is about other events than those that were sent")
        head, _ = open_signed(TreeHead, answer.head, signers, now, role=Role.CONTROLLER)
        proven = Proven(head.size, head.root)
        again: list[bytes] = []
        for sent, (place, leaf, proof) in zip(batch.events, answer.records, strict=False):
            expected = make_record(place + 1, sent).leaf()
            proven.check(leaf_hash(leaf or expected), place, proof)
            if not leaf or leaf == expected:
                continue
            # Another event, or one with what the controller filled in.
            record = read_leaf(leaf)
            event = event_of(sent)
            if (record.node, record.number) != (event.node, event.number) or record.index != place:
                raise TrustError("the answer proves another event than the one that was sent")
            try:
                check_event(record, sent)
            except TrustError:
                check_event(record)
                again.append(sent)
        for sent in again:
            _log.error("spool.renumbered", number=event_of(sent).number)
            self._take(msgspec.structs.replace(event_of(sent), number=self.last + 1))
        if again:
            await self.flush()
        self.acknowledged = batch.first + len(answer.records) - 1
        await self._drop()

    # --- files ------------------------------------------------------------------------------------

    async def _write(self) -> None:
        while self._pending:
            await self._pause(GROUP_SECONDS)
            last = self._closing.is_set()
            try:
                await self._write_some()
            except OSError as error:
                self._broken = True
                why = error.strerror or str(error)
                if not self.problem:
                    _log.error("spool.full", text=f"Audit events cannot be written: {why}.")
                self.problem = f"Audit events cannot be written: {why}."
                if last:
                    return
                await self._pause(RETRY_SECONDS)
                continue
            if self.problem:
                _log.info("spool.writes_again")
                self.problem = ""
            if self._lost:
                lost, self._lost = self._lost, 0
                self.append(
                    EventName.SPOOL_FULL, Outcome.FAILED, reason=f"{lost} events had no room"
                )

    async def _pause(self, seconds: float) -> None:
        """Shorter when the spool is to close."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    async def _write_some(self) -> None:
        """One group: what came while the last was written."""
        segment = self._segments[-1]
        if segment.size >= SEGMENT_BYTES:
            await self._begin_segment(segment.first + segment.count)
            segment = self._segments[-1]
        room = SEGMENT_BYTES - segment.size
        some: list[Unsigned] = []
        for one in self._pending:
            room -= one.room
            if some and room <= 0:
                break
            some.append(one)
        for credentials in {id(one.credentials): one.credentials for one in some}.values():
            await self._know_key(credentials)
        group = sign_in_groups(some, self._vouched)
        data = b"".join(spool_file.pack(signed) for signed in group)
        path = self._shelf.path(_name(segment.first))
        if self._broken:  # an append that failed may have left a part of itself
            whole = b"".join(spool_file.pack(one) for one in self._current)
            await self._disk.replace(path, whole + data)
            self._broken = False
        else:
            await self._disk.append(path, data)
        self._vouched = some[-1].credentials.key.key_id
        del self._pending[: len(some)]
        self._pending_bytes -= sum(one.room for one in some)
        self._current += group
        segment.count += len(group)
        segment.size += len(data)
        self.durable += len(group)
        self.changed.set()

    async def _begin_segment(self, first: int) -> None:
        self._segments.append(_Segment(first))
        try:
            await self._save_index()
        except OSError:
            self._segments.pop()
            raise
        self._current = []

    async def _know_key(self, credentials: Credentials) -> None:
        """Before the first event of a key is on disk, its chain is."""
        chain = credentials.chain
        if chain in self._chains:
            return
        before = self._chains
        self._chains = [*before[-(CHAINS - 1) :], chain]
        try:
            await self._save_index()
        except OSError:
            self._chains = before
            raise

    async def _drop(self) -> None:
        """Remove files of which all is proven; the last one stays, since it says which number comes next."""
        gone = []
        while len(self._segments) > 1 and self._segments[1].first <= self.acknowledged + 1:
            gone.append(self._segments.pop(0).first)
        if gone:
            await self._save_index(tuple(gone))
            for first in gone:
                await self._disk.remove(self._shelf.path(_name(first)))

    async def _save_index(self, gone: tuple[int, ...] = ()) -> None:
        segments = tuple(segment.first for segment in self._segments)
        await self._shelf.save(
            "spool", _Index(self.acknowledged, segments, tuple(self._chains), gone)
        )

    async def _events_of(self, segment: _Segment) -> list[bytes]:
        if segment is self._segments[-1]:
            return self._current
        if self._old[0] != segment.first:
            raw = await self._disk.read(self._shelf.path(_name(segment.first))) or b""
            events = [stored.signed for stored in spool_file.unpack(raw).events]
            if len(events) != segment.count:
                path = self._shelf.path(_name(segment.first))
                raise DamagedError(f"{path} was damaged while in use; restart this program.")
            self._old = (segment.first, events)
        return self._old[1]

    def _chain_of(self, signer: bytes) -> tuple[bytes, ...]:
        for chain in reversed(self._chains):
            if key_id(read_key(chain[0])) == signer:
                return chain
        return ()

    # --- start ------------------------------------------------------------------------------------

    async def _read(self, index: _Index) -> None:
        self.acknowledged = index.acknowledged
        self._chains = list(index.chains)
        for first in index.gone:
            await self._disk.remove(self._shelf.path(_name(first)))
        self._segments = [_Segment(first) for first in sorted(index.segments)]
        for place, segment in enumerate(self._segments):
            is_last = place == len(self._segments) - 1
            end = None if is_last else self._segments[place + 1].first
            events = await self._read_segment(segment.first, end)
            segment.count = len(events)
            segment.size = sum(len(spool_file.pack(one)) for one in events)
            if is_last:
                self._current = events
        last = self._segments[-1]
        self.last = self.durable = last.first + last.count - 1
        if self.last < self.acknowledged:
            _log.error("spool.behind", file=_name(last.first), last=self.last)
        self.acknowledged = min(max(self.acknowledged, self._segments[0].first - 1), self.last)
        if self.last > self.acknowledged:
            self.changed.set()

    async def _read_segment(self, first: int, end: int | None) -> list[bytes]:
        """Events from `first` to before `end` (None: as many as there are), gapless; repairs the file where it must."""
        path = self._shelf.path(_name(first))
        raw = await self._disk.read(path) or b""
        contents = spool_file.unpack(raw)
        known = {one.number: one.signed for one in contents.events if one.number >= first}
        stop = max(known, default=first - 1) + 1 if end is None else end
        lost = [number for number in range(first, stop) if number not in known]
        if lost:
            instead = [self._lost_event(number, path.name) for number in lost]
            known |= zip(lost, sign_in_groups(instead, self._vouched), strict=True)
            self._vouched = instead[-1].credentials.key.key_id
            _log.error(
                "spool.damaged", file=str(path), events=len(lost), first=lost[0],
                text="These events were damaged on disk; the log will say so in their place.",
            )  # fmt: skip
        events = [known[number] for number in range(first, stop)]
        if lost or contents.end != len(raw):
            if lost:
                await self._know_key(self._credentials())
            _log.warning("spool.mended", file=str(path), cut=len(raw) - contents.end)
            await self._disk.replace(path, b"".join(spool_file.pack(one) for one in events))
        return events

    def _lost_event(self, number: int, file: str) -> Unsigned:
        reason = f"event {number} was damaged on disk in {file} and is lost"
        fields: dict[str, str | int] = {"reason": reason}
        event = self._event(number, EventName.SPOOL_FULL, Outcome.FAILED, fields)
        return Unsigned(encode(event), self._credentials())


def _name(first: int) -> str:
    return f"spool-{first:016d}"
