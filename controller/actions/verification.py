"""`ferrule audit verify`: the whole log in the store, read again record by record (U-03, U-04)."""

import asyncio
from collections.abc import Iterator

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from controller.actions import types as t
from controller.actions.core import Core
from controller.store import log
from controller.store.tables import CertificateRow, LogRow, RecordRow
from overlay.audit.event import Event, EventName
from overlay.audit.merkle import Frontier, NodeId, leaf_hash
from overlay.audit.receipt import receipt_of, verify_receipt
from overlay.audit.record import Record, check_event, read_leaf, signed_event
from overlay.audit.signing import EventReader
from overlay.errors import FerruleError, TrustError
from overlay.identity.certificate import Role
from overlay.identity.trust import Signers, open_signed
from overlay.wire.bodies import TreeHead
from overlay.wire.codec import Signed, decode

MAX_PROBLEMS = 20
AT_A_TIME = 50
"""Records that are checked before others get a turn."""


class Verification:
    """One reading of the log. Nothing in the store is trusted: all leads to the plant's root."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._signers = Signers(core.anchor)
        self._reader = EventReader(self._signers)
        self._signers.learn(core.credentials.chain, core.now(), expired_leaf_ok=True)
        self._tree = Frontier()
        self._root: bytes | None = None
        self._last = 0
        self._problems: list[str] = []
        self._keys: dict[str, list[bytes]] = {}
        """Public keys for which a node of this page ever had a certificate: receipts are signed with them (C-43)."""

    async def run(self) -> t.Verified:
        """Read everything up to the size that the log has at the beginning."""
        async with self._core.reading() as session:
            row = (await session.execute(select(LogRow))).scalar_one()
            beyond = await session.scalar(
                select(func.count()).select_from(RecordRow).where(RecordRow.seq > row.size)
            )
        if beyond:
            self._problem(f"{beyond} records lie behind the end of the log")
        signed_by = self._head(row) if row.size or row.head else None
        while self._last < row.size:
            async with self._core.reading() as session:
                page = await log.page_after(session, self._last)
                page = [one for one in page if one.seq <= row.size]
                if not page:
                    self._problem(f"records {self._last + 1} to {row.size} are missing")
                    break
                await self._learn(session, page)
                await self._page(session, page)
        self._whole(row)
        return t.Verified(
            ok=not self._problems,
            records=self._tree.size,
            first=1 if self._tree.size else None,
            last=self._last or None,
            signed_by=signed_by,
            problems=tuple(self._problems),
        )

    def _problem(self, text: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(text)
        elif len(self._problems) == MAX_PROBLEMS:
            self._problems.append("and more")

    def _head(self, row: LogRow) -> str | None:
        """The signed head; who signed it."""
        try:
            envelope = decode(Signed, row.head)
            body = decode(TreeHead, envelope.body)
            head, leaf = open_signed(
                TreeHead,
                row.head,
                self._signers,
                body.time,
                role=Role.CONTROLLER,
                expired_leaf_ok=True,
            )
        except FerruleError as error:
            self._problem(f"the tree head does not hold: {error}")
            return None
        if head.size != row.size:
            self._problem(f"the tree head covers {head.size} records, the log has {row.size}")
        self._root = head.root
        return leaf.identity.name

    def _whole(self, row: LogRow) -> None:
        """Do the records make up what was signed?"""
        if self._root is not None and self._tree.root() != self._root:
            self._problem("the records are not those that the tree head was signed over")
        if row.frontier != b"".join(self._tree.peaks):
            self._problem("the log's own state does not fit its records")

    async def _learn(self, session: AsyncSession, page: list[RecordRow]) -> None:
        """Certificates of the page's signers."""
        names = ({row.node for row in page} | {_caller_of(row) for row in page}) - {
            self._core.name,
            "",
        }
        self._keys = {}
        issuing = self._core.credentials.chain[1]
        for one in names:
            rows = await session.execute(select(CertificateRow).where(CertificateRow.name == one))
            for certificate in rows.scalars():
                leaf = self._signers.known(certificate.key)
                try:
                    if leaf is None:
                        chain = (certificate.der, issuing)
                        leaf = self._signers.learn(chain, self._core.now(), expired_leaf_ok=True)
                except TrustError as error:
                    self._problem(f"a stored certificate of {one} does not hold: {error}")
                else:
                    if leaf.identity.name == one:
                        self._keys.setdefault(one, []).append(leaf.public)

    async def _page(self, session: AsyncSession, page: list[RecordRow]) -> None:
        made: dict[NodeId, bytes] = {}
        for at, row in enumerate(page):
            if at % AT_A_TIME == 0:
                await asyncio.sleep(0)
            if row.seq != self._last + 1:
                self._problem(f"record {row.seq} follows record {self._last}")
            self._last = row.seq
            # SQLite keeps in a column whatever somebody puts there.
            kept: object = row.leaf
            leaf = kept if isinstance(kept, bytes) else repr(kept).encode()
            try:
                self._record(row, leaf)
            except FerruleError as error:
                self._problem(f"record {row.seq}: {error}")
            made |= {
                node: digest for node, digest in self._tree.append(leaf_hash(leaf)) if node.level
            }
        try:
            stored = await log.read_nodes(session, made)
        except TrustError as error:
            self._problem(str(error))
            return
        wrong = [node for node, digest in made.items() if stored[node] != digest]
        if wrong:
            self._problem(f"{len(wrong)} nodes of the log's tree do not fit their records")

    def _record(self, row: RecordRow, raw: bytes) -> None:
        """One record: hash, canonical form, columns, the node's own signature.

        Raises:
            FerruleError: something does not hold.
        """
        if leaf_hash(raw) != row.hash:
            raise TrustError("the record or its hash was changed")
        record = read_leaf(raw)
        event = check_event(record)
        for name, kept, said in self._columns(row, record, event):
            if kept != said:
                raise TrustError(f"the column {name} says {kept!r}, the record {said!r}")
        _, leaf = self._reader.open(signed_event(record), max(event.time, 0), name=event.node)
        if leaf.generation != event.generation:
            raise TrustError(f"signed by generation {leaf.generation} of {event.node}")
        self._receipt(event)

    def _receipt(self, event: Event) -> None:
        """What both edges signed about a circuit, where both did: the hosting edge alone could say anything.

        Raises:
            FerruleError: one of them did not sign this.
        """
        if event.event is not EventName.CIRCUIT_CLOSE:
            return
        receipt = receipt_of(event.detail)
        if receipt is None or receipt.caller is None or receipt.host is None:
            return
        callers, hosts = (self._keys.get(name, []) for name in (event.via, event.node))
        try:
            circuit = bytes.fromhex(event.circuit)
        except ValueError:
            raise TrustError("it closes a circuit with an id that is none") from None
        verify_receipt(receipt, circuit, callers, hosts, self._core.anchor.digest)

    def _columns(
        self, row: RecordRow, record: Record, event: Event
    ) -> Iterator[tuple[str, object, object]]:
        expected = log.columns_of(record, event.time) | {
            "seq": record.seq,
            "generation": event.generation,
            "number": event.number,
        }
        for name, said in expected.items():
            yield name, getattr(row, name), said


def _caller_of(row: RecordRow) -> str:
    """The caller's edge of a circuit that this record closes; empty for other records and for what is none."""
    if row.event != EventName.CIRCUIT_CLOSE or not isinstance(row.leaf, bytes):
        return ""
    try:
        return check_event(read_leaf(row.leaf)).via
    except FerruleError:
        return ""
