"""A host in memory, in place of `edge.host_changes.HostChanges`."""

from collections.abc import Iterable
from typing import Any

from edge.host_changes import HostError


class Changes:
    """Takes changes, or says why not; all together, and in the order in which they are made."""

    def __init__(self, owner: str = "/var/lib/ferrule/edge") -> None:
        self.owner = owner
        self.made: list[Any] = []
        self.refuses = ""

    async def apply(self, changes: Iterable[Any]) -> tuple[Any, ...]:
        if self.refuses:
            raise HostError(self.refuses)
        self.made += changes
        return tuple(changes)

    async def replace(self, old: Any, new: Any) -> None:
        if self.refuses:
            raise HostError(self.refuses)
        self.made.remove(old)
        self.made.append(new)

    async def undo(self, changes: Iterable[Any]) -> None:
        for one in changes:
            self.made.remove(one)
