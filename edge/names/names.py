"""Names of what is intercepted: the resolver runs, and the host asks it, as long as the device is there."""

import asyncio
import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge.intercept.sources import KnownSources
from edge.intercept.table import Table
from edge.keeping import keep
from edge.machine.changes import HostChanges
from edge.machine.netlink import Netlink
from edge.names.answers import Zone
from edge.names.asking import Asking
from edge.names.directory import GrantedNames
from edge.names.host_names import RESOLV_CONF
from edge.names.server import Resolver
from overlay.aio.lifecycle import describe
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.control.messages import Assignments
from overlay.errors import FerruleError
from overlay.policy.interception import Address

RETRY = 1.0
"""Seconds between two looks at whether the device is there, and at what others have written."""
NO_PORT = {
    errno.EACCES: "The edge needs CAP_NET_BIND_SERVICE for port 53 "
    "(deploy/systemd/ferrule-edge.service.d/intercept.conf gives it).",
    errno.EADDRINUSE: "Another DNS server listens at all addresses of this host (ss -lnp sport = 53): let it listen at "
    "its own only.",
}
"""What to do where the resolver cannot listen."""

_log = get_logger("names")


class Names:
    """Keeps resolver and host equal to what is assigned. With nothing intercepted nothing runs and nothing is changed.

    Args:
        table: what is intercepted now.
        granted: whether a principal may reach anything of an asset now.
        changes: of this host.
        interface: the device to which intercepted addresses are routed now.
        mode: one of `edge.names.host_names.MODES`.
    """

    def __init__(
        self,
        world: World,
        table: Callable[[], Table],
        granted: Callable[[str, str], bool],
        changes: HostChanges,
        interface: Callable[[], str],
        mode: str = "auto",
        resolv_conf: Path = RESOLV_CONF,
    ) -> None:
        self.problem = ""
        self._world = world
        self._table = table
        self._granted = granted
        self._interface = interface
        self._mode = mode
        self._resolv_conf = resolv_conf
        self._domain = ""
        self._changes = changes
        self._resolver: Resolver | None = None
        self._asking: Asking | None = None
        self._kernel: Netlink | None = None
        self._at: tuple[int, tuple[Address, ...]] = (0, ())
        """The number of the device, and the resolver's addresses."""
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def assign(self, assignments: Assignments | None) -> None:
        """What is intercepted from now on; None for nothing."""
        used = assignments is not None and bool(assignments.intercepts)
        self._domain = assignments.domain if assignments is not None and used else ""
        if self._task is None and self._domain:
            self._task = spawn(keep(self._once, self._changed, RETRY, self._tell), "names")
        self._changed.set()

    def look(self) -> None:
        """The device may be there by now."""
        self._changed.set()

    def status(self) -> dict[str, Any] | None:
        """For `ferrule-edge status`; None where there is nothing to answer. `mode`: None while the host asks not."""
        resolver, asking = self._resolver, self._asking
        if resolver is None or asking is None:
            return self._told(self._domain, None, self.problem, ()) if self.problem else None
        chosen = asking.chosen
        mode, why = (None, asking.problem) if chosen is None else (chosen.mode, chosen.why)
        return self._told(resolver.zone.domain, mode, why, self._at[1]) | resolver.counts

    def _told(
        self, domain: str, mode: str | None, why: str, at: Sequence[Address]
    ) -> dict[str, Any]:
        told = {"domain": domain, "mode": mode, "why": why, "at": [*map(str, at)]}
        return told | {"problems": self._own_problems()}

    def problems(self) -> list[str]:
        """What does not work, each in a sentence."""
        return [*self._own_problems(), *self._changes.left]

    def _own_problems(self) -> list[str]:
        asked = "" if self._asking is None else self._asking.problem
        return [one for one in (self.problem, asked) if one]

    async def close(self) -> None:
        """Answer nothing more, and take back what was changed."""
        await cancel(self._task)
        self._task = None
        try:
            await self._stop()
        except OSError as error:  # the journal has it: the next start takes it back
            self._tell(describe(error))

    def _tell(self, why: str) -> None:
        self.problem = f"names are not answered: {why}" if why else ""
        if why:
            _log.error("names.failed", reason=why)

    async def _once(self) -> None:
        try:
            await self._make()
        except (FerruleError, OSError):
            await self._stop()
            raise

    async def _make(self) -> None:
        link, addresses = self._device() if self._domain else (0, ())
        pools = self._table().pools
        resolver, asking = self._resolver, self._asking
        if resolver is not None and asking is not None:
            zone = resolver.zone
            if (zone.domain, zone.pools, self._at) == (self._domain, pools, (link, addresses)):
                await self._ask(resolver, asking)
                return
            await self._stop()
        if addresses and pools is not None:
            versions = frozenset(one.version for one in addresses)
            zone = Zone(self._domain, pools, self._directory_of_names(), versions)
            await self._start(zone, link, addresses)

    async def _ask(self, resolver: Resolver, asking: Asking) -> None:
        await asking.look()
        resolver.others = asking.others

    def _device(self) -> tuple[int, tuple[Address, ...]]:
        """The number of the device that has our addresses, and which of them; 0 while there is none."""
        pools = self._table().pools
        if pools is None:
            return 0, ()
        kernel, name = self._rtnetlink(), self._interface()
        up = {one.number for one in kernel.links() if one.name == name and one.up}
        there = {one.ip for number, one in kernel.addresses() if number in up}
        found = tuple(one for one in (pools.v4[1], pools.v6[1]) if one in there)
        return (up.pop(), found) if found else (0, ())

    def _directory_of_names(self) -> GrantedNames:
        return GrantedNames(self._table, self._granted, self._sources().mac)

    def _sources(self) -> KnownSources:
        return KnownSources(self._rtnetlink(), asyncio.get_running_loop().time)

    def _rtnetlink(self) -> Netlink:
        self._kernel = self._kernel or Netlink()
        return self._kernel

    async def _start(self, zone: Zone, link: int, addresses: tuple[Address, ...]) -> None:
        servers = [str(one) for one in addresses]
        asking = Asking(
            self._changes, self._mode, self._interface(), servers, zone.domain, self._resolv_conf
        )
        resolver = Resolver(self._world, zone, self._sources().own, asking.others)
        try:
            await resolver.start(*servers)
        except OSError as error:
            help_ = NO_PORT.get(error.errno or 0, "")
            raise FerruleError(f"{describe(error)} {help_}".strip()) from None
        self._resolver, self._asking, self._at = resolver, asking, (link, addresses)
        _log.info("names.up", domain=zone.domain, at=" and ".join(servers))
        await self._ask(resolver, asking)

    async def _stop(self) -> None:
        resolver, self._resolver = self._resolver, None
        asking, self._asking = self._asking, None
        self._at = (0, ())
        try:
            if asking is not None:
                await asking.close()
        finally:  # also with a full disk
            if resolver is not None:
                await resolver.close()
            if self._kernel is not None:
                self._kernel.close()
                self._kernel = None
