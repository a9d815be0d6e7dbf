"""A host in memory, in place of `edge.machine.changes.HostChanges`."""

import errno
import os
from collections.abc import Iterable
from typing import Any

from edge.machine.changes import HostError
from edge.machine.nft import altered


class Changes:
    """Takes changes, or says why not; all together, and in the order in which they are made."""

    def __init__(self, owner: str = "/var/lib/ferrule/edge") -> None:
        self.owner = owner
        self.made: list[Any] = []
        self.refuses = ""
        self.full = False
        """The journal cannot be written."""

    async def apply(self, changes: Iterable[Any]) -> tuple[Any, ...]:
        if self.refuses:
            raise HostError(self.refuses)
        self.made += changes
        return tuple(changes)

    async def replace(self, old: Any, new: Any) -> Any:
        if self.refuses:
            raise HostError(self.refuses)
        self.made.remove(old)
        self.made.append(new)
        return new

    async def alter(self, old: Any, new: Any) -> bool:
        if altered(old, new) is None:
            return False
        await self.replace(old, new)
        return True

    async def put_back(self) -> list[Any]:
        if self.refuses:
            raise HostError(self.refuses)
        return []

    async def undo(self, changes: Iterable[Any]) -> None:
        for one in changes:
            self.made.remove(one)
        if self.full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
