"""A set that remembers in which order its members came, for whatever is done to each of them in turn.

The order of a plain set depends on hash values and addresses in memory: two runs of a program would send the same
frames in another order, and no failure in a simulation could be replayed.
"""

from collections.abc import Iterable, Iterator, MutableSet
from typing import TypeVar

T = TypeVar("T")


class OrderedSet(MutableSet[T]):
    """Like a set; iterates in the order of adding."""

    __slots__ = ("_members",)

    def __init__(self, members: Iterable[T] = ()) -> None:
        self._members = dict.fromkeys(members)

    def __contains__(self, member: object) -> bool:
        return member in self._members

    def __iter__(self) -> Iterator[T]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def add(self, value: T) -> None:
        """Put it at the end; where it is already it stays in its place."""
        self._members.setdefault(value)

    def discard(self, value: T) -> None:
        """Take it out if it is there."""
        self._members.pop(value, None)
