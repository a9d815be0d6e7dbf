"""Worker processes as the machine has them: how one is started, and how it hangs together with the first."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Protocol

from overlay import limits
from router.pair import make_pair

_PR_SET_PDEATHSIG = 1


class Process(Protocol):
    """A process that was started."""

    @property
    def pid(self) -> int:
        """Its number."""
        ...

    async def wait(self) -> int:
        """Its end: the exit code, negative for a signal."""
        ...

    def kill(self) -> None:
        """SIGKILL; nothing when it has ended."""
        ...


Starter = Callable[[int, int], Awaitable[tuple[Process, socket.socket]]]
"""(lane, lanes) to a new worker and this side's end of the pair."""


def starter(log_format: str) -> Starter:
    """Starts real workers. A fork of a running loop would share its descriptors and threads; a fresh interpreter shares
    the pair and nothing else.

    Raises (the starter): OSError: there can be no more processes or descriptors.
    """

    async def start(lane: int, lanes: int) -> tuple[Process, socket.socket]:
        here, there = make_pair()
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "router.worker",
                str(there.fileno()), str(lane), str(lanes), str(os.getpid()), log_format,
                stdin=asyncio.subprocess.DEVNULL, pass_fds=(there.fileno(),),
            )  # fmt: skip
        except BaseException:
            here.close()
            raise
        finally:
            there.close()
        return _Started(process), here

    return start


class _Started:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    async def wait(self) -> int:
        return await self._process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def die_with(parent: int) -> None:
    """Let the kernel end this process when `parent` is gone, however that came. The end of the pair says the same, but
    only to a loop that turns.

    Raises:
        SystemExit: it is gone already.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        raise SystemExit(0)


def yield_to_express() -> None:
    """Bulk is throughput: it need not preempt who answers polls (docs/performance.md, Router workers)."""
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def usual_workers() -> int:
    """How many workers a router has that was not told: cores that it may use minus one, at least one."""
    return max(1, min(len(os.sched_getaffinity(0)) - 1, limits.BULK_LANES))
