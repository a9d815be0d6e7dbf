"""Names of what is intercepted: the resolver runs and the host asks it, as long as the device is there."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.host_changes import Change, HostChanges
from edge.intercept.table import Table
from edge.keeping import keep
from edge.names.answers import Zone
from edge.names.directory import GrantedNames
from edge.names.host_names import RESOLV_CONF, Chosen, choose
from edge.names.server import Resolver
from edge.netlink import Netlink
from edge.tun.sources import KnownSources
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.control.messages import Assignments
from overlay.errors import FerruleError

RETRY = 1.0
"""Seconds between two looks at whether the device is there."""

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
        self._made: tuple[Change, ...] = ()
        self._resolver: Resolver | None = None
        self._kernel: Netlink | None = None
        self._chosen: Chosen | None = None
        self._link = 0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def assign(self, assignments: Assignments | None) -> None:
        """What is intercepted from now on; None for nothing."""
        used = assignments is not None and bool(assignments.intercepts)
        self._domain = assignments.domain if assignments is not None and used else ""
        if self._task is None and self._domain:
            self._task = spawn(keep(self._once, self._changed, RETRY, self._tell), "names")
        self._changed.set()

    def status(self) -> dict[str, Any] | None:
        """For `ferrule-edge status`; None where no names are answered."""
        chosen, resolver = self._chosen, self._resolver
        if chosen is None or resolver is None:
            return None
        return {
            "domain": resolver.zone.domain,
            "mode": chosen.mode,
            "why": chosen.why,
        } | resolver.counts

    def problems(self) -> list[str]:
        """What does not work, each in a sentence."""
        return [*([self.problem] if self.problem else []), *self._changes.left]

    async def close(self) -> None:
        """Answer nothing more, and take back what was changed."""
        await cancel(self._task)
        self._task = None
        await self._stop()

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
        link = self._device() if self._domain else 0
        pools = self._table().pools
        resolver = self._resolver
        if resolver is not None:
            zone = resolver.zone
            if (zone.domain, zone.pools, self._link) == (self._domain, pools, link):
                return
            await self._stop()
        if not link or pools is None:
            return
        await self._start(Zone(self._domain, pools, self._directory_of_names()), link)

    def _device(self) -> int:
        """The number of the device that has our address; 0 while there is none."""
        pools = self._table().pools
        if pools is None:
            return 0
        self._kernel = self._kernel or Netlink()
        own = pools.v4[1]
        with_it = {number for number, one in self._kernel.addresses() if one.ip == own}
        named = [
            one.number for one in self._kernel.links() if one.name == self._interface() and one.up
        ]
        return named[0] if named and named[0] in with_it else 0

    def _directory_of_names(self) -> GrantedNames:
        return GrantedNames(self._table, self._granted, self._sources().mac)

    def _sources(self) -> KnownSources:
        assert self._kernel is not None  # noqa: S101 - made by `_device`
        return KnownSources(self._kernel, asyncio.get_running_loop().time)

    async def _start(self, zone: Zone, link: int) -> None:
        server = str(zone.pools.v4[1])
        chosen = await choose(self._mode, self._interface(), server, zone.domain, self._resolv_conf)
        resolver = Resolver(self._world, zone, self._sources().own, chosen.others)
        await resolver.start(server)
        self._resolver, self._chosen, self._link = resolver, chosen, link
        if chosen.change is not None:
            self._made = await self._changes.apply([chosen.change])
        _log.info("names.up", domain=zone.domain, at=server, mode=chosen.mode, why=chosen.why)

    async def _stop(self) -> None:
        resolver, self._resolver = self._resolver, None
        self._chosen, self._link = None, 0
        made, self._made = self._made, ()
        if made:
            await self._changes.undo(made)
        if resolver is not None:
            await resolver.close()
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
