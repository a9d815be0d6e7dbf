"""What an edge changes on its host, and the journal of it: written before each change, so that whatever ends the edge,
its next start or `ferrule-edge doctor --repair` takes everything back.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Protocol

from msgspec import Meta

from overlay.aio.logs import get_logger
from overlay.aio.shelf import Shelf
from overlay.aio.world import World
from overlay.errors import FerruleError
from overlay.wire.codec import Body

JOURNAL = "host-changes"
MAX_CHANGES = 100_000
MAX_FILE = 64 * 1024
"""Bytes of a file that is changed in place."""
Text = Annotated[str, Meta(max_length=4096)]

_log = get_logger("host")


class AddressChange(Body, frozen=True, tag=1):
    """An address (with prefix length) on an interface."""

    interface: Text
    address: Text

    def __str__(self) -> str:
        return f"address {self.address} on {self.interface}"


class RouteChange(Body, frozen=True, tag=2):
    """A route to an interface; `kind` as in `edge.netlink.Route`."""

    destination: Text
    interface: Text
    table: int = 254
    kind: int = 1

    def __str__(self) -> str:
        return f"route to {self.destination} by {self.interface}"


class RuleChange(Body, frozen=True, tag=3):
    """Packets with a mark are routed by a table."""

    version: int
    mark: int
    table: int
    priority: int

    def __str__(self) -> str:
        return f"IPv{self.version} routing rule for mark {self.mark:#x}"


class NftChange(Body, frozen=True, tag=4):
    """A whole nftables table of ours: `rules` is what stands between its braces. It takes the place of an older one."""

    family: Text
    table: Text
    rules: Annotated[str, Meta(max_length=4 * 1024 * 1024)]

    def __str__(self) -> str:
        return f"nftables table {self.family} {self.table}"


class SettingChange(Body, frozen=True, tag=5):
    """A setting below /proc/sys; `before` is what it was."""

    path: Text
    value: Text
    before: Text = ""

    def __str__(self) -> str:
        return f"{self.path} = {self.value}"


class FileChange(Body, frozen=True, tag=6):
    """A file that is written in place, since it may be mounted; `before` is what it was."""

    path: Text
    content: Annotated[bytes, Meta(max_length=MAX_FILE)]
    before: Annotated[bytes, Meta(max_length=MAX_FILE)] = b""

    def __str__(self) -> str:
        return f"file {self.path}"


class ResolvedChange(Body, frozen=True, tag=7):
    """systemd-resolved asks `server` for names below `domain`, by way of an interface."""

    interface: Text
    server: Text
    domain: Text

    def __str__(self) -> str:
        return f"names below {self.domain} by {self.interface} in systemd-resolved"


Change = (
    AddressChange
    | RouteChange
    | RuleChange
    | NftChange
    | SettingChange
    | FileChange
    | ResolvedChange
)


AT_ONCE = AddressChange, RouteChange, RuleChange
"""What the kernel makes as a whole or not at all; it refuses what is there already."""


class Journal(Body, frozen=True):
    """What has been changed, or was about to be; oldest first."""

    changes: Annotated[tuple[Change, ...], Meta(max_length=MAX_CHANGES)] = ()


class HostError(FerruleError):
    """The host did not take a change; the text says which and what to do."""


class Machine(Protocol):
    """The host itself; `edge.host_machine.HostMachine` is it."""

    async def prepared(self, change: Change) -> Change:
        """The change with what was there before. Raises: HostError: it cannot be read."""
        ...

    async def do(self, change: Change) -> None:
        """Make it. Raises: HostError: it is not made."""
        ...

    async def undo(self, change: Change) -> bool:
        """Take it back, where it is still as it was made; False when somebody else has changed it since.

        Nothing to take back is no error. Raises: HostError: it stays.
        """
        ...


class HostChanges:
    """The changes of one edge, one after the other, whoever asks for them. Made by `open`.

    `left` says what could not be taken back, each in a sentence.
    """

    def __init__(self, shelf: Shelf, machine: Machine, found: tuple[Change, ...]) -> None:
        self._shelf = shelf
        self._machine = machine
        self._made: list[Change] = list(found)
        self.left: list[str] = []
        self._turn = asyncio.Lock()

    @classmethod
    async def open(cls, world: World, directory: Path, machine: Machine) -> "HostChanges":
        """Read the journal in the edge's folder, whose lock the caller holds; `made` is what an earlier run left.

        Raises:
            DamagedError: the journal was damaged. OSError: it cannot be read.
        """
        shelf = Shelf(world, directory)
        kept = await shelf.load(
            JOURNAL, Journal, without="go on with what an earlier run left on this host"
        )
        return cls(shelf, machine, () if kept is None else kept.changes)

    @property
    def owner(self) -> str:
        """Whose they are: no two edges of a host have one folder."""
        return os.path.abspath(self._shelf.path(JOURNAL).parent)

    @property
    def made(self) -> tuple[Change, ...]:
        """What is changed now, oldest first."""
        return tuple(self._made)

    async def apply(self, changes: Sequence[Change]) -> tuple[Change, ...]:
        """Make all of these or none; what `undo` wants to take them back.

        Raises:
            HostError: one was not made, and those before it are taken back. OSError: the journal cannot be written.
        """
        async with self._turn:
            prepared = [await self._machine.prepared(change) for change in changes]
            await self._note(prepared)
            tried: list[Change] = []
            try:
                for change in prepared:
                    tried.append(change)
                    await self._do(change, tried)
            except BaseException:
                # What was not made is not taken back: it may be there already, and somebody else's.
                for change in reversed(prepared[len(tried) :]):
                    self._forget(change)
                await self._undo(tried)
                raise
        return tuple(prepared)

    async def _do(self, change: Change, tried: list[Change]) -> None:
        """Make it; one that is refused as a whole is not among what was `tried`: there is nothing to take back."""
        try:
            await self._machine.do(change)
        except HostError:
            if isinstance(change, AT_ONCE):
                tried.pop()
            raise

    async def replace(self, old: NftChange, new: NftChange) -> None:
        """Put one table of rules in the place of another of the same name, at once.

        Raises:
            HostError: it is not made, and the old one is as it was. OSError: the journal cannot be written.
        """
        async with self._turn:
            await self._note([new])
            try:
                await self._machine.do(new)
            except BaseException:
                self._forget(new)
                await self._write()
                raise
            self._forget(old)
            await self._write()

    async def undo(self, changes: Sequence[Change] | None = None) -> None:
        """Take these back, or all, the newest first. What cannot be taken back stays in the journal and in `left`.

        Raises:
            OSError: the journal cannot be written; the next start takes the same back again, which does no harm.
        """
        async with self._turn:
            await self._undo(self._made if changes is None else changes)

    async def _note(self, prepared: list[Change]) -> None:
        if len(self._made) + len(prepared) > MAX_CHANGES:
            raise HostError(f"more than {MAX_CHANGES} changes of this host are not made")
        before = len(self._made)
        self._made += prepared
        try:
            await self._write()
        except BaseException:
            del self._made[before:]
            raise

    async def _undo(self, changes: Sequence[Change]) -> None:
        for change in reversed(list(changes)):
            if change not in self._made:
                continue
            try:
                ours = await self._machine.undo(change)
            except HostError as error:
                _log.error("host.left", what=str(change), reason=str(error))
                self.left.append(str(error))
                continue
            if not ours:
                _log.warning("host.foreign", what=str(change))
                self.left.append(
                    f"{change}: somebody else has changed it since, so it is left as it is"
                )
            self._forget(change)
        await self._write()

    def _forget(self, change: Change) -> None:
        """The newest that is equal."""
        self._made.reverse()
        self._made.remove(change)
        self._made.reverse()

    async def _write(self) -> None:
        if self._made:
            await self._shelf.save(JOURNAL, Journal(tuple(self._made)))
        else:
            await self._shelf.remove(JOURNAL)
