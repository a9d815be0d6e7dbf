"""Makes and takes back what `edge.host_changes` names, on this machine: rtnetlink, nft, /proc/sys, files, resolvectl.

Each works with CAP_NET_ADMIN alone, except files and /proc/sys, which need their own permission.
"""

import asyncio
import errno
import ipaddress
import os
import shutil
from pathlib import Path

from msgspec.structs import replace

from edge.host_changes import (
    MAX_FILE,
    AddressChange,
    Change,
    FileChange,
    HostError,
    NftChange,
    ResolvedChange,
    RouteChange,
    RuleChange,
    SettingChange,
)
from edge.netlink import Netlink, Route, Rule
from overlay.aio.lifecycle import describe

_GONE = frozenset(
    {errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
)
"""What the kernel says when there is nothing to take back."""
SECONDS = 10.0
"""For a program that is asked."""
SETTINGS = Path("/proc/sys/net")


class HostMachine:
    """Implements `edge.host_changes.Machine`. Blocks as long as the kernel needs, which is microseconds."""

    async def prepared(self, change: Change) -> Change:
        """Machine."""
        try:
            if isinstance(change, SettingChange):
                return replace(change, before=_setting(change.path).read_text().strip())
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
                await run("nft", "-f", "-", text=_ruleset(change))
            elif isinstance(change, ResolvedChange):
                await self._route_names(change)
            elif isinstance(change, SettingChange):
                _setting(change.path).write_text(change.value)
            elif isinstance(change, FileChange):
                write_in_place(Path(change.path), change.content)
            else:
                with Netlink() as kernel:
                    _make(kernel, change)
        except PermissionError as error:
            raise HostError(
                f"the {change} cannot be made: {describe(error)} The edge needs CAP_NET_ADMIN "
                "(deploy/systemd/ferrule-edge.service gives it)."
            ) from None
        except OSError as error:
            raise HostError(f"the {change} cannot be made: {describe(error)}") from None

    async def undo(self, change: Change) -> bool:
        """Machine."""
        try:
            if isinstance(change, NftChange):
                return await self._drop_table(change)
            if isinstance(change, ResolvedChange):
                return await self._unroute_names(change)
            if isinstance(change, SettingChange):
                return _restore_setting(change)
            if isinstance(change, FileChange):
                return _restore_file(change)
            with Netlink() as kernel:
                _unmake(kernel, change)
        except OSError as error:
            if error.errno not in _GONE:
                raise HostError(f"the {change} cannot be taken back: {describe(error)}") from None
        return True

    async def _drop_table(self, change: NftChange) -> bool:
        # Declared first, so that deleting what is not there is no error.
        text = (
            f"table {change.family} {change.table}\ndelete table {change.family} {change.table}\n"
        )
        await run("nft", "-f", "-", text=text)
        return True

    async def _route_names(self, change: ResolvedChange) -> None:
        await run("resolvectl", "dns", change.interface, change.server)
        await run("resolvectl", "domain", change.interface, f"~{change.domain}")
        await run("resolvectl", "default-route", change.interface, "no")

    async def _unroute_names(self, change: ResolvedChange) -> bool:
        with Netlink() as kernel:
            if all(link.name != change.interface for link in kernel.links()):
                return True  # resolved forgets an interface that is gone
        try:
            await run("resolvectl", "revert", change.interface)
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
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        raise HostError(f"{program} is not installed on this host")
    pipe = asyncio.subprocess.PIPE
    feed = pipe if text else asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        path, *arguments, stdin=feed, stdout=pipe, stderr=pipe
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


async def resolved_runs() -> bool:
    """Whether systemd-resolved answers on the bus."""
    try:
        await run("resolvectl", "status", "--no-pager")
    except HostError:
        return False
    return True


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


def _unmake(kernel: Netlink, change: AddressChange | RouteChange | RuleChange) -> None:
    if isinstance(change, AddressChange):
        index = kernel.index(change.interface)
        kernel.drop_address(index, ipaddress.ip_interface(change.address))
    elif isinstance(change, RouteChange):
        kernel.drop_route(_route(kernel, change))
    else:
        kernel.drop_rule(Rule(change.version, change.mark, change.table, change.priority))


def _ruleset(change: NftChange) -> str:
    name = f"table {change.family} {change.table}"
    return f"{name}\ndelete {name}\n{name} {{\n{change.rules}\n}}\n"


def _setting(path: str) -> Path:
    """Raises: PermissionError: not one of the network."""
    whole = Path(path)
    if not whole.is_relative_to(SETTINGS) or ".." in whole.parts:
        raise PermissionError(errno.EPERM, f"only what is below {SETTINGS} is changed", path)
    return whole


def _restore_setting(change: SettingChange) -> bool:
    path = _setting(change.path)
    now = path.read_text().strip()
    if now == change.value and now != change.before:
        path.write_text(change.before)
    return now in (change.value, change.before)


def _restore_file(change: FileChange) -> bool:
    path = Path(change.path)
    now = read_small(path)
    # A crash in the middle of writing leaves the beginning of our text, or nothing.
    ours = change.content.startswith(now)
    if now != change.before and ours:
        write_in_place(path, change.before)
    return ours or now == change.before
