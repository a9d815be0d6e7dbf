"""Network namespaces for tests: made, entered by a thread, and removed again."""

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.support.needs import need_program, need_root
from tests.support.secluded import NOBODY, own_resolvers

T = TypeVar("T")
_NEW_NET = 0x40000000
_MADE = Path("/run/netns")


@contextmanager
def namespace(suffix: str) -> Iterator[str]:
    """A fresh namespace whose loopback is up, with a resolv.conf of its own for `command_in`; its name."""
    need_root()
    ip = need_program("ip", "iproute2")
    name = f"frl-{os.getpid()}-{suffix}"
    subprocess.run([ip, "netns", "add", name], check=True)
    try:
        subprocess.run([ip, "-n", name, "link", "set", "lo", "up"], check=True)
        with own_resolvers(name, NOBODY):
            yield name
    finally:
        subprocess.run([ip, "netns", "del", name], check=False)


def ip(name: str, *arguments: str) -> str:
    """What `ip` says inside a namespace."""
    command = ["ip", "-n", name, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def command_in(name: str, *arguments: str) -> list[str]:
    """A command line that runs inside a namespace."""
    return ["ip", "netns", "exec", name, *arguments]


async def inside(name: str, work: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine on a loop of its own, in a thread inside a namespace; its sockets and children are there."""
    found: list[T] = []
    raised: list[BaseException] = []
    libc = ctypes.CDLL(None, use_errno=True)

    def run() -> None:
        try:
            with (_MADE / name).open() as file:
                if libc.setns(file.fileno(), _NEW_NET):
                    raise OSError(ctypes.get_errno(), "setns")
            found.append(asyncio.run(_awaited(work)))
        except BaseException as error:  # noqa: BLE001 - it is raised again by whoever waits
            raised.append(error)

    thread = threading.Thread(target=run, name=f"inside {name}")
    thread.start()
    await asyncio.to_thread(thread.join)
    if raised:
        raise raised[0]
    return found[0]


async def _awaited(work: Callable[[], Awaitable[T]]) -> T:
    return await work()
