"""Small files that must survive, in the program's own folder: each is written whole, and its damage is noticed.

A file is the line `ferrule-state-1`, the SHA-256 of what follows, and the MessagePack of one body.
"""

import asyncio
import hashlib
from pathlib import Path
from typing import TypeVar

from overlay.aio.logs import get_logger
from overlay.aio.tasks import spawn
from overlay.aio.world import World
from overlay.errors import DecodeError, FerruleError
from overlay.wire.codec import decode, encode

T = TypeVar("T")
MAGIC = b"ferrule-state-1\n"
_DIGEST = 32
RETRY_SECONDS = 1.0
"""Between attempts to write while the disk is full or failing."""

_log = get_logger("state")


class DamagedError(FerruleError):
    """A file that exists and cannot be used; the text names it and says what to do."""


def seal(body: object) -> bytes:
    """The bytes of a file."""
    data = encode(body)
    return MAGIC + hashlib.sha256(data).digest() + data


def unseal(kind: type[T], raw: bytes) -> T:
    """Read the bytes of a file.

    Raises:
        DecodeError: it was not written by `seal`, was changed since, or holds something else than `kind`.
    """
    start = len(MAGIC) + _DIGEST
    data = raw[start:]
    if not raw.startswith(MAGIC) or raw[len(MAGIC) : start] != hashlib.sha256(data).digest():
        raise DecodeError("the checksum does not hold")
    return decode(kind, data)


class Shelf:
    """The files of one folder. `save` returns after fsync; `later` writes behind, only the newest of each name."""

    def __init__(self, world: World, directory: Path) -> None:
        self._disk = world.disk
        self._directory = directory
        self._waiting: dict[str, bytes] = {}
        self._writer: asyncio.Task[None] | None = None
        self.problem = ""
        """Why the last write failed, as one sentence; empty while all is well."""

    def path(self, name: str) -> Path:
        """Where a file is."""
        return self._directory / name

    async def load(self, name: str, kind: type[T], *, without: str) -> T | None:
        """The body kept under `name`; None when there is no such file.

        `without` finishes the sentence "move it away to ..." in the error.

        Raises:
            DamagedError: the file was damaged.
        """
        raw = await self._disk.read(self.path(name))
        if raw is None:
            return None
        try:
            return unseal(kind, raw)
        except DecodeError:
            raise DamagedError(
                f"{self.path(name)} is damaged: restore it from a backup, or move it away to {without}."
            ) from None

    async def save(self, name: str, body: object) -> None:
        """Write now.

        Raises:
            OSError: it could not be written; what was there before is still there.
        """
        self._waiting.pop(name, None)
        await self._disk.replace(self.path(name), seal(body))

    async def remove(self, name: str) -> None:
        """Remove a file. Raises: OSError."""
        self._waiting.pop(name, None)
        await self._disk.remove(self.path(name))

    def later(self, name: str, body: object) -> None:
        """Write soon and keep trying; of several bodies for one name only the newest counts."""
        self._waiting[name] = seal(body)
        if self._writer is None or self._writer.done():
            self._writer = spawn(self._write(), "state writer")

    async def flush(self) -> None:
        """Wait until all that `later` was given is on disk, or the disk has failed; log what was not written."""
        writer = self._writer
        if writer is not None and not writer.done():
            if self.problem:
                writer.cancel()
            await asyncio.wait([writer])
        for name, data in list(self._waiting.items()):
            try:
                await self._disk.replace(self.path(name), data)
            except OSError as error:
                _log.error("state.unwritten", file=str(self.path(name)), error=_why(error))
        self._waiting.clear()

    async def _write(self) -> None:
        while self._waiting:
            name = next(iter(self._waiting))
            data = self._waiting[name]
            try:
                await self._disk.replace(self.path(name), data)
            except OSError as error:
                if not self.problem:
                    _log.error("state.unwritten", file=str(self.path(name)), error=_why(error))
                self.problem = f"{self.path(name)} cannot be written: {_why(error)}."
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if self.problem:
                _log.info("state.written", file=str(self.path(name)))
                self.problem = ""
            if self._waiting.get(name) is data:
                del self._waiting[name]


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
