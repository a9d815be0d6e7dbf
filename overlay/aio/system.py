"""The world as it is: this machine's sockets, clocks, randomness and disk (`overlay.aio.world`)."""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from overlay.aio import sockets
from overlay.aio.event_loops import SystemEventLoops
from overlay.aio.world import (
    Clock,
    Connection,
    Datagrams,
    Disk,
    Entropy,
    EventLoops,
    Listener,
    Network,
    Received,
)

T = TypeVar("T")

_PRIVATE_FILE = 0o600
_PRIVATE_DIRECTORY = 0o700
LOCK_NAME = "lock"


class SystemNetwork:
    """`Network` on the machine's sockets."""

    async def connect(self, host: str, port: int, *, source: str = "") -> Connection:
        return await sockets.connect(host, port, source=source)

    def source(self, remote: tuple[str, int]) -> str:
        return sockets.source(remote)

    async def listen(
        self, host: str, port: int, accepted: Callable[[Connection], None]
    ) -> Listener:
        return await sockets.listen(host, port, accepted)

    async def datagrams(
        self,
        received: Received,
        *,
        local: tuple[str, int] | None = None,
        remote: tuple[str, int] | None = None,
        source: str = "",
        refused: Callable[[], None] | None = None,
    ) -> Datagrams:
        return await sockets.datagrams(
            received, local=local, remote=remote, source=source, refused=refused
        )


class SystemClock:
    """`Clock` on CLOCK_BOOTTIME and the wall clock."""

    def boot(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall(self) -> int:
        return time.time_ns() // 1000

    def cpu(self) -> float:
        return time.process_time()


class SystemEntropy:
    """`Entropy` from the kernel."""

    def bytes(self, count: int) -> bytes:
        return os.urandom(count)

    def uniform(self) -> float:
        return (int.from_bytes(os.urandom(7), "big") >> 3) / (1 << 53)


class SystemDisk:
    """`Disk` on the file system. One thread does all of it, so calls take effect in the order they were made."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk")

    async def read(self, path: Path) -> bytes | None:
        return await self._do(_read, path)

    async def replace(self, path: Path, data: bytes) -> None:
        await self._do(_replace, path, data)

    async def append(self, path: Path, data: bytes) -> None:
        await self._do(_append, path, data)

    async def remove(self, path: Path) -> None:
        await self._do(_remove, path)

    def lock(self, directory: Path) -> Callable[[], None]:
        directory.mkdir(mode=_PRIVATE_DIRECTORY, parents=True, exist_ok=True)
        if directory.stat().st_mode & 0o077:
            directory.chmod(_PRIVATE_DIRECTORY)
        descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT, _PRIVATE_FILE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise

        def release() -> None:
            with contextlib.suppress(OSError):
                os.close(descriptor)

        return release

    async def _do(self, work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


class System:
    """`World` on the machine."""

    def __init__(self) -> None:
        self._net = SystemNetwork()
        self._clock = SystemClock()
        self._entropy = SystemEntropy()
        self._disk = SystemDisk()
        self._loops = SystemEventLoops()

    @property
    def net(self) -> Network:
        return self._net

    @property
    def clock(self) -> Clock:
        return self._clock

    @property
    def entropy(self) -> Entropy:
        return self._entropy

    @property
    def disk(self) -> Disk:
        return self._disk

    @property
    def loops(self) -> EventLoops:
        return self._loops


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _replace(path: Path, data: bytes) -> None:
    beside = path.with_name(f".{path.name}.new")
    try:
        _write(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, data, os.fsync)
        beside.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise
    _sync_directory(path.parent)


def _append(path: Path, data: bytes) -> None:
    made = not path.exists()
    _write(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, data, os.fdatasync)
    if made:
        _sync_directory(path.parent)


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except FileNotFoundError:
        return
    _sync_directory(path.parent)


def _write(path: Path, flags: int, data: bytes, sync: Callable[[int], None]) -> None:
    """Write all of `data` or, when the disk is full, leave the file as long as it was."""
    descriptor = os.open(path, flags, _PRIVATE_FILE)
    try:
        before = os.fstat(descriptor).st_size
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            sync(descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(descriptor, before)
            error.filename = str(path)
            raise
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
