"""Hosting with the caller's own address (G-06): the asset sees who calls, and its answers come back to this edge.

A socket may be bound to an address of another host (IP_TRANSPARENT, CAP_NET_ADMIN). What the asset answers is not for
an address of this host, so the kernel would forward it: packets of such sockets get a mark, and what has it is local.
"""

import asyncio
import ipaddress
from collections.abc import Iterable

from edge.intercept.steering import Marks, table_name
from edge.keeping import keep
from edge.machine.changes import Change, HostChanges, NftChange, RouteChange, RuleChange
from edge.machine.netlink import LOCAL
from overlay.aio.lifecycle import describe
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn
from overlay.control.messages import HostedEntry
from overlay.errors import FerruleError
from overlay.policy.grant import Grant

RETRY = 5.0
"""Seconds until rules that could not be made are tried again."""
PRIORITY = 26_226
"""Of the rule: before the main table, after that of the host's own addresses."""
_TABLE_OF_ALL = 99
"""In place of an IP version: the table of nftables, which is for both and comes last."""
_EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}

_log = get_logger("hosting")


class ForeignError(FerruleError):
    """The caller's address cannot be kept; the text says why and what to do."""


class ForeignAddresses:
    """Keeps the host's rules equal to what hosted services need; none where no service wants its caller's address.

    Args:
        changes: the journal of this host's changes; None where the edge changes nothing (`edge.library`).
        interface: of this edge. Two edges of one host differ by it or by their folder, and so does all that they make.
    """

    def __init__(self, changes: HostChanges | None, interface: str) -> None:
        self.problem = ""
        self._changes = changes
        owner = "" if changes is None else changes.owner
        self._mark = Marks.of(f"{interface} {owner} hosting").number
        self._table_name = table_name(interface, f"hosting_{self._mark & 0xFFFF:04x}")
        self._versions: frozenset[int] = frozenset()
        self._made: dict[int, tuple[Change, ...]] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def assign(self, entries: Iterable[HostedEntry]) -> None:
        """What is hosted from now on."""
        found = (_version(entry.address) for entry in entries if entry.keep_source)
        self._versions = frozenset(version for version in found if version)
        self._changed.set()
        if self._task is None and self._versions:
            self._task = spawn(
                keep(self._once, self._changed, RETRY, self._tell), "foreign addresses"
            )

    def of(self, entry: HostedEntry, grant: Grant | None) -> str:
        """As which address the asset of `entry` is dialled; empty: this host's own.

        Raises:
            ForeignError: it is to be the caller's, and cannot be.
        """
        if not entry.keep_source:
            return ""
        if grant is None or not grant.who_address:
            who = "the caller" if grant is None else grant.who
            raise ForeignError(
                f"{entry.service} sees its caller's address, and none is recorded for {who}: "
                f"ferrule set asset {who} address=IP"
            )
        version = _version(grant.who_address)
        if version != _version(entry.address):
            raise ForeignError(
                f"{entry.service} sees its caller's address, but {grant.who_address} of {grant.who} "
                f"and {entry.address} are not of one IP version"
            )
        if not {version, _TABLE_OF_ALL} <= self._made.keys():
            raise ForeignError(self.problem or "the rules for callers' addresses are not made yet")
        return grant.who_address

    async def close(self) -> None:
        """Take the rules back."""
        await cancel(self._task)
        self._task = None
        self._versions = frozenset()
        try:
            await self._once()
        except (FerruleError, OSError) as error:  # the journal has it: the next start takes it back
            self._tell(describe(error) if isinstance(error, OSError) else str(error))

    # --- inside -------------------------------------------------------------------------------------

    def _tell(self, why: str) -> None:
        self.problem = f"callers' addresses cannot be kept: {why}" if why else ""
        if why:
            _log.error("hosting.failed", reason=why)

    async def _once(self) -> None:
        """Raises: FerruleError, OSError: a rule is not made; those before it stay."""
        if self._changes is None:
            if self._versions:
                raise ForeignError("a program that is an edge itself changes nothing on its host")
            return
        wanted = {_TABLE_OF_ALL, *self._versions} if self._versions else set()
        for version in sorted(self._made.keys() - wanted):
            await self._changes.undo(self._made.pop(version))
        # Routes first: they fail where somebody else has them, and a table of nftables is not put over another.
        for version in sorted(wanted - self._made.keys()):
            self._made[version] = await self._changes.apply(self._rules(version))
        if self._made:
            await self._changes.put_back()

    def _rules(self, version: int) -> tuple[Change, ...]:
        mark = self._mark
        if version == _TABLE_OF_ALL:
            rules = (
                "chain answers {\n  type filter hook prerouting priority mangle;\n"
                f"  socket transparent 1 meta mark set {mark:#x}\n}}"
            )
            return (NftChange("inet", self._table_name, rules),)
        return (
            RouteChange(_EVERYTHING[version], "lo", mark, LOCAL),
            RuleChange(version, mark, mark, PRIORITY),
        )


def _version(address: str) -> int:
    """4 or 6; 0 for what is neither address nor subnet."""
    try:
        return ipaddress.ip_interface(address).version
    except ValueError:
        return 0
