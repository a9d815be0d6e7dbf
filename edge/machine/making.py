"""Makes and takes back what `edge.machine.changes` names, on this machine: rtnetlink, nft, files, resolvectl.

The kernel's need CAP_NET_ADMIN alone. Files need their own permission, and systemd-resolved asks polkit, which looks at
the user and at no capability.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from msgspec.structs import replace

from edge.machine import nft
from edge.machine.changes import (
    AT_ONCE,
    MAX_FILE,
    AddressChange,
    Change,
    FileChange,
    HostError,
    NftChange,
    RefusedError,
    ResolvedChange,
    RouteChange,
    RuleChange,
)
from edge.machine.netfilter import table_exists
from edge.machine.netlink import MAIN_TABLE, PROTOCOL, Netlink, Network, Route, Rule
from overlay.aio.lifecycle import describe
from overlay.aio.tasks import finish

_GONE = frozenset(
    {errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
)
"""What the kernel says when there is nothing to take back."""
SECONDS = 10.0
"""For a program that is asked."""
_DENIED = frozenset({errno.EPERM, errno.EACCES, errno.EROFS})
NO_CAPABILITY = (
    "The edge needs CAP_NET_ADMIN (deploy/systemd/ferrule-edge.service.d/intercept.conf gives it)."
)
NO_FILE = (
    "The edge's user, or its service, may not write it: deploy/systemd/ferrule-edge.service.d/resolv-conf.conf lets it "
    "(restart the edge where another program has put a new file in its place), or choose --names none."
)
NO_NFT = "nft is not installed on this host: install it (Debian: nftables)"
NO_POLKIT = (
    "polkit does not let the edge's user do that: install polkitd and deploy/polkit/ferrule-edge.rules "
    "(deploy/README.md), or choose --names none"
)
_ASKS_POLKIT = re.compile(
    r"authentication required|access denied|permission denied|not authorized", re.IGNORECASE
)
"""What systemd-resolved answers where polkit says no, asks for a password, or is not there."""


class HostMachine:
    """Implements `edge.machine.changes.Machine`. Blocks as long as the kernel needs, which is microseconds."""

    def __init__(self) -> None:
        self._kernel: Netlink | None = None
        self._there: set[Network] | None = None

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Machine: one socket to the kernel for all of its changes, of the namespace in which it is used."""
        try:
            yield
        finally:
            kernel, self._kernel, self._there = self._kernel, None, None
            if kernel is not None:
                kernel.close()

    def _rtnetlink(self) -> Netlink:
        self._kernel = self._kernel or Netlink()
        return self._kernel

    async def prepared(self, change: Change) -> Change:
        """Machine."""
        try:
            if isinstance(change, FileChange):
                before = read_small(Path(change.path))
                return replace(change, before=before)
        except OSError as error:
            raise HostError(f"{change} cannot be changed: {describe(error)}") from None
        return change

    async def do(self, change: Change) -> None:
        """Machine."""
        try:
            if isinstance(change, NftChange):
                await self._make_table(change)
            elif isinstance(change, ResolvedChange):
                await self._route_names(change)
            elif isinstance(change, FileChange):
                write_in_place(Path(change.path), change.content)
            else:
                _make(self._rtnetlink(), change)
        except OSError as error:
            words = [f"the {change} cannot be made:", describe(error)]
            if error.errno in _DENIED:
                words.append(NO_FILE if isinstance(change, FileChange) else NO_CAPABILITY)
            raise HostError(" ".join(words)) from None

    async def undo(self, change: Change, *, sure: bool) -> bool:
        """Machine."""
        try:
            if isinstance(change, NftChange):
                return await self._drop_table(change)
            if isinstance(change, ResolvedChange):
                return await self._unroute_names(change)
            if isinstance(change, FileChange):
                return _restore_file(change)
            return _unmake(self._rtnetlink(), change, sure=sure)
        except HostError as error:  # of a program, which does not know what for
            raise HostError(f"the {change} cannot be taken back: {error}") from None
        except OSError as error:
            if error.errno not in _GONE:
                raise HostError(f"the {change} cannot be taken back: {describe(error)}") from None
        return True

    async def renew(self, change: Change) -> bool:
        """Machine."""
        try:
            if isinstance(change, NftChange):
                if table_exists(change.family, change.table):
                    return False
                await self.do(change)
                return True
            if isinstance(change, RouteChange) and change.table == MAIN_TABLE:
                if ipaddress.ip_network(change.destination) in await self._routes():
                    return False
            elif not isinstance(change, AT_ONCE):
                return False
            _make(self._rtnetlink(), change)
        except FileExistsError:
            return False
        except OSError as error:
            raise HostError(f"the {change} cannot be made again: {describe(error)}") from None
        return True

    async def _routes(self) -> set[Network]:
        """Where the main table leads to, asked once in a session and elsewhere: there may be ten thousand."""
        if self._there is None:
            self._there = await asyncio.to_thread(_destinations)
        return self._there

    async def alter(self, old: NftChange, new: NftChange) -> bool:
        """Machine."""
        text = await asyncio.to_thread(nft.altered, old, new)  # there may be ten thousands
        if text is None:
            return False
        if text:
            await run("nft", "-f", "-", text=text)
        return True

    async def _make_table(self, change: NftChange) -> None:
        if _where("nft") is None:
            raise RefusedError(NO_NFT)
        if not change.sets:
            await run("nft", "-f", "-", text=nft.removed(change) + nft.hooked(change))
            return
        await run("nft", "-f", "-", text=nft.filled(change))
        try:
            await run("nft", "-f", "-", text=nft.hooked(change))
        except BaseException:
            await finish(self._drop_table(change), "a table without rules")
            raise

    async def _drop_table(self, change: NftChange) -> bool:
        await run("nft", "-f", "-", text=nft.removed(change))
        return True

    async def _route_names(self, change: ResolvedChange) -> None:
        at = change.interface
        await _resolvectl("dns", at, *change.servers)
        try:
            await _resolvectl("domain", at, f"~{change.domain}")
            await _resolvectl("default-route", at, "no")
        except RefusedError as error:
            raise HostError(str(error)) from None  # the beginning is made

    async def _unroute_names(self, change: ResolvedChange) -> bool:
        if all(link.name != change.interface for link in self._rtnetlink().links()):
            return True  # resolved forgets an interface that is gone
        try:
            await _resolvectl("revert", change.interface)
        except HostError:
            if await resolved_runs():
                raise
        return True


def read_small(path: Path) -> bytes:
    """A file of at most `MAX_FILE` bytes. Raises: OSError: EFBIG: it is larger."""
    with path.open("rb") as file:
        content = file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return content


def write_in_place(path: Path, content: bytes) -> None:
    """Replace what is in the file, and keep the file: it may be mounted or linked."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def run(program: str, *arguments: str, text: str = "") -> str:
    """What a program of this host prints.

    Raises:
        HostError: it is missing, fails, or takes longer than `SECONDS`; with what it says.
    """
    path = _where(program)
    if path is None:
        raise HostError(f"{program} is not installed on this host")
    pipe = asyncio.subprocess.PIPE
    feed = pipe if text else asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        path, *arguments, stdin=feed, stdout=pipe, stderr=pipe, env=os.environ | {"LC_ALL": "C"}
    )
    try:
        async with asyncio.timeout(SECONDS):
            out, said = await process.communicate(text.encode() if text else None)
    except BaseException as error:
        if process.returncode is None:
            process.kill()
            await process.wait()
        if isinstance(error, TimeoutError):
            raise HostError(f"{program} does not answer within {SECONDS:.0f} s") from None
        raise
    if process.returncode:
        lines = said.decode("utf-8", "replace").strip().splitlines() or [
            f"exit {process.returncode}"
        ]
        raise HostError(f"{program} {' '.join(arguments[:2])}: {lines[0][:300]}")
    return out.decode("utf-8", "replace")


def _where(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


async def _resolvectl(*arguments: str) -> None:
    """Raises: HostError. RefusedError: polkit does not allow it."""
    try:
        await run("resolvectl", *arguments)
    except HostError as error:
        if _ASKS_POLKIT.search(str(error)):
            raise RefusedError(f"{error} {NO_POLKIT}") from None
        raise


async def resolved_runs() -> bool:
    """Whether systemd-resolved answers on the bus."""
    try:
        await run("resolvectl", "status", "--no-pager")
    except HostError:
        return False
    return True


def _destinations() -> set[Network]:
    with Netlink() as kernel:
        return {one.destination for one in kernel.routes()}


def _route(kernel: Netlink, change: RouteChange) -> Route:
    destination = ipaddress.ip_network(change.destination)
    index = kernel.index(change.interface)
    return Route(destination, index, table=change.table, kind=change.kind)


def _make(kernel: Netlink, change: AddressChange | RouteChange | RuleChange) -> None:
    if isinstance(change, AddressChange):
        index = kernel.index(change.interface)
        kernel.add_address(index, ipaddress.ip_interface(change.address))
    elif isinstance(change, RouteChange):
        kernel.add_route(_route(kernel, change))
    else:
        kernel.add_rule(Rule(change.version, change.mark, change.table, change.priority))


def _unmake(
    kernel: Netlink, change: AddressChange | RouteChange | RuleChange, *, sure: bool
) -> bool:
    """Routes and rules are dropped only where an edge made them; of addresses only newer kernels (5.18) can say it."""
    if isinstance(change, AddressChange):
        index, address = kernel.index(change.interface), ipaddress.ip_interface(change.address)
        if not sure and kernel.whose(index, address) != PROTOCOL:
            return kernel.whose(index, address) is None
        kernel.drop_address(index, address)
    elif isinstance(change, RouteChange):
        kernel.drop_route(_route(kernel, change))
    else:
        kernel.drop_rule(Rule(change.version, change.mark, change.table, change.priority))
    return True


def _restore_file(change: FileChange) -> bool:
    path = Path(change.path)
    now = read_small(path)
    # A crash in the middle of writing leaves the beginning of our text, or nothing.
    ours = change.content.startswith(now)
    if now != change.before and ours:
        write_in_place(path, change.before)
    return ours or now == change.before
