"""What happened: sessions, and the audit log as people read, verify, prove and export it."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from controller.actions import requests as r
from controller.actions import roles
from controller.actions import types as t
from controller.actions.core import Core
from controller.actions.errors import Invalid, NotFound
from controller.actions.roles import Permission
from controller.actions.verification import Verification
from controller.store import log
from controller.store.tables import CircuitRow, LogRow, RecordRow
from overlay.audit.event import EventName, Outcome
from overlay.audit.export import export_head, export_record
from overlay.audit.merkle import leaf_hash
from overlay.audit.record import Record, read_leaf
from overlay.policy.names import hint, parse_principal, shown
from overlay.policy.times import parse_since
from overlay.wire.codec import Signed, decode
from overlay.wire.timestamps import format_time

MAX_TAIL = 1000
HISTORY = 10_000
"""How many ended sessions `--history` shows at most; the audit has all."""
SHORTEST = 4
"""How many characters of a session's id are enough, where they fit one only."""


class Records(Core):
    """Sessions and audit."""

    async def sessions(self, actor: t.Actor, *, history: bool = False) -> list[t.Session]:
        """Live sessions, oldest first; with `history` also the `HISTORY` that ended last."""
        async with self.reading(actor) as session:
            query = select(CircuitRow).where(CircuitRow.ended == 0)
            rows = list((await session.execute(query)).scalars())
            if history:
                ended = select(CircuitRow).where(CircuitRow.ended > 0)
                ended = ended.order_by(CircuitRow.ended.desc()).limit(HISTORY)
                rows += (await session.execute(ended)).scalars()
        rows.sort(key=lambda row: (row.started, row.id))
        return [circuit_view(row, self.presence.bytes_of(row.node, row.id)) for row in rows]

    async def show_session(self, actor: t.Actor, name: str) -> t.Session:
        """One session, by its id or the beginning of it.

        Raises:
            NotFound, Invalid: as `find_session`.
        """
        async with self.reading(actor) as session:
            row = await find_session(session, name)
        return circuit_view(row, self.presence.bytes_of(row.node, row.id))

    async def audit_tail(
        self, actor: t.Actor, *, after: int | None = None, limit: int = 50
    ) -> list[t.AuditRecord]:
        """The newest `limit` records, or the first `limit` with `seq` above `after` (to follow), by `seq`.

        Raises:
            Invalid: a limit below 1 or above `MAX_TAIL`.
        """
        if not 1 <= limit <= MAX_TAIL:
            raise Invalid(f"a tail shows 1 to {MAX_TAIL} records, not {limit}")
        query = select(RecordRow.leaf)
        if after is None:
            query = query.order_by(RecordRow.seq.desc())
        else:
            query = query.where(RecordRow.seq > after).order_by(RecordRow.seq)
        async with self.reading(actor) as session:
            leaves = list((await session.execute(query.limit(limit))).scalars())
        return [record_view(leaf) for leaf in (reversed(leaves) if after is None else leaves)]

    async def audit_search(self, actor: t.Actor, request: r.Search) -> list[t.AuditRecord]:
        """The newest `limit` records that fit, by `seq`.

        Raises:
            Invalid, InputError: an outcome that does not exist, a bad name or time.
        """
        query = select(RecordRow.leaf)
        if request.who is not None:
            query = query.where(RecordRow.who == parse_principal(request.who))
        if request.service is not None:
            query = query.where(RecordRow.service == request.service.strip().lower())
        if request.outcome is not None:
            query = query.where(RecordRow.outcome == outcome(request.outcome))
        if request.since is not None:
            since = parse_since(request.since, self.now(), self.time_zone)
            query = query.where(RecordRow.time >= since)
        if request.until is not None:
            until = parse_since(request.until, self.now(), self.time_zone)
            query = query.where(RecordRow.time <= until)
        async with self.reading(actor) as session:
            newest = query.order_by(RecordRow.seq.desc()).limit(request.limit)
            leaves = list((await session.execute(newest)).scalars())
        return [record_view(leaf) for leaf in reversed(leaves)]

    async def audit_verify(self, actor: t.Actor) -> t.Verified:
        """Read the whole log again: every record, every signature, every hash up to the signed head."""
        roles.check(actor, Permission.AUDIT)
        return await Verification(self).run()

    async def audit_prove(self, actor: t.Actor, seq: int) -> t.Proof:
        """The inclusion proof of one record under the newest signed head.

        Raises:
            NotFound: there is no such record.
        """
        async with self.reading(actor, Permission.AUDIT) as session:
            row = (await session.execute(select(LogRow))).scalar_one()
            record = await session.get(RecordRow, seq)
            if record is None or not 1 <= seq <= row.size:
                raise NotFound(f"there is no record {seq}: the log has {row.size}")
            (path,) = await log.prove(session, [seq - 1], row.size, {})
        head = log.head_of(row)
        signer = decode(Signed, row.head)
        leaf = self.signers.learn(signer.chain, head.time, expired_leaf_ok=True)
        return t.Proof(
            seq=seq,
            hash=record.hash.hex(),
            path=tuple(step.hex() for step in path),
            size=head.size,
            root=head.root.hex(),
            signed_by=leaf.identity.name,
            record=export_record(record.leaf).decode(),
            head=export_head(row.head).decode(),
        )

    async def audit_export(self, actor: t.Actor) -> AsyncIterator[bytes]:
        """The export in pieces, each some complete lines; the last line is a head over exactly these records.

        The export is an event of its own, which comes before it.
        """
        async with self.change(
            actor, Permission.AUDIT, EventName.AUDIT_EXPORT, "audit export"
        ) as work:
            work.note(EventName.AUDIT_EXPORT, reason="audit log exported")
        async with self.reading() as session:
            row = (await session.execute(select(LogRow))).scalar_one()
        last = 0
        while last < row.size:  # one transaction a page: a slow reader holds nothing up
            async with self.reading() as session:
                page = await log.page_after(session, last)
            lines = [export_record(one.leaf) for one in page if one.seq <= row.size]
            if not lines:
                break  # damaged: the head will not fit, and whoever verifies finds out
            last = page[-1].seq
            yield b"".join(lines)
        yield export_head(row.head)


async def find_session(session: AsyncSession, text: str) -> CircuitRow:
    """The session of this id, or whose id begins so: the live one, before one that has ended.

    Raises:
        NotFound: there is none. Invalid: there are several.
    """
    start = text.strip().lower()
    row = await _session_of(session, start)
    if row is None and len(start) >= SHORTEST and not set(start) - set("0123456789abcdef"):
        fits = select(CircuitRow.id).where(CircuitRow.id.startswith(start)).distinct().limit(2)
        for query in (fits.where(CircuitRow.ended == 0), fits.where(CircuitRow.ended > 0)):
            ids = list((await session.execute(query)).scalars())
            if len(ids) > 1:
                raise Invalid(f"several sessions begin with {shown(start)}: write more of the id")
            if ids:
                row = await _session_of(session, ids[0])
                break
    if row is None:
        raise NotFound(f"there is no session {shown(text)}: see ferrule sessions --history")
    return row


async def _session_of(session: AsyncSession, name: str) -> CircuitRow | None:
    """Of several nodes that claim to host it one where it is live, the first that said so."""
    query = select(CircuitRow).where(CircuitRow.id == name)
    query = query.order_by(CircuitRow.ended > 0, CircuitRow.started, CircuitRow.node).limit(1)
    return (await session.execute(query)).scalar()


def outcome(text: str) -> str:
    """An outcome in canonical form.

    Raises:
        Invalid: there is no such.
    """
    word = text.strip().lower()
    if word in set(Outcome):
        return word
    known = [one.value for one in Outcome]
    raise Invalid(f"{shown(text)} is not an outcome: {hint(word, known) or ', '.join(known)}")


def record_view(leaf: bytes) -> t.AuditRecord:
    """A record as people and scripts see it."""
    record: Record = read_leaf(leaf)
    return t.AuditRecord(
        seq=record.seq,
        time=record.time,
        event=record.event.value,
        outcome=record.outcome.value,
        who=record.who,
        via=record.via,
        asset=record.asset,
        service=record.service,
        address=record.address,
        conduit=record.conduit,
        reason=record.reason,
        node=record.node,
        count=record.count,
        hash=leaf_hash(leaf).hex(),
        circuit=record.circuit,
        detail=detail_of(record.detail),
    )


def detail_of(text: str) -> dict[str, Any]:
    """The JSON document of an event; what is none is shown as it is, since a node wrote it."""
    if not text:
        return {}
    try:
        found = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return {"text": text}
    return found if isinstance(found, dict) else {"value": found}


def circuit_view(row: CircuitRow, counted: tuple[int, int] = (0, 0)) -> t.Session:
    """A session as people see it; `counted` are the bytes of the last live report."""
    return t.Session(
        id=row.id,
        who=row.who,
        via=row.via,
        asset=row.asset,
        service=row.service,
        address=row.address,
        path=tuple(row.path),
        conduit=row.conduit,
        started=format_time(row.started),
        ended=format_time(row.ended) if row.ended else None,
        end_reason=row.end_reason or None if row.ended else None,
        bytes_in=max(row.bytes_in, counted[0]),
        bytes_out=max(row.bytes_out, counted[1]),
        key_exchange=row.key_exchange,
        integrity="strict" if row.integrity == "strict" else "normal",
        moves=row.moves,
    )
