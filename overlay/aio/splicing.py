"""Moves the payload of large DATA frames from a link's socket into a pipe (`overlay.link.transfer`), for a router.

A frame is handed on only when all of it lies in pipe or memory, so that a member that stalls in the middle of a frame
stalls nobody else; after `PATIENCE` it loses the pipe as well.
"""

import os
from collections.abc import Callable, Sequence
from typing import Protocol

from overlay.aio.pipes import MOVE, Pipe, Piped, Pipes, read_out
from overlay.aio.world import Buffer, Connection
from overlay.link.reader import Reader
from overlay.link.transfer import Transfer
from overlay.wire.header import Header, Kind

LEAST = 64 * 1024
"""Payload that has not come with the header, from which on a splice costs less than two copies."""
PATIENCE = 1.0
"""Seconds that an incomplete frame may keep a pipe."""
_LEAN_READS = 16
"""After a large frame so many reads take only what is awaited, so that the next one can be spliced, too."""
_SCRATCH = 64 * 1024

_DATA = Kind.DATA


class SpliceConnection(Connection, Protocol):
    """A connection whose `fileno()` is a socket's."""

    def take_over(self, readable: Callable[[], None] | None) -> None:
        """Call this instead of reading; None: read again."""
        ...

    def write(self, parts: Sequence[Buffer], *, more: bool = False) -> int:
        """As `Connection.write`. `more`: other bytes follow at once, so that a short segment need not leave alone."""
        ...

    def notify(self) -> None:
        """Call the receiver's `writable` when more can be written by `fileno`."""
        ...

    def fail(self, error: OSError) -> None:
        """Whoever took over found the connection broken."""
        ...


class Splicer:
    """The incoming side of one link.

    Args:
        takes: may the payload of this DATA frame be spliced?
        complete: gets header and payload (in parts) of a complete frame.
        heard: told of every number of bytes that came; 0: the other side sends nothing more.
    """

    def __init__(
        self,
        connection: SpliceConnection,
        reader: Reader,
        pipes: Pipes,
        *,
        takes: Callable[[Header], bool],
        complete: Callable[[Header, list[Buffer | Piped]], None],
        heard: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._reader = reader
        self._pipes = pipes
        self._takes = takes
        self._complete = complete
        self._heard = heard
        self._lean = 0
        self._header: Header | None = None
        self._transfer: Transfer | None = None
        self._pipe: Pipe | None = None

    def fit(self, view: memoryview) -> memoryview:
        """How much of the receive buffer to use for the next read."""
        if not self._lean:
            return view
        self._lean -= 1
        return view[: self._reader.missing]

    def begin(self, now: float) -> None:
        """The reader has handed out all frames that are complete: is the next one large?"""
        header = self._reader.awaited
        if header is None or header.kind is not _DATA or self._reader.missing < LEAST:
            return
        if not self._takes(header):
            return
        pipe = self._pipes.take()
        if pipe is None:
            return
        self._lean = _LEAN_READS
        self._header, self._pipe = header, pipe
        self._transfer = Transfer(header.length, self._reader.skip(), now)
        self._connection.take_over(self._readable)
        self._run(told=False)

    def tick(self, now: float) -> None:
        """Time passes: a frame that takes long goes on in memory."""
        transfer, pipe = self._transfer, self._pipe
        if transfer is not None and pipe is not None and now - transfer.began >= PATIENCE:
            transfer.unpiped(read_out(pipe, transfer.piped))
            self._pipe = None
            self._pipes.give(pipe, empty=True)

    def stop(self) -> None:
        """The link is over."""
        if self._transfer is not None:
            if self._pipe is not None:
                self._pipes.give(self._pipe, empty=not self._transfer.piped)
            self._header = self._transfer = self._pipe = None
            self._connection.take_over(None)

    def _readable(self) -> None:
        self._run(told=True)

    def _run(self, *, told: bool) -> None:
        """Take what is there. `told`: the socket was said to have something."""
        transfer = self._transfer
        if transfer is None:
            return
        before = transfer.left
        try:
            ended = self._take(transfer, told=told)
        except OSError as error:
            self._connection.fail(error)
            return
        if transfer.left < before:
            self._heard(before - transfer.left)
        if ended:
            self._heard(0)
        elif not transfer.left:
            self._finish(transfer)

    def _take(self, transfer: Transfer, *, told: bool) -> bool:
        """True when the other side sends nothing more."""
        source = self._connection.fileno()
        while transfer.left:
            try:
                if not transfer.buffering and self._pipe is not None:
                    count = os.splice(source, self._pipe.writer, transfer.left, flags=MOVE)
                    if not count:
                        return True
                    transfer.moved(count)
                    told = False
                else:
                    data = os.read(source, min(transfer.left, _SCRATCH))
                    if not data:
                        return True
                    transfer.came(memoryview(data))
            except (BlockingIOError, InterruptedError):
                if not told or transfer.buffering:
                    return False
                transfer.refused()
        return False

    def _finish(self, transfer: Transfer) -> None:
        header, pipe = self._header, self._pipe
        self._header = self._transfer = self._pipe = None
        self._connection.take_over(None)
        parts: list[Buffer | Piped] = [transfer.before] if transfer.before else []
        if pipe is not None:
            parts.append(Piped(pipe, transfer.piped, self._pipes))
        if transfer.after:
            parts.append(transfer.after)
        if header is not None:
            self._complete(header, parts)
