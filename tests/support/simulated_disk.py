"""A disk in memory that keeps only what was synced when its host crashes."""

import asyncio
import errno
import random
from collections.abc import Callable
from pathlib import Path


class SimulatedDisk:
    """`Disk`. What a call that had not returned leaves behind after a crash is drawn from the seed.

    `full`: writes fail with ENOSPC and change nothing. `latency`: seconds of each fsync.
    """

    def __init__(self, rng: random.Random) -> None:
        self.files: dict[Path, bytes] = {}
        self.full = False
        self.latency = 0.002
        self._rng = rng
        self._locked: set[Path] = set()
        self._pending: list[tuple[Path, bytes, bool]] = []
        self._turn = asyncio.Lock()

    async def read(self, path: Path) -> bytes | None:
        return self.files.get(path)

    async def replace(self, path: Path, data: bytes) -> None:
        await self._write(path, bytes(data), append=False)

    async def append(self, path: Path, data: bytes) -> None:
        await self._write(path, bytes(data), append=True)

    async def remove(self, path: Path) -> None:
        async with self._turn:
            await asyncio.sleep(self.latency)
            self.files.pop(path, None)

    def lock(self, directory: Path) -> Callable[[], None]:
        if directory in self._locked:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        self._locked.add(directory)
        return lambda: self._locked.discard(directory)

    def crash(self) -> None:
        """Power lost: of what was being written, all, nothing, or (of an append) a part is there."""
        for path, data, append in self._pending:
            luck = self._rng.randrange(3)
            if append and luck:
                kept = data if luck == 1 else data[: self._rng.randrange(len(data) + 1)]
                self.files[path] = self.files.get(path, b"") + kept
            elif not append and luck == 1:
                self.files[path] = data
        self._pending.clear()
        self._locked.clear()
        self._turn = asyncio.Lock()

    async def _write(self, path: Path, data: bytes, *, append: bool) -> None:
        async with self._turn:
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device", str(path))
            write = (path, data, append)
            self._pending.append(write)
            await asyncio.sleep(self.latency)
            self._pending.remove(write)
            self.files[path] = self.files.get(path, b"") + data if append else data
