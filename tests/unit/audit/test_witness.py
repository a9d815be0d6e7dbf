"""What a node finds in the tree heads that it sees: forks, logs that shrink, histories that were changed (U-11 to U-14)."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.audit import merkle
from overlay.audit.merkle import Frontier, NodeId, consistency_proof, leaf_hash
from overlay.audit.witness import (
    FORK_EVERY,
    FORKS,
    HEARD,
    Memory,
    Question,
    Seen,
    Witness,
    contradiction,
)
from overlay.errors import DecodeError, TrustError
from overlay.wire.bodies import TreeHead
from overlay.wire.codec import decode, encode

MINUTE = 60_000_000


class Log:
    """A log, honest as long as nobody calls `rewritten`; the time of a head is its size in minutes."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)

    def seen(self, size: int, time: int | None = None) -> Seen:
        root = merkle.root([leaf_hash(word.encode()) for word in self.words[:size]])
        head = TreeHead(size, root, size * MINUTE if time is None else time)
        return Seen(encode(head), head)

    def prove(self, sizes: tuple[int, ...], size: int) -> list[list[bytes]]:
        tree, nodes = Frontier(), dict[NodeId, bytes]()
        for word in self.words[:size]:
            nodes.update(tree.append(leaf_hash(word.encode())))
        return [consistency_proof(one, size, nodes.__getitem__) for one in sizes]

    def rewritten(self, at: int) -> "Log":
        return Log(*self.words[:at], "a lie", *self.words[at + 1 :])


LOG = Log(*(f"record {number}" for number in range(200)))


def read(signed: bytes) -> Seen:
    return Seen(signed, decode(TreeHead, signed))


def seen_by(*seen: Seen, now: int = 0) -> Witness:
    witness = Witness()
    for one in seen:
        assert witness.offer(one, now) is None
    return witness


def asked(witness: Witness) -> Question:
    question = witness.question()
    assert question is not None
    return question


def kept(witness: Witness) -> Memory:
    memory = witness.memory()
    assert memory is not None
    return memory


def ask(witness: Witness, log: Log, now: int = 0):
    question = asked(witness)
    return witness.answered(question, log.prove(question.sizes, question.target.head.size), now)


# --- two heads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (LOG.seen(8), LOG.seen(8), ""),
        (LOG.seen(8), LOG.seen(8, time=1), ""),
        (LOG.seen(8), LOG.seen(9), ""),
        (LOG.seen(8, time=5), LOG.seen(9, time=5), ""),
        (LOG.seen(8), LOG.rewritten(9).seen(20), ""),
        (LOG.seen(8), LOG.rewritten(3).seen(8), "two tree heads of 8 records"),
        (LOG.seen(8), LOG.rewritten(3).seen(8, time=1), "two tree heads of 8 records"),
        (LOG.seen(9, time=5), LOG.seen(8, time=6), "the log had 9 records, and later it had 8"),
    ],
)
def test_two_heads_contradict_each_other_or_not(one, other, says):
    for pair in ((one, other), (other, one)):
        found = contradiction(pair[0].head, pair[1].head)
        assert found.startswith(says)
        assert bool(found) == bool(says)


# --- an honest log --------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 200), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_an_honest_log_is_never_accused(sizes, order: random.Random):
    witness = Witness()
    for size in sizes:
        assert witness.offer(LOG.seen(size), 0, relied=order.random() < 0.5) is None
        if order.random() < 0.3 and witness.question() is not None:
            assert ask(witness, LOG) is None
    while witness.question() is not None:
        assert ask(witness, LOG) is None
    assert witness.base == LOG.seen(max(sizes))
    assert witness.waiting == ()
    assert (witness.forks, witness.further) == ([], 0)


def test_a_head_that_comes_while_a_question_is_open_is_asked_next_time():
    witness = seen_by(LOG.seen(5), LOG.seen(9))
    question = asked(witness)
    assert (question.sizes, question.target) == ((5,), LOG.seen(9))
    witness.offer(LOG.seen(20), 0)
    assert witness.answered(question, LOG.prove((5,), 9), 0) is None
    assert witness.base == LOG.seen(9)
    assert asked(witness).sizes == (9,)


def test_with_one_head_there_is_nothing_to_ask():
    assert Witness().question() is None
    assert Witness().newest is None
    assert Witness().memory() is None
    assert seen_by(LOG.seen(5)).question() is None


# --- forks ----------------------------------------------------------------------------------------


def test_another_root_of_the_same_size_is_a_fork():
    witness, lie = seen_by(LOG.seen(8)), LOG.rewritten(2).seen(8, time=9 * MINUTE)
    fork = witness.offer(lie, 77)
    assert fork is not None
    assert (fork.found, fork.older, fork.newer) == (77, LOG.seen(8).signed, lie.signed)
    assert witness.forks == [fork]
    assert witness.base == lie, "what happens to the newer log is to be found, too"


def test_a_log_that_shrinks_is_a_fork():
    witness = seen_by(LOG.seen(8), LOG.seen(20))
    fork = witness.offer(LOG.seen(12, time=21 * MINUTE), 0)
    assert fork is not None
    assert fork.reason == "the log had 20 records, and later it had 12"


def test_an_old_head_is_no_fork_and_is_proven_like_any_other():
    witness = seen_by(LOG.seen(20), LOG.seen(8), LOG.seen(13))
    assert asked(witness).sizes == (8, 13)
    assert ask(witness, LOG) is None
    assert witness.question() is None


def test_a_history_that_was_changed_cannot_be_proven():
    witness, lie = seen_by(LOG.seen(8)), LOG.rewritten(2)
    assert witness.offer(lie.seen(30), 0) is None, "nothing in the heads themselves tells it"
    fork = ask(witness, lie)
    assert fork is not None
    assert fork.reason == "the log of 30 records does not begin with the 8 that it had before"
    assert witness.base == lie.seen(30)


def test_a_log_that_was_set_back_and_has_grown_again_is_found():
    before, after = LOG, Log(*LOG.words[:10], *(f"other {number}" for number in range(50)))
    witness = seen_by(before.seen(20))
    assert witness.offer(after.seen(40), 0) is None
    assert ask(witness, after) is not None


def test_a_head_that_was_only_shown_to_a_neighbour_is_found():
    lie = LOG.rewritten(2)
    witness = seen_by(LOG.seen(8), LOG.seen(30), lie.seen(20))
    fork = ask(witness, LOG)
    assert fork is not None
    assert fork.older == lie.seen(20).signed
    assert witness.base == LOG.seen(30), "what this node itself is told holds together"
    assert witness.question() is None


def test_a_head_that_this_node_relied_on_is_found_although_what_follows_fits_again():
    lie = LOG.rewritten(2)
    witness = seen_by(LOG.seen(8))
    witness.offer(lie.seen(15), 0, relied=True)
    witness.offer(LOG.seen(30), 0)
    assert ask(witness, LOG) is not None


@pytest.mark.parametrize("proofs", [[], [[], []], [[b"\0" * 32]], [[b"short"]]])
def test_proofs_that_prove_nothing_are_no_proofs(proofs):
    witness = seen_by(LOG.seen(8), LOG.seen(30))
    assert witness.answered(asked(witness), proofs, 0) is not None


def test_a_controller_that_says_it_cannot_prove_it_gives_itself_away():
    witness = seen_by(LOG.seen(8), LOG.seen(30))
    fork = witness.refused(asked(witness), "the log has 12 records, not 30 " + "x" * 200, 5)
    assert fork is not None
    assert "no proof that the log of 30 records begins with the 8" in fork.reason
    assert len(fork.reason) <= limits.MAX_REASON
    assert witness.question() is None


# --- bounds, and one alarm for one fork -----------------------------------------------------------


def test_one_fork_is_one_alarm_however_often_it_shows():
    witness, lie = seen_by(LOG.seen(100)), LOG.rewritten(50)
    assert witness.offer(lie.seen(60, time=101 * MINUTE), 0) is not None
    for size in range(61, 90):
        assert witness.offer(lie.seen(size, time=(41 + size) * MINUTE), 0) is None
    assert witness.offer(LOG.seen(95), FORK_EVERY) is None, "a neighbour that was away"
    assert len(witness.forks) == 1
    assert witness.further == 1
    assert ask(witness, lie) is None, "the new log goes on to be watched"


def test_a_fork_of_the_new_log_is_another():
    witness, lie = seen_by(LOG.seen(100)), LOG.rewritten(50)
    assert witness.offer(lie.seen(60, time=101 * MINUTE), 0) is not None
    again = LOG.rewritten(20).seen(40, time=102 * MINUTE)
    assert witness.offer(again, FORK_EVERY - 1) is None
    assert witness.further == 1
    assert witness.offer(LOG.rewritten(7).seen(30, time=103 * MINUTE), FORK_EVERY) is not None


def test_forks_on_disk_are_bounded_and_the_first_stay():
    witness = seen_by(LOG.seen(200, time=0))
    for number in range(1, FORKS + 4):
        witness.offer(LOG.seen(200 - number, time=number), number * FORK_EVERY)
    assert len(witness.forks) == FORKS
    assert witness.forks[0].older == LOG.seen(200, time=0).signed
    assert witness.further == 3
    assert len(kept(witness).forks) == FORKS


def test_heads_in_memory_are_bounded_and_what_others_say_leaves_room():
    witness = seen_by(LOG.seen(1))
    for size in range(2, 2 + HEARD + 10):
        witness.offer(LOG.seen(size), 0)
    assert (len(witness.waiting), witness.displaced, witness.crowded) == (HEARD, 10, True)
    for size in range(100, 100 + limits.HEADS_PER_QUESTION):
        witness.offer(LOG.seen(size), 0, relied=True)
    assert len(witness.waiting) == limits.HEADS_PER_QUESTION
    assert len(asked(witness).heads) <= limits.HEADS_PER_QUESTION
    assert witness.newest == LOG.seen(99 + limits.HEADS_PER_QUESTION)


# --- disk -----------------------------------------------------------------------------------------


def test_what_was_kept_is_what_was_seen():
    witness = seen_by(LOG.seen(100))
    witness.offer(LOG.seen(60, time=101 * MINUTE), 5)
    witness.offer(LOG.seen(61, time=102 * MINUTE), 5)
    witness.offer(LOG.seen(59, time=103 * MINUTE), 5)
    again = Witness()
    again.restore(decode(Memory, encode(kept(witness))), read)
    assert again.memory() == witness.memory()
    assert again.further == 1
    assert again.offer(LOG.seen(98), FORK_EVERY + 5) is None, "it knows that fork"
    assert again.newest is not None
    assert again.knows(again.newest.signed)


def test_a_head_on_disk_that_does_not_hold_is_an_error_and_changes_nothing():
    def refuse(signed: bytes) -> Seen:
        raise TrustError("not signed by a controller")

    witness = Witness()
    with pytest.raises(TrustError):
        witness.restore(kept(seen_by(LOG.seen(3))), refuse)
    assert witness.memory() is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_memory_or_one_error(data):
    try:
        memory = decode(Memory, data)
    except DecodeError:
        return
    assert decode(Memory, encode(memory)) == memory


@given(st.data())
def test_any_proofs_and_heads_raise_nothing(data):
    witness = Witness()
    for _ in range(data.draw(st.integers(1, 6))):
        root = data.draw(st.binary(min_size=32, max_size=32))
        head = TreeHead(data.draw(st.integers(0, 1 << 63)), root, data.draw(st.integers(0, 99)))
        witness.offer(Seen(encode(head), head), 0)
    question = witness.question()
    if question is not None:
        proofs = data.draw(st.lists(st.lists(st.binary(max_size=33), max_size=66), max_size=6))
        witness.answered(question, proofs, 0)
    assert len(witness.forks) <= FORKS
