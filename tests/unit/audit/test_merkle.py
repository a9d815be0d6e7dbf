"""The Merkle tree against its definition, the vectors of RFC 6962 implementations, and forged proofs."""

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from overlay.audit.merkle import (
    EMPTY_ROOT,
    MAX_PROOF,
    Frontier,
    NodeId,
    consistency_needs,
    consistency_proof,
    leaf_hash,
    node_hash,
    peak_ids,
    root,
    verify_consistency,
)
from overlay.audit.proofs import Inclusions, Proven
from overlay.errors import TrustError

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/merkle.json").read_text())


def by_definition(leaves: list[bytes]) -> bytes:
    """MTH of RFC 9162 §2.1.1, word for word."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    return hashlib.sha256(b"\1" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


def path_by_definition(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH of RFC 9162 §2.1.3.1, word for word."""
    if len(leaves) == 1:
        return []
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if index < k:
        return [*path_by_definition(index, leaves[:k]), by_definition(leaves[k:])]
    return [*path_by_definition(index - k, leaves[k:]), by_definition(leaves[:k])]


def subproof(m: int, leaves: list[bytes], *, complete: bool) -> list[bytes]:
    """SUBPROOF of RFC 9162 §2.1.4.1, word for word."""
    if m == len(leaves):
        return [] if complete else [by_definition(leaves)]
    k = 1
    while k * 2 < len(leaves):
        k *= 2
    if m <= k:
        return [*subproof(m, leaves[:k], complete=complete), by_definition(leaves[k:])]
    return [*subproof(m - k, leaves[k:], complete=False), by_definition(leaves[:k])]


def inclusion_proof(index: int, size: int, read) -> list[bytes]:
    return Inclusions([index], size).proofs(read)[0]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: list[bytes], top: bytes) -> None:
    Proven(size, top).check(leaf, index, proof)


class Tree:
    """A tree with all its complete nodes kept, as a store does; counts what is read."""

    def __init__(self, size: int) -> None:
        self.leaves = [leaf_hash(bytes([n % 256, n // 256])) for n in range(size)]
        self.frontier = Frontier()
        self.nodes: dict[NodeId, bytes] = {}
        for leaf in self.leaves:
            for where, digest in self.frontier.append(leaf):
                assert where not in self.nodes, "complete nodes never change"
                self.nodes[where] = digest
        self.reads: list[NodeId] = []

    def read(self, node: NodeId) -> bytes:
        self.reads.append(node)
        return self.nodes[node]


def test_the_vectors_of_certificate_transparency():
    """Eight known leaves, roots and proofs that implementations of RFC 6962 share."""
    leaves = [leaf_hash(bytes.fromhex(leaf)) for leaf in VECTORS["leaves"]]
    for size, expected in enumerate(VECTORS["roots"]):
        assert root(leaves[:size]).hex() == expected
    nodes: dict[NodeId, bytes] = {}
    tree = Frontier()
    for leaf in leaves:
        nodes.update(tree.append(leaf))
    for one in VECTORS["inclusion"]:
        proof = inclusion_proof(one["index"], one["size"], nodes.__getitem__)
        assert [step.hex() for step in proof] == one["proof"]
    for one in VECTORS["consistency"]:
        proof = consistency_proof(one["first"], one["second"], nodes.__getitem__)
        assert [step.hex() for step in proof] == one["proof"]


def test_an_empty_tree():
    assert Frontier().root() == EMPTY_ROOT == root([])
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_leaves_and_nodes_cannot_be_taken_for_one_another():
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)


@pytest.mark.parametrize("size", [*range(1, 34), 63, 64, 65, 100])
def test_roots_and_all_proofs_equal_their_definition(size):
    tree = Tree(size)
    top = by_definition(tree.leaves)
    assert tree.frontier.root() == top == root(tree.leaves)
    for index in range(size):
        proof = inclusion_proof(index, size, tree.read)
        assert proof == path_by_definition(index, tree.leaves)
        verify_inclusion(tree.leaves[index], index, size, proof, top)
    for first in range(size + 1):
        proof = consistency_proof(first, size, tree.read)
        if first:
            assert proof == subproof(first, tree.leaves, complete=True)
        verify_consistency(first, size, by_definition(tree.leaves[:first]), top, proof)


@given(st.integers(1, 400), st.data())
def test_a_store_can_fetch_what_a_proof_needs_and_that_is_little(size, data):
    tree = Tree(size)
    index = data.draw(st.integers(0, size - 1))
    inclusion_proof(index, size, tree.read)
    assert sorted(tree.reads) == sorted(Inclusions([index], size).needs())
    assert len(tree.reads) <= 2 * size.bit_length()
    tree.reads.clear()
    first = data.draw(st.integers(0, size))
    consistency_proof(first, size, tree.read)
    assert tree.reads == consistency_needs(first, size)
    assert len(tree.reads) <= 2 * size.bit_length() + 1


@given(st.integers(0, 300), st.integers(0, 40))
def test_appending_goes_on_from_what_was_kept(size, more):
    tree = Tree(size + more)
    kept = Tree(size)
    frontier = Frontier(size, [kept.nodes[node] for node in peak_ids(size)])
    assert frontier.root() == kept.frontier.root()
    for leaf in tree.leaves[size:]:
        assert len(frontier.append(leaf)) <= 1 + (size + more).bit_length()
    assert frontier.root() == tree.frontier.root()
    assert len(frontier.peaks) == (size + more).bit_count()


@pytest.mark.parametrize(
    ("size", "peaks"), [(3, [b"x" * 32]), (0, [b"x" * 32]), (1, []), (1, [b"short"])]
)
def test_a_frontier_that_does_not_fit_its_size_is_refused(size, peaks):
    with pytest.raises(TrustError):
        Frontier(size, peaks)


def flip(data: bytes, bit: int) -> bytes:
    bit %= len(data) * 8
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@given(st.integers(2, 130), st.data())
def test_a_changed_inclusion_proof_does_not_hold(size, data):
    tree = Tree(size)
    index = data.draw(st.integers(0, size - 1))
    top = tree.frontier.root()
    leaf, proof = tree.leaves[index], inclusion_proof(index, size, tree.read)
    bit = data.draw(st.integers(0, 255))
    at = data.draw(st.integers(0, len(proof) - 1))
    for forged in (
        (flip(leaf, bit), index, size, proof, top),
        (leaf, index, size, proof, flip(top, bit)),
        (leaf, index, size, [*proof[:at], flip(proof[at], bit), *proof[at + 1 :]], top),
        (leaf, index, size, [*proof[:at], *proof[at + 1 :]], top),
        (leaf, index, size, [*proof, leaf], top),
        (leaf, index, size, [], top),
        (leaf, index ^ 1, size, proof, top),
        (leaf, size, size, proof, top),
        (leaf, -1, size, proof, top),
        (leaf, index, 0, proof, top),
        (leaf, index, size, [step[:31] for step in proof], top),
        (leaf, index, size, proof * 65, top),
    ):
        with pytest.raises(TrustError):
            verify_inclusion(*forged)


@given(st.integers(1, 200), st.data())
def test_many_proofs_are_those_of_each_and_share_what_is_read(size, data):
    tree = Tree(size)
    first = data.draw(st.integers(0, size - 1))
    indices = data.draw(st.permutations(range(first, min(size, first + 40))))
    tree.reads.clear()
    many = Inclusions(indices, size)
    proofs = many.proofs(tree.read)
    assert set(tree.reads) == many.needs()
    assert len(tree.reads) <= 2 * len(indices) + 4 * size.bit_length()
    whole = [path_by_definition(index, tree.leaves) for index in indices]
    assert proofs[0] == whole[0]
    assert [path[: len(proof)] for path, proof in zip(whole, proofs, strict=True)] == proofs
    assert sum(map(len, proofs)) <= len(indices) + 2 * size.bit_length()
    assert Inclusions([], size).proofs(tree.read) == []
    for some in (proofs, whole):
        proven = Proven(size, tree.frontier.root())
        for index, proof in zip(indices, some, strict=True):
            proven.check(tree.leaves[index], index, proof)


@given(st.integers(2, 130), st.data())
def test_what_was_proven_vouches_for_nothing_else(size, data):
    """A batch in which one event was dropped, doubled, moved or altered: the good proofs around it do not carry it."""
    tree = Tree(size)
    proven = Proven(size, tree.frontier.root())
    shown = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    for index, proof in zip(
        sorted(shown), Inclusions(sorted(shown), size).proofs(tree.read), strict=True
    ):
        proven.check(tree.leaves[index], index, proof)
    index = data.draw(st.integers(0, size - 1))
    leaf, proof = tree.leaves[index], inclusion_proof(index, size, tree.read)
    bit = data.draw(st.integers(0, 255))
    place = data.draw(st.integers(0, size - 1).filter(lambda other: other != index))
    neighbour = inclusion_proof(place, size, tree.read)
    for forged in (
        (flip(leaf, bit), index, proof),
        (leaf, place, proof),
        (leaf, place, neighbour),
        (tree.leaves[place], index, proof),
        (tree.leaves[place], index, neighbour),
        (flip(leaf, bit), index, [flip(step, bit) for step in proof]),
        (flip(leaf, bit), index, []),
        (tree.leaves[place], index, []),
        (leaf, index, [step[:31] for step in proof]),
        (leaf, size, proof),
        (leaf, -1, proof),
    ):
        for _ in range(2):  # and what was refused has taught nothing
            with pytest.raises(TrustError):
                proven.check(*forged)
    proven.check(leaf, index, proof)


@given(st.integers(2, 130), st.data())
def test_a_rewritten_log_cannot_be_shown_to_be_consistent(size, data):
    tree = Tree(size)
    first = data.draw(st.integers(1, size - 1))
    old, new = root(tree.leaves[:first]), tree.frontier.root()
    proof = consistency_proof(first, size, tree.read)
    bit = data.draw(st.integers(0, 255))
    at = data.draw(st.integers(0, len(proof) - 1))
    changed = data.draw(st.integers(0, first - 1))
    leaves = [*tree.leaves]
    leaves[changed] = flip(leaves[changed], bit)
    for forged in (
        (first, size, flip(old, bit), new, proof),
        (first, size, old, flip(new, bit), proof),
        (first, size, old, root(leaves), proof),
        (first, size, old, new, [*proof[:at], flip(proof[at], bit), *proof[at + 1 :]]),
        (first, size, old, new, proof[:-1]),
        (first, size, old, new, [*proof, old]),
        (first, size, old, new, []),
        (size, first, new, old, proof),
        (size, size, new, flip(new, bit), []),
        (size, size, new, new, proof),
        (0, size, old, new, []),
        (0, size, EMPTY_ROOT, new, proof),
        (-1, size, old, new, proof),
    ):
        with pytest.raises(TrustError):
            verify_consistency(*forged)


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(-2, 1 << 70),
    st.integers(-2, 1 << 70),
    st.lists(st.binary(max_size=33), max_size=70),
    st.binary(max_size=33),
)
def test_any_proof_is_refused_with_one_error(leaf, index, size, proof, top):
    assume(leaf != top)  # the root of a single leaf is that leaf
    with pytest.raises(TrustError):
        verify_inclusion(leaf, index, size, proof, top)
    if index != size:
        with pytest.raises(TrustError):
            verify_consistency(max(1, index), size, leaf, top, proof)


def test_a_proof_for_what_is_not_there_is_not_made():
    read = Tree(8).read
    for index, size in ((3, 3), (-1, 3), (0, 0)):
        with pytest.raises(TrustError):
            inclusion_proof(index, size, read)
        with pytest.raises(TrustError):
            Inclusions([0, index], size)
    for first, second in ((4, 3), (-1, 3)):
        with pytest.raises(TrustError):
            consistency_proof(first, second, read)


def test_a_proof_that_is_too_long_is_not_even_hashed():
    steps = [bytes(32)] * (MAX_PROOF + 1)
    with pytest.raises(TrustError, match="at most 64 hashes"):
        verify_inclusion(bytes(32), 0, 1 << 62, steps, bytes(32))
    with pytest.raises(TrustError, match="at most 64 hashes"):
        verify_consistency(1 << 61, 1 << 62, bytes(32), bytes(32), steps)
