"""The Merkle tree of the audit log (RFC 9162 §2.1; docs/protocol/audit.md, U-03).

A leaf is `SHA-256(0x00 ‖ leaf bytes)`, an inner node `SHA-256(0x01 ‖ left ‖ right)`. The node (level, offset) covers
the leaves `offset << level` up to `(offset + 1) << level`. Complete nodes never change, so a store keeps them once:
`Frontier.append` returns those that each new leaf completes, and proofs are made from a logarithmic number of them.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from overlay.errors import TrustError

HASH_SIZE = 32
MAX_PROOF = 64
EMPTY_ROOT = hashlib.sha256(b"").digest()


class NodeId(NamedTuple):
    """Where a complete node is: level 0 are the leaves."""

    level: int
    offset: int


ReadNode = Callable[[NodeId], bytes]
"""Gives the hash of a complete node."""


def leaf_hash(leaf: bytes) -> bytes:
    """Hash of one leaf's bytes."""
    return hashlib.sha256(b"\0" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node."""
    return hashlib.sha256(b"\1" + left + right).digest()


class Frontier:
    """A tree that only grows: its size, and the roots of its complete subtrees, the largest first.

    `size` and `peaks` are all that has to be kept to go on appending: 32 bytes for each bit that is set in `size`.
    """

    __slots__ = ("peaks", "size")

    def __init__(self, size: int = 0, peaks: Iterable[bytes] = ()) -> None:
        self.size = size
        self.peaks = list(peaks)
        if len(self.peaks) != size.bit_count() or any(len(p) != HASH_SIZE for p in self.peaks):
            raise TrustError(f"a tree of {size} records needs {size.bit_count()} peaks of 32 bytes")

    def append(self, leaf: bytes) -> list[tuple[NodeId, bytes]]:
        """Add a leaf hash; returns the leaf and all inner nodes that it completes, from the bottom up."""
        index, level, digest = self.size, 0, leaf
        done = [(NodeId(0, index), digest)]
        while index & 1:
            digest = node_hash(self.peaks.pop(), digest)
            index >>= 1
            level += 1
            done.append((NodeId(level, index), digest))
        self.peaks.append(digest)
        self.size += 1
        return done

    def root(self) -> bytes:
        """Root of the tree as it is now (RFC 9162 §2.1.1)."""
        return fold(self.peaks)


def peak_ids(size: int) -> list[NodeId]:
    """The complete subtrees that make up a tree of `size` leaves, the largest first: what a `Frontier` starts from."""
    return cover(0, size)


def root(leaves: Iterable[bytes]) -> bytes:
    """Root over leaf hashes."""
    tree = Frontier()
    for leaf in leaves:
        tree.append(leaf)
    return tree.root()


def fold(peaks: Sequence[bytes]) -> bytes:
    """Root over complete subtrees from left to right, each smaller than the one before."""
    if not peaks:
        return EMPTY_ROOT
    digest = peaks[-1]
    for peak in reversed(peaks[:-1]):
        digest = node_hash(peak, digest)
    return digest


def cover(start: int, end: int) -> list[NodeId]:
    """The complete nodes that cover [start, end), which begins at a multiple of the largest of them."""
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(NodeId(level, start >> level))
        start += 1 << level
    return nodes


def split(size: int) -> int:
    """The largest power of two below `size` (RFC 9162 §2.1.1)."""
    return 1 << (size - 1).bit_length() - 1


def _consistency_ranges(first: int, second: int) -> Iterator[tuple[int, int]]:
    """The subtrees whose roots prove that one tree begins with another (RFC 9162 §2.1.4.1)."""
    ranges = []
    start, end = 0, second
    while first != end:
        middle = start + split(end - start)
        if first <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    if start:
        ranges.append((start, end))
    return reversed(ranges)


def consistency_needs(first: int, second: int) -> list[NodeId]:
    """The complete nodes that `consistency_proof` will read."""
    _check_sizes(first, second)
    ranges = _consistency_ranges(first, second) if first else ()
    return [node for ends in ranges for node in cover(*ends)]


def consistency_proof(first: int, second: int, read: ReadNode) -> list[bytes]:
    """Proof that the tree of `second` leaves begins with the tree of `first` leaves (RFC 9162 §2.1.4.1).

    Empty for equal sizes, and for an empty first tree, which every tree begins with.

    Raises:
        TrustError: the first tree is larger than the second.
    """
    _check_sizes(first, second)
    ranges = _consistency_ranges(first, second) if first else ()
    return [fold([read(node) for node in cover(*ends)]) for ends in ranges]


def check_index(index: int, size: int) -> None:
    """Raises: TrustError: there is no such leaf in a tree of that size."""
    if not 0 <= index < size:
        raise TrustError(f"there is no record {index} in a log of {size}")


def _check_sizes(first: int, second: int) -> None:
    if not 0 <= first <= second:
        raise TrustError(f"a log of {second} records cannot begin with one of {first}")


def verify_consistency(
    first: int, second: int, first_root: bytes, second_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of `second` leaves and root `second_root` only adds to the tree of `first` leaves.

    Raises:
        TrustError: the proof does not show it (RFC 9162 §2.1.4.2).
    """
    _check_sizes(first, second)
    check_proof(proof)
    if first == 0 or first == second:
        if proof:
            raise TrustError("the consistency proof is too long")
        if first == second and first_root != second_root:
            raise TrustError("two tree heads of the same size differ: the log was forked")
        if first == 0 and first_root != EMPTY_ROOT:
            raise TrustError("the tree head of an empty log has a wrong root")
        return
    steps = list(proof)
    if first & (first - 1) == 0:
        steps.insert(0, first_root)
    if not steps:
        raise TrustError("the consistency proof is too short")
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    old = new = steps[0]
    for step in steps[1:]:
        if last == 0:
            raise TrustError("the consistency proof is too long")
        if at & 1 or at == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while at and not at & 1:
                at, last = at >> 1, last >> 1
        else:
            new = node_hash(new, step)
        at, last = at >> 1, last >> 1
    if last:
        raise TrustError("the consistency proof is too short")
    if old != first_root or new != second_root:
        raise TrustError(
            "the log was rewritten: it does not begin with the log that was seen before"
        )


def all_proofs(leaves: Sequence[bytes]) -> tuple[bytes, list[list[bytes]]]:
    """Root over at least one leaf hash, and the inclusion proof of each of them."""
    proofs: list[list[bytes]] = [[] for _ in leaves]
    level, height = list(leaves), 0
    while len(level) > 1:
        for index, proof in enumerate(proofs):
            beside = index >> height ^ 1
            if beside < len(level):
                proof.append(level[beside])
        above = [node_hash(*level[at : at + 2]) for at in range(0, len(level) - 1, 2)]
        level, height = above + level[len(above) * 2 :], height + 1
    return level[0], proofs


def check_proof(proof: Sequence[bytes]) -> None:
    """Raises: TrustError: these cannot be the hashes of a proof."""
    if len(proof) > MAX_PROOF or any(len(step) != HASH_SIZE for step in proof):
        raise TrustError("a proof has at most 64 hashes of 32 bytes")
