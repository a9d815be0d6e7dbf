"""What a node remembers of the audit log's tree heads, and what it finds in them (docs/protocol/audit.md, U-11 to
U-14). Pure.

An honest log only grows, and the times of its heads never fall. So two signed heads can contradict each other at
once; any others are compared by a consistency proof (RFC 9162 §2.1.4) that the controller has to give. The first
head that a node ever sees is believed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from overlay import limits
from overlay.audit.merkle import verify_consistency
from overlay.errors import TrustError
from overlay.wire.bodies import Micros, Reason, SignedHead, TreeHead
from overlay.wire.codec import Body

FORKS = 8
"""Forks that a node keeps for good, oldest first; more are counted."""
FORK_EVERY = 3600 * 1_000_000
"""A log that is forked goes on contradicting itself: another fork is kept after so long at the earliest (µs)."""
HEARD = limits.HEADS_PER_QUESTION // 2
"""Heads that others told and that are not proven yet; the other half of the places is for those that this node relies
on."""


class Fork(Body, frozen=True):
    """Two signed heads that no honest log has both, `found` at that plant time; `older` is the one that was signed
    first."""

    found: Micros
    older: SignedHead
    newer: SignedHead
    reason: Reason


class Memory(Body, frozen=True):
    """A witness on disk: the newest head that everything before it leads to, those that wait for a proof, forks."""

    base: SignedHead
    waiting: Annotated[tuple[SignedHead, ...], Meta(max_length=limits.HEADS_PER_QUESTION)]
    forks: Annotated[tuple[Fork, ...], Meta(max_length=FORKS)]
    further: Annotated[int, Meta(ge=0)] = 0


@dataclass(frozen=True)
class Seen:
    """A head whose signature was checked, with its signed bytes."""

    signed: bytes
    head: TreeHead


@dataclass(frozen=True)
class Question:
    """Does the log of `target` begin with each of `heads`?"""

    heads: tuple[Seen, ...]
    target: Seen

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of `heads`, smallest first."""
        return tuple(one.head.size for one in self.heads)


def contradiction(one: TreeHead, other: TreeHead) -> str:
    """Why no honest log has both heads; empty where it can have."""
    older, newer = sorted((one, other), key=lambda head: head.time)
    if one.size == other.size:
        if one.root == other.root:
            return ""
        return f"two tree heads of {one.size} records have different roots"
    if older.time < newer.time and newer.size < older.size:
        return f"the log had {older.size} records, and later it had {newer.size}"
    return ""


class Witness:
    """The heads that one node has seen. All that is given to it was signed by a controller of the plant."""

    def __init__(self) -> None:
        self.base: Seen | None = None
        """The newest head that the log was proven to lead to, from the first that was ever seen."""
        self.forks: list[Fork] = []
        """Those that are kept, oldest first."""
        self.further = 0
        """Contradictions that were counted only."""
        self.displaced = 0
        """Heads that had no place, and were not proven."""
        self._waiting: dict[int, Seen] = {}
        self._old: list[int] = []

    @property
    def newest(self) -> Seen | None:
        """The largest head that was seen."""
        known = self._known()
        return max(known, key=lambda one: one.head.size) if known else None

    @property
    def waiting(self) -> tuple[Seen, ...]:
        """Heads that are not proven yet, smallest first."""
        return tuple(self._waiting[size] for size in sorted(self._waiting))

    @property
    def crowded(self) -> bool:
        """So many wait that it is time to ask."""
        return len(self._waiting) >= HEARD

    def knows(self, signed: bytes) -> bool:
        """Exactly these bytes are among the heads that are remembered."""
        return any(one.signed == signed for one in self._known())

    def restore(self, memory: Memory, read: Callable[[bytes], Seen]) -> None:
        """Go on with what was kept; `read` checks a head and raises what it likes."""
        base = read(memory.base)
        waiting = {one.head.size: one for one in map(read, memory.waiting)}
        self._old = [read(fork.older).head.time for fork in memory.forks]
        self.base, self._waiting = base, waiting
        self.forks, self.further = list(memory.forks), memory.further

    def offer(self, seen: Seen, now: int, *, relied: bool = False) -> Fork | None:
        """Take a head; a fork that it makes known and that is worth an alarm.

        `relied`: this node lets go of events because of it, so it is kept until it is proven. `now` in microseconds.
        """
        if self.base is None:
            self.base = seen
            return None
        for known in self._known():
            why = contradiction(known.head, seen.head)
            if why:
                return self._forked(known, seen, why, now)
        same = self._waiting.get(seen.head.size)
        if same is not None or seen.head.size == self.base.head.size:
            return None
        if len(self._waiting) >= (limits.HEADS_PER_QUESTION if relied else HEARD):
            self.displaced += 1
            if not relied:
                return None
            del self._waiting[min(self._waiting)]
        self._waiting[seen.head.size] = seen
        return None

    def question(self) -> Question | None:
        """What a controller has to prove now; None when nothing is open."""
        target = self.newest
        if target is None:
            return None
        heads = [one for one in self._known() if one.head.size < target.head.size]
        heads.sort(key=lambda one: one.head.size)
        kept = heads[: limits.HEADS_PER_QUESTION]
        return Question(tuple(kept), target) if kept else None

    def answered(
        self, question: Question, proofs: Sequence[Sequence[bytes]], now: int
    ) -> Fork | None:
        """Take a controller's proofs, one for each head of the question; a fork that they show, or that they do not
        disprove."""
        target, wrong = question.target, []
        whole = len(proofs) == len(question.heads)
        for at, one in enumerate(question.heads):
            try:
                verify_consistency(
                    one.head.size, target.head.size, one.head.root, target.head.root,
                    proofs[at] if whole else (),
                )  # fmt: skip
            except TrustError:
                wrong.append(one)
            else:
                self._forget(one)
                if one is self.base:
                    self.base = target
                    self._forget(target)
        forks = []
        for one in wrong:
            size, old = target.head.size, one.head.size
            why = f"the log of {size} records does not begin with the {old} that it had before"
            forks.append(self._forked(one, target, why, now))
        return next((fork for fork in forks if fork is not None), None)

    def refused(self, question: Question, reason: str, now: int) -> Fork | None:
        """The controller says that it cannot prove it."""
        old, size = question.heads[-1].head.size, question.target.head.size
        why = (
            f"no proof that the log of {size} records begins with the {old} it had before: {reason}"
        )
        for one in question.heads:
            self._forget(one)
        return self._forked(question.heads[-1], question.target, why, now)

    def memory(self) -> Memory | None:
        """For the disk; None before the first head."""
        if self.base is None:
            return None
        return Memory(
            self.base.signed,
            tuple(one.signed for one in self.waiting),
            tuple(self.forks),
            self.further,
        )

    def _known(self) -> list[Seen]:
        return ([] if self.base is None else [self.base]) + list(self._waiting.values())

    def _forget(self, seen: Seen) -> None:
        if self._waiting.get(seen.head.size) is seen:
            del self._waiting[seen.head.size]

    def _forked(self, one: Seen, other: Seen, why: str, now: int) -> Fork | None:
        """Keep the two as evidence. Where the base is the older of them the later is the base from now on, so that what
        happens to that log is found, too.

        A head from before a fork that is known says nothing new: somebody was away, and tells what was in force then.
        """
        older, newer = sorted((one, other), key=lambda seen: seen.head.time)
        self._forget(one)
        self._forget(other)
        if self.base is older:
            self.base = newer
            self._waiting.clear()
        if (
            any(older.head.time <= time for time in self._old)
            or len(self.forks) >= FORKS
            or (self.forks and now - self.forks[-1].found < FORK_EVERY)
        ):
            self.further += 1
            return None
        fork = Fork(now, older.signed, newer.signed, why[:200])
        self.forks.append(fork)
        self._old.append(older.head.time)
        return fork
