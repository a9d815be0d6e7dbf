"""Inclusion proofs of many leaves of one tree: what they share is worked out, and checked, once.

A batch of events lies side by side in the log, so nearly all that proves one of them proves its neighbours, too: a
proof (RFC 9162, `overlay.audit.merkle`) ends where one before it went on (U-05).
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
Nodes = dict[tuple[int, int], bytes]
"""Hashes by level and place."""
_Path = tuple[Ends, Any] | None
"""The innermost subtree whose root is in a proof, and the path above it."""


class Inclusions:
    """The proofs that these leaves are in the tree of `size` leaves. Where they need not be `whole` they are for who
    checks them in this order: the first is whole, each of the others leads to a node that those before it have shown.

    Raises:
        TrustError: there is no such leaf in a tree of that size.
    """

    def __init__(self, indices: Collection[int], size: int, *, whole: bool = False) -> None:
        self._paths: dict[int, _Path] = {}
        wanted = sorted(set(indices))
        for index in wanted[:1] + wanted[-1:]:
            check_index(index, size)
        if wanted:
            self._walk(wanted, 0, size, None)
        known: set[Ends] = set()
        self._proofs = [
            _until_known(self._paths[index], index, set() if whole else known) for index in indices
        ]
        self._subtrees = {ends for proof in self._proofs for ends in proof}

    def needs(self) -> set[NodeId]:
        """The complete nodes that `proofs` will read, so that a store can fetch them at once."""
        return {node for ends in self._subtrees for node in cover(*ends)}

    def proofs(self, read: ReadNode) -> list[list[bytes]]:
        """One for each index, in the order in which they were given."""
        roots = {ends: fold([read(node) for node in cover(*ends)]) for ends in self._subtrees}
        return [[roots[ends] for ends in proof] for proof in self._proofs]

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


def _until_known(path: _Path, index: int, known: set[Ends]) -> list[Ends]:
    """The subtrees of which the roots are in the proof of a leaf, up to the first node of its path that is known."""
    found: list[Ends] = []
    node, passed = (index, index + 1), []
    while path is not None and node not in known:
        beside, path = path
        found.append(beside)
        passed += [node, beside]
        node = min(node[0], beside[0]), max(node[1], beside[1])
    known.update(passed)
    return found


class Proven:
    """What is known to be in the tree with `size` leaves and this root: nothing at first, then what `check` was shown.

    A proof need lead no further than to a node that an earlier one has led to the root.
    """

    def __init__(self, size: int, root: bytes) -> None:
        self._size = size
        self._root = root
        self._known: Nodes = {}

    def check(self, leaf: bytes, index: int, proof: Sequence[bytes]) -> None:
        """The leaf hash `leaf` is number `index` in the tree.

        Raises:
            TrustError: the proof does not show it (RFC 9162 §2.1.3.2).
        """
        digest, seen, (level, at, last) = _climb(leaf, index, self._size, proof, self._known)
        shown = self._shown(level, at, last)
        if shown is None:
            if last:
                raise TrustError("the inclusion proof is too short")
            shown = self._root
        if digest != shown:
            raise TrustError("the record is not in the log that the tree head describes")
        self._known |= seen

    def _shown(self, level: int, at: int, last: int) -> bytes | None:
        """The hash of this node, where it is known; the last of a level, alone there, is known under a higher one."""
        while (shown := self._known.get((level, at))) is None and at == last and at and not at & 1:
            level, at, last = level + 1, at >> 1, last >> 1
        return shown


def root_by_proof(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """Root of the tree of `size` leaves to which `proof` leads from the leaf hash `leaf`, number `index` of them.

    Raises:
        TrustError: there is no such leaf, or the proof has another length (RFC 9162 §2.1.3.2).
    """
    digest, _, (_, _, last) = _climb(leaf, index, size, proof, {})
    if last:
        raise TrustError("the inclusion proof is too short")
    return digest


def _climb(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], known: Nodes
) -> tuple[bytes, Nodes, tuple[int, int, int]]:
    """From a leaf as far as the proof leads, or to a known node: the hash there, the nodes passed, each with the one
    beside it, and where that is: level, place, and the last place of that level.

    Raises:
        TrustError: no such leaf, or the proof is none or too long.
    """
    check_index(index, size)
    check_proof(proof)
    level, at, last, digest = 0, index, size - 1, leaf
    seen: Nodes = {}
    for step in proof:
        if (level, at) in known:
            break
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
    return digest, seen, (level, at, last)
