"""Inclusion proofs of many leaves of one tree: what they share is worked out, and checked, once.

A batch of events lies side by side in the log, so nearly all that proves one of them proves its neighbours, too. The
proofs themselves are those of RFC 9162, each whole (`overlay.audit.merkle`).
"""

from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import Any

from overlay.audit.merkle import (
    NodeId,
    ReadNode,
    check_index,
    check_proof,
    cover,
    fold,
    node_hash,
    split,
)
from overlay.errors import TrustError

Ends = tuple[int, int]
_Path = tuple[Ends, Any] | None
"""The innermost subtree whose root is in a proof, and the path above it."""


class Inclusions:
    """The proofs that these leaves are in the tree of `size` leaves.

    Raises:
        TrustError: there is no such leaf in a tree of that size.
    """

    def __init__(self, indices: Collection[int], size: int) -> None:
        self._paths: dict[int, _Path] = {}
        wanted = sorted(set(indices))
        for index in wanted[:1] + wanted[-1:]:
            check_index(index, size)
        if wanted:
            self._walk(wanted, 0, size, None)
        self._indices = indices
        self._subtrees = {ends for path in self._paths.values() for ends in _upwards(path)}

    def needs(self) -> set[NodeId]:
        """The complete nodes that `proofs` will read, so that a store can fetch them at once."""
        return {node for ends in self._subtrees for node in cover(*ends)}

    def proofs(self, read: ReadNode) -> list[list[bytes]]:
        """One for each index, in the order in which they were given."""
        roots = {ends: fold([read(node) for node in cover(*ends)]) for ends in self._subtrees}
        return [[roots[ends] for ends in _upwards(self._paths[index])] for index in self._indices]

    def _walk(self, indices: list[int], start: int, end: int, path: _Path) -> None:
        """`indices`, sorted, all lie in [start, end), below `path`."""
        if end - start == 1:
            self._paths[start] = path
            return
        middle = start + split(end - start)
        at = bisect_left(indices, middle)
        if at:
            self._walk(indices[:at], start, middle, ((middle, end), path))
        if at < len(indices):
            self._walk(indices[at:], middle, end, ((start, middle), path))


def _upwards(path: _Path) -> list[Ends]:
    found = []
    while path is not None:
        ends, path = path
        found.append(ends)
    return found


class Proven:
    """What is known to be in the tree with `size` leaves and this root: nothing at first, then what `check` was shown.

    A proof need lead no further than to a node that an earlier one has led to the root.
    """

    def __init__(self, size: int, root: bytes) -> None:
        self._size = size
        self._root = root
        self._known: dict[tuple[int, int], bytes] = {}

    def check(self, leaf: bytes, index: int, proof: Sequence[bytes]) -> None:
        """The leaf hash `leaf` is number `index` in the tree.

        Raises:
            TrustError: the proof does not show it (RFC 9162 §2.1.3.2).
        """
        check_index(index, self._size)
        check_proof(proof)
        known, level, at, last, digest = self._known, 0, index, self._size - 1, leaf
        seen: dict[tuple[int, int], bytes] = {}
        for step in proof:
            if (shown := known.get((level, at))) is not None:
                if shown != digest:
                    raise TrustError("the record is not in the log that the tree head describes")
                known |= seen
                return
            if last == 0:
                raise TrustError("the inclusion proof is too long")
            seen[level, at] = digest
            if at & 1 or at == last:
                while at and not at & 1:  # the last node of a level, alone there, goes up as it is
                    level, at, last = level + 1, at >> 1, last >> 1
                    seen[level, at] = digest
                seen[level, at - 1] = step
                digest = node_hash(step, digest)
            else:
                seen[level, at + 1] = step
                digest = node_hash(digest, step)
            level, at, last = level + 1, at >> 1, last >> 1
        if last:
            raise TrustError("the inclusion proof is too short")
        if digest != self._root:
            raise TrustError("the record is not in the log that the tree head describes")
        known |= seen
