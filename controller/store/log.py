"""The audit log in the store: appending, proofs, and finding what was changed behind its back (U-03 to U-05)."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import func, insert, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from controller.store.tables import LogRow, RecordRow, TreeRow
from overlay.audit import merkle
from overlay.audit.event import Event
from overlay.audit.merkle import HASH_SIZE, Frontier, NodeId
from overlay.audit.proofs import Inclusions
from overlay.audit.record import Record, record_of
from overlay.errors import DecodeError, TrustError
from overlay.wire.bodies import TreeHead
from overlay.wire.codec import Signed, decode

PAGE = 1000
_NODES_PER_QUERY = 400
_records = RecordRow.metadata.tables[RecordRow.__tablename__]
_tree = TreeRow.metadata.tables[TreeRow.__tablename__]


class Entry(NamedTuple):
    """An event to append, whose signature was verified: as signed and as read; what the controller fills in."""

    signed: bytes
    event: Event
    asset: str = ""
    address: str = ""


class Stored(NamedTuple):
    """A record as it lies in the log; `at` is its leaf's index, from 0."""

    at: int
    leaf: bytes


class Appended(NamedTuple):
    """What an append made: the records, the log's new size and signed head, and the nodes with which each new record
    can be proved without reading the store."""

    records: list[Record]
    size: int
    head: bytes
    nodes: dict[NodeId, bytes]


async def begin(session: AsyncSession) -> LogRow:
    """The log's row, locked until the transaction ends: all writers of a plant take turns here."""
    return (await session.execute(select(LogRow).with_for_update())).scalar_one()


def head_of(row: LogRow) -> TreeHead:
    """The log's tree head, signature not checked.

    Raises:
        DecodeError: the row is damaged.
    """
    return decode(TreeHead, decode(Signed, row.head).body)


def frontier_of(row: LogRow) -> Frontier:
    """The tree as the row keeps it.

    Raises:
        TrustError: size and hashes do not fit: the row is damaged.
    """
    kept = row.frontier
    return Frontier(row.size, [kept[at : at + HASH_SIZE] for at in range(0, len(kept), HASH_SIZE)])


async def append(
    session: AsyncSession,
    row: LogRow,
    entries: Sequence[Entry],
    now: int,
    sign: Callable[[TreeHead], bytes],
) -> Appended:
    """Append events as records and sign the new head, inside the caller's transaction; `row` is from `begin`."""
    tree = frontier_of(row)
    nodes = dict(zip(merkle.peak_ids(tree.size), tree.peaks, strict=True))
    records, rows, inner = [], [], []
    for entry in entries:
        record = record_of(
            tree.size + 1, entry.signed, entry.event, asset=entry.asset, address=entry.address
        )
        leaf = record.leaf()
        digest = merkle.leaf_hash(leaf)
        for node, value in tree.append(digest):
            nodes[node] = value
            level, position = node
            if level:
                inner.append({"level": level, "position": position, "hash": value})
        records.append(record)
        rows.append(_row(record, leaf, digest, entry))
    # Past the mapper, which would look at each row: nobody has these as objects.
    connection = await session.connection()
    if rows:
        await connection.execute(insert(_records), rows)
    if inner:
        await connection.execute(insert(_tree), inner)
    row.size, row.frontier = tree.size, b"".join(tree.peaks)
    row.head = sign(TreeHead(tree.size, tree.root(), max(now, _last_time(row))))
    return Appended(records, tree.size, row.head, nodes)


def _last_time(row: LogRow) -> int:
    """Times of heads never fall, whichever controller signs: by them a log that shrinks is told from an old head.

    U-11. A damaged head is found by `verify`, and stops nobody."""
    try:
        return head_of(row).time if row.head else 0
    except DecodeError:
        return 0


def _row(record: Record, leaf: bytes, digest: bytes, entry: Entry) -> dict[str, object]:
    return {
        "seq": record.seq,
        "leaf": leaf,
        "hash": digest,
        "generation": entry.event.generation,
        "number": record.number,
    } | columns_of(record, entry.event.time)


def columns_of(record: Record, time: int) -> dict[str, object]:
    """The columns by which a record is found. PostgreSQL's text cannot hold a zero character; the leaf can."""
    return {
        "time": time,
        "event": record.event.value,
        "outcome": record.outcome.value,
        "node": plain(record.node),
        "who": plain(record.who),
        "service": plain(record.service),
    }


def plain(text: str) -> str:
    """Text as both databases can keep it."""
    return text.replace("\0", "\ufffd")


async def last_number(session: AsyncSession, node: str, generation: int) -> int:
    """The highest event number that is recorded of this enrolment of a node; 0 for none."""
    found = await session.scalar(
        select(func.max(RecordRow.number)).where(
            RecordRow.node == node, RecordRow.generation == generation
        )
    )
    return found or 0


async def find_events(
    session: AsyncSession, node: str, generation: int, numbers: Sequence[int]
) -> dict[int, Stored]:
    """The records of these event numbers of a node that are in the log already."""
    rows = await session.execute(
        select(RecordRow.number, RecordRow.seq, RecordRow.leaf).where(
            RecordRow.node == node,
            RecordRow.generation == generation,
            RecordRow.number.in_(numbers),
        )
    )
    return {number: Stored(seq - 1, leaf) for number, seq, leaf in rows}


async def read_nodes(session: AsyncSession, wanted: Iterable[NodeId]) -> dict[NodeId, bytes]:
    """Hashes of complete nodes of the tree.

    Raises:
        TrustError: one is missing: the log was damaged or cut.
    """
    needed = set(wanted)
    found: dict[NodeId, bytes] = {}
    leaves = [at + 1 for level, at in needed if level == 0]
    inner = [(level, at) for level, at in needed if level]
    for at in range(0, len(leaves), _NODES_PER_QUERY):
        some = leaves[at : at + _NODES_PER_QUERY]
        rows = await session.execute(
            select(RecordRow.seq, RecordRow.hash).where(RecordRow.seq.in_(some))
        )
        found |= {NodeId(0, seq - 1): digest for seq, digest in rows}
    for at in range(0, len(inner), _NODES_PER_QUERY):
        place = tuple_(TreeRow.level, TreeRow.position)
        pairs = await session.execute(
            select(TreeRow).where(place.in_(inner[at : at + _NODES_PER_QUERY]))
        )
        found |= {NodeId(node.level, node.position): node.hash for node in pairs.scalars()}
    if missing := needed - found.keys():
        raise TrustError(
            f"{len(missing)} nodes of the log's tree are missing: verify the audit log"
        )
    return found


async def prove(
    session: AsyncSession,
    indices: Sequence[int],
    size: int,
    known: dict[NodeId, bytes],
    *,
    whole: bool = True,
) -> list[list[bytes]]:
    """Inclusion proofs of leaves in the tree of `size`, `whole` as of `Inclusions`; what `known` does not hold is read
    from the store.

    Raises:
        TrustError: the tree is damaged, or there is no such leaf.
    """
    wanted = Inclusions(indices, size, whole=whole)
    nodes = known | await read_nodes(session, wanted.needs() - known.keys())
    return wanted.proofs(nodes.__getitem__)


async def prove_growth(session: AsyncSession, sizes: Sequence[int], size: int) -> list[list[bytes]]:
    """For each of `sizes` the consistency proof to the log of `size` records (U-13).

    Raises:
        TrustError: the log never had so many records, or its tree is damaged.
    """
    held = (await session.execute(select(LogRow.size))).scalar_one()
    if size > held:
        raise TrustError(f"the log has {held} records, not {size}")
    needs = {node for one in sizes for node in merkle.consistency_needs(one, size)}
    nodes = await read_nodes(session, needs)
    return [merkle.consistency_proof(one, size, nodes.__getitem__) for one in sizes]


async def page_after(session: AsyncSession, seq: int) -> list[RecordRow]:
    """The next `PAGE` records after `seq`, in order: a log of any length is read in the same memory."""
    rows = await session.execute(
        select(RecordRow).where(RecordRow.seq > seq).order_by(RecordRow.seq).limit(PAGE)
    )
    return list(rows.scalars())
