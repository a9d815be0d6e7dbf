"""What an edge changes on its host, and the journal of it: written before each change, so that whatever ends the edge,
its next start or `ferrule-edge doctor --repair` takes everything back.
"""

import asyncio
import errno
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Protocol

from msgspec import Meta, structs

from overlay.aio.logs import get_logger
from overlay.aio.shelf import Shelf
from overlay.aio.world import World
from overlay.errors import FerruleError
from overlay.wire.codec import Body

JOURNAL = "host-changes"
MAX_CHANGES = 100_000
TURN = 64
"""Changes made or taken back in one turn of the event loop."""
MAX_FILE = 64 * 1024
"""Bytes of a file that is changed in place."""
MAX_RULES = 16 * 1024 * 1024
"""Characters of a table's rules, of its sets, and of all their elements."""
MAX_LEFT = 100
"""Things that `HostChanges.left` names; of more, those that came last."""
Text = Annotated[str, Meta(max_length=4096)]

_log = get_logger("host")


class AddressChange(Body, frozen=True, tag=1):
    """An address (with prefix length) on an interface."""

    interface: Text
    address: Text

    def __str__(self) -> str:
        return f"address {self.address} on {self.interface}"


class RouteChange(Body, frozen=True, tag=2):
    """A route to an interface; `kind` as in `edge.machine.netlink.Route`."""

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
    """A whole nftables table of ours: `rules` is what stands between its braces. It takes the place of an older one.

    `sets` (and chains without a hook) and their `elements`, by name of the set, are there before any packet meets
    `rules`: the kernel makes rules effective a moment before the elements of sets that came with them.
    """

    family: Text
    table: Text
    rules: Annotated[str, Meta(max_length=MAX_RULES)]
    sets: Annotated[str, Meta(max_length=MAX_RULES)] = ""
    elements: Annotated[tuple[tuple[Text, tuple[Text, ...]], ...], Meta(max_length=0)] = ()
    """Not in the journal: a table is removed as a whole."""

    def __str__(self) -> str:
        return f"nftables table {self.family} {self.table}"


class FileChange(Body, frozen=True, tag=6):
    """A file that is written in place, since it may be mounted; `before` is what it was."""

    path: Text
    content: Annotated[bytes, Meta(max_length=MAX_FILE)]
    before: Annotated[bytes, Meta(max_length=MAX_FILE)] = b""

    def __str__(self) -> str:
        return f"file {self.path}"


class ResolvedChange(Body, frozen=True, tag=7):
    """systemd-resolved asks `servers` for names below `domain`, by way of an interface."""

    interface: Text
    servers: Annotated[tuple[Text, ...], Meta(max_length=2)]
    domain: Text

    def __str__(self) -> str:
        return f"names below {self.domain} by {self.interface} in systemd-resolved"


Change = AddressChange | RouteChange | RuleChange | NftChange | FileChange | ResolvedChange


AT_ONCE = AddressChange, RouteChange, RuleChange
"""What the kernel makes as a whole or not at all; it refuses what is there already."""


class Journal(Body, frozen=True):
    """What has been changed, oldest first; whether the last `begun` of it were made is not known."""

    changes: Annotated[tuple[Change, ...], Meta(max_length=MAX_CHANGES)] = ()
    begun: Annotated[int, Meta(ge=0, le=MAX_CHANGES)] = 0


class HostError(FerruleError):
    """The host did not take a change; the text says which and what to do."""


class RefusedError(HostError):
    """It did not take even the beginning of it: there is nothing to take back."""


class Machine(Protocol):
    """The host itself; `edge.machine.making.HostMachine` is it."""

    def session(self) -> AbstractContextManager[None]:
        """Inside it `do`, `undo` and `renew` may be called; what they need in common is made once."""
        ...

    async def prepared(self, change: Change) -> Change:
        """The change with what was there before. Raises: HostError: it cannot be read."""
        ...

    async def do(self, change: Change) -> None:
        """Make it. Raises: HostError: it is not made."""
        ...

    async def undo(self, change: Change, *, sure: bool) -> bool:
        """Take it back, where it is still as it was made; False when it is, or may be, somebody else's.

        Nothing to take back is no error. Raises: HostError: it stays.

        Args:
            change: what to take back.
            sure: it was made; else that must be seen from what is there.
        """
        ...

    async def alter(self, old: NftChange, new: NftChange) -> bool:
        """Make a table of ours that is there another one by its elements, at once; False where that cannot be.

        Raises: HostError: it is as it was.
        """
        ...

    async def renew(self, change: Change) -> bool:
        """Make it again where somebody has removed it; whether that was so. Files are left to whoever writes them.

        Raises: HostError: it cannot be seen, or not be made.
        """
        ...


class HostChanges:
    """The changes of one edge, one after the other, whoever asks for them. Made by `open`."""

    def __init__(self, shelf: Shelf, machine: Machine, found: Journal) -> None:
        self._shelf = shelf
        self._machine = machine
        sure = len(found.changes) - found.begun
        self._made = {change: at < sure for at, change in enumerate(found.changes)}
        """All in the journal, oldest first, and whether it is known that it was made."""
        self._left: dict[str, str] = {}
        """Why, by what it is: two contents of one file are one thing."""
        self._unwanted: set[Change] = set()
        """Of them, those that could not be taken back."""
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
        return cls(shelf, machine, kept or Journal())

    @property
    def owner(self) -> str:
        """Whose they are: no two edges of a host have one folder."""
        return os.path.abspath(self._shelf.path(JOURNAL).parent)

    @property
    def made(self) -> tuple[Change, ...]:
        """What is changed now, or was about to be when an earlier run ended; oldest first."""
        return tuple(self._made)

    @property
    def left(self) -> list[str]:
        """What could not be taken back, each in a sentence: `MAX_LEFT` at most, until it can."""
        return list(self._left.values())

    async def apply(self, changes: Sequence[Change]) -> tuple[Change, ...]:
        """Make all of these or none; what `undo` wants to take them back.

        Raises:
            HostError: one was not made, and those before it are taken back. OSError: the journal cannot be written.
        """
        async with self._turn:
            with self._machine.session():
                prepared = [await self._machine.prepared(change) for change in changes]
                await self._note(prepared)
                tried: list[Change] = []
                try:
                    for change in prepared:
                        await _others(len(tried))
                        tried.append(change)
                        await self._do(change, tried)
                        self._made[change] = True
                    await self._write()
                except BaseException:
                    # What was not made is not taken back: it may be there already, and somebody else's.
                    for change in prepared[len(tried) :]:
                        del self._made[change]
                    await self._undo(tried)
                    raise
        return tuple(prepared)

    async def _do(self, change: Change, tried: list[Change]) -> None:
        """Make it; one that is refused as a whole is not among what was `tried`: there is nothing to take back."""
        try:
            await self._machine.do(change)
        except HostError as error:
            if isinstance(change, AT_ONCE) or isinstance(error, RefusedError):
                tried.pop()
            raise

    async def replace(self, old: Change, new: Change) -> Change:
        """Put other content into the same file, at once; what `undo` wants to take it back.

        Raises:
            HostError: it is not made, and the old one is as it was. OSError: the journal cannot be written.
        """
        async with self._turn:
            with self._machine.session():
                new = await self._machine.prepared(new)
                await self._note([new])
                try:
                    await self._machine.do(new)
                except BaseException:
                    del self._made[new]
                    await self._write()
                    raise
                self._made[new] = True
                if old != new:
                    self._made.pop(old, None)
                await self._write()
        return new

    async def alter(self, old: NftChange, new: NftChange) -> bool:
        """Make a table another one by its elements, while it meets packets; False where that cannot be.

        Raises: HostError: it is as it was, or is not there any more.
        """
        async with self._turn:
            with self._machine.session():
                if old not in self._made or not await self._machine.alter(old, new):
                    return False
                # The journal says the same of both.
                self._made = {new if one == old else one: sure for one, sure in self._made.items()}
        return True

    async def put_back(self, *, tables_only: bool = False) -> list[Change]:
        """Make again what somebody has removed, for example by `nft flush ruleset`, or a network manager that starts
        again and takes away whatever it does not know; which these are.

        Args:
            tables_only: look at tables of nftables only.

        Raises:
            HostError: one cannot be made again; the others are.
        """
        back: list[Change] = []
        failed: HostError | None = None
        async with self._turn:
            with self._machine.session():
                wanted = [
                    one
                    for one in self._made
                    if one not in self._unwanted and (isinstance(one, NftChange) or not tables_only)
                ]
                for at, change in enumerate(wanted):
                    await _others(at)
                    try:
                        removed = await self._machine.renew(change)
                    except HostError as error:
                        failed = failed or error
                        continue
                    if removed:
                        back.append(change)
                        _log.warning("host.removed", what=str(change), then="it is made again")
        if failed is not None:
            raise failed
        return back

    async def undo(self, changes: Sequence[Change] | None = None) -> None:
        """Take these back, or all, the newest first. What cannot be taken back stays in the journal and in `left`.

        Raises:
            OSError: the journal cannot be written; the next start takes the same back again, which does no harm.
        """
        async with self._turn:
            with self._machine.session():
                await self._undo(self.made if changes is None else changes)

    async def _note(self, prepared: list[Change]) -> None:
        """Write down that these are about to be made."""
        for change in prepared:
            if self._made.get(change) and isinstance(change, AT_ONCE):
                raise HostError(f"the {change} cannot be made: {os.strerror(errno.EEXIST)}")
        if len(self._made) + len(prepared) > MAX_CHANGES:
            raise HostError(f"more than {MAX_CHANGES} changes of this host are not made")
        before = dict(self._made)
        try:
            for at, change in enumerate(prepared):
                await _others(at)
                self._made.pop(change, None)
                self._made[change] = False
                self._unwanted.discard(change)
            await self._write()
        except BaseException:
            self._made = before
            raise

    async def _undo(self, changes: Sequence[Change]) -> None:
        for at, change in enumerate(reversed(changes)):
            await _others(at)
            if change not in self._made:
                continue
            try:
                ours = await self._machine.undo(change, sure=self._made[change])
            except HostError as error:
                _log.error("host.left", what=str(change), reason=str(error))
                self._unwanted.add(change)
                self._leave(change, str(error))
                continue
            if ours:
                self._left.pop(str(change), None)
            else:
                _log.warning("host.foreign", what=str(change))
                self._leave(
                    change, f"{change}: somebody else's, or not known whose, so it is left as it is"
                )
            del self._made[change]
            self._unwanted.discard(change)
        await self._write()

    def _leave(self, change: Change, why: str) -> None:
        self._left.pop(str(change), None)
        self._left[str(change)] = why
        if len(self._left) > MAX_LEFT:
            del self._left[next(iter(self._left))]

    async def _write(self) -> None:
        if self._made:
            # Those of which nothing is known are the newest: one batch goes on at a time.
            begun = sum(not sure for sure in self._made.values())
            await self._shelf.save(JOURNAL, Journal(tuple(map(_kept, self._made)), begun))
        else:
            await self._shelf.remove(JOURNAL)


def _kept(change: Change) -> Change:
    """As it is in the journal."""
    return structs.replace(change, elements=()) if isinstance(change, NftChange) else change


async def _others(turn: int) -> None:
    """Let others have the event loop from time to time: there may be ten thousand changes."""
    if turn % TURN == TURN - 1:
        await asyncio.sleep(0)
