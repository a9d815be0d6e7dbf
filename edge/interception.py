"""Makes what is assigned true on this machine: which modes catch traffic here, and why these."""

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edge.host_changes import HostChanges
from edge.intercept.base import Caught, Device, Failed
from edge.intercept.guard import Guard
from edge.intercept.steered import SteeredInterceptor, supports
from edge.intercept.steering import Plan, Served
from edge.intercept.table import Table
from edge.intercept.tun import TunInterceptor, TunSettings
from edge.netlink import Netlink
from edge.tun.ground import Denial
from edge.tun.routes import TunRoutes
from edge.tun.sources import KnownSources
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn
from overlay.control.messages import Assignments
from overlay.errors import InputError
from overlay.fabric.authority import FabricMap
from overlay.policy.interception import MODES, Address, Pools, Prefix, as_address

RETRY = 5.0
"""Seconds until a mode that does not work is tried again, and between two looks at this host's own addresses."""
AUTO = MODES[0]
ORDER = ("tun", "tproxy", "redirect")
"""What `auto` takes: the first that works."""

_log = get_logger("interception")


@dataclass(frozen=True)
class Choices:
    """How this machine intercepts; `interface` is the name of its TUN device, `names` one of
    `edge.names.host_names.MODES`.
    """

    interface: str = "ferrule0"
    denial: Denial = Denial.RESET
    names: str = "auto"


class Interception:
    """Keeps table, rules, routes and device equal to what is assigned. With nothing assigned there is none.

    Args:
        caught: who decides.
        name: this edge's own, which is known once it is enrolled.
        root: SHA-256 of the plant's root, from which the default IPv6 pool is made.
        changes: of this host.
        peers: addresses of the routers that this edge dials.
        choices: of this machine.
    """

    def __init__(
        self,
        caught: Caught,
        name: Callable[[], str],
        root: Callable[[], bytes],
        changes: HostChanges,
        peers: Callable[[], Iterable[Address]] = tuple,
        choices: Choices | None = None,
    ) -> None:
        self.table = Table()
        self._caught = caught
        self._name = name
        self._root = root
        self._changes = changes
        self._peers = peers
        self._choices = choices or Choices()
        self._devices: dict[str, Device] = {}
        self._plans: dict[str, Plan] = {}
        self._failed: dict[str, str] = {}
        self._overlaps: dict[Prefix, str] = {}
        self._kept_out: frozenset[Prefix] = frozenset()
        self._chosen = ""
        self._why = ""
        self._kernel: Netlink | None = None
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._told: tuple[Sequence[object], ...] = ()
        self._wanted: Assignments | None = None
        self._loaded: Assignments | None = None

    def assign(self, assignments: Assignments | None) -> None:
        """What is intercepted from now on; None: nothing, at once, for an edge that is revoked."""
        told = () if assignments is None else _told(assignments)
        if told == self._told:
            return
        self._told, self._wanted = told, assignments
        if assignments is None:
            self.table, self._loaded = Table(), None
            for device in self._devices.values():
                device.cut()
        self._changed.set()
        if self._task is None and assignments is not None and assignments.intercepts:
            self._task = spawn(self._keep(), "interception")

    @property
    def interface(self) -> str:
        """That which has the edge's own addresses."""
        for mode in ORDER:
            if mode in self._devices:
                return self._devices[mode].interface
        return self._choices.interface

    @property
    def problems(self) -> list[str]:
        """Why something is not intercepted, each in a sentence."""
        found = [*self.table.problems, *self._overlaps.values(), *self._uncarried()]
        found += [f"{mode} does not work here: {why}" for mode, why in self._failed.items()]
        for device in self._devices.values():
            found += device.problems
        return found

    def status(self) -> dict[str, Any] | None:
        """For `ferrule-edge status`; None where nothing is intercepted."""
        if not len(self.table):
            return None
        running = [mode for mode in ORDER if mode in self._devices]
        pools = self.table.pools
        told = {
            "name": self._choices.interface, "pools": [] if pools is None else [*map(str, pools)],
            "problems": self.problems,
        }  # fmt: skip
        if not running:
            why = "; ".join(self._failed.values()) or "it is being set up"
            return told | {"mode": None, "why": why}
        flows = {mode: self._devices[mode].flows for mode in running}
        counts = {mode: self._devices[mode].counts for mode in running}
        first = running[0]
        return told | {
            "mode": " and ".join(running), "why": self._why or "as it was asked for",
            "interface": self.interface, "flows": flows[first], "counts": counts[first],
        } | {mode: {"flows": flows[mode], "counts": counts[mode]} for mode in running[1:]}  # fmt: skip

    async def close(self) -> None:
        """Catch nothing more, and take back what was changed."""
        await cancel(self._task)
        self._task = None
        for mode in list(self._devices):
            await self._stop(mode)
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None

    # --- one after the other ------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            self._changed.clear()
            await self._once()
            try:
                async with asyncio.timeout(RETRY):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _once(self) -> None:
        if self._wanted is not self._loaded:
            await self._load()
        elif self._wanted is not None:
            self._look()
        asked = {MODES[mode] for modes in self.table.prefixes().values() for mode in modes}
        explicit = asked - {AUTO}
        for mode in [one for one in self._devices if one not in explicit]:
            if not (mode == self._chosen and AUTO in asked):
                await self._stop(mode)
        self._failed = {mode: why for mode, why in self._failed.items() if asked & {mode, AUTO}}
        if AUTO in asked:
            await self._choose(explicit)
        else:
            self._chosen, self._why = "", ""
        for mode in ORDER:
            if mode in explicit:
                await self._make(mode)

    async def _load(self) -> None:
        """Ten thousand intercepts take most of a second: elsewhere, while traffic goes on by the table before."""
        wanted, before = self._wanted, self.table.pools
        table = Table() if wanted is None else await asyncio.to_thread(self._table, wanted)
        if wanted is not self._wanted:
            return  # there is newer word, and it has set `_changed`
        if before != table.pools:
            for mode in list(self._devices):  # the devices have addresses of another pool
                await self._stop(mode)
        self.table = table
        self._look()
        self._loaded = wanted
        for mode in list(self._devices):
            await self._refresh(mode)

    def _table(self, assignments: Assignments) -> Table:
        problem, pools = "", None
        try:
            pools = Pools.of(assignments.pools, self._root()) if assignments.pools else None
        except InputError as error:
            problem = str(error)
        table = Table(assignments.intercepts, assignments.behind, pools, self._name())
        if problem:
            table.problems.append(problem)
        return table

    def _look(self) -> None:
        """What is intercepted must not be what this edge itself needs."""
        try:
            own = [one.ip for _, one in self._kernel_().addresses()]
        except OSError:
            return
        out, self._overlaps = conflicts(self.table, self._peers(), own)
        if out != self._kept_out:
            self._kept_out = out
            for text in self._overlaps.values():
                _log.error("interception.overlap", reason=text)
            self._loaded = None  # what devices catch is made anew
            self._changed.set()

    async def _choose(self, explicit: set[str]) -> None:
        """What `auto` is on this machine."""
        if self._chosen in self._devices:
            return
        reasons: list[str] = []
        for mode in ORDER:
            self._chosen = mode
            ran = mode in self._devices
            if await self._make(mode):
                if ran:
                    await self._refresh(mode)
                self._failed = {one: why for one, why in self._failed.items() if one in explicit}
                if reasons:
                    self._why = f"auto takes the first that works: {'; '.join(reasons)}"
                else:
                    self._why = (
                        f"{mode.upper()} works on this machine, and is the first choice of auto"
                    )
                _log.info("interception.chosen", mode=mode, why=self._why)
                return
            reasons.append(f"{mode} does not ({self._failed[mode]})")
        self._chosen = ""

    async def _refresh(self, mode: str) -> None:
        await self._replan(mode)
        try:
            await self._devices[mode].refresh()
        except Failed as error:
            self._fail(mode, str(error))
            self._loaded = None  # it is tried again
        else:
            self._failed.pop(mode, None)

    async def _make(self, mode: str) -> bool:
        """Whether it runs now."""
        if mode in self._devices:
            return True
        await self._replan(mode)
        device = self._device(mode)
        try:
            await device.start()
        except Failed as error:
            self._fail(mode, str(error))
            return False
        self._devices[mode] = device
        self._failed.pop(mode, None)
        return True

    async def _stop(self, mode: str) -> None:
        await self._devices.pop(mode).stop()
        _log.info("interception.stopped", mode=mode)

    def _device(self, mode: str) -> Device:
        choices, pools = self._choices, self.table.pools
        kernel = self._kernel_()
        sources = KnownSources(kernel, asyncio.get_running_loop().time)
        own = TunSettings().addresses if pools is None else _own(pools)
        if mode == "tun":
            settings = TunSettings(choices.interface, addresses=own, denial=choices.denial)
            routes = TunRoutes(lambda: [one.as_network() for one in self._plans["tun"].alone])
            guard = Guard(self._changes, choices.interface)
            return TunInterceptor(
                self._caught, lambda: self.table, routes, sources, guard, settings
            )
        addresses = own if pools is not None and not self._devices else ()
        return SteeredInterceptor(
            mode, self._caught, lambda: self.table, sources, self._changes,
            lambda: self._plans[mode], choices.interface, addresses,
        )  # fmt: skip

    async def _replan(self, mode: str) -> None:
        numbers = {MODES.index(mode)} | ({MODES.index(AUTO)} if mode == self._chosen else set())
        self._plans[mode] = await asyncio.to_thread(
            plan_of, self.table, mode, numbers, self._kept_out
        )

    def _fail(self, mode: str, why: str) -> None:
        if self._failed.get(mode) != why:
            self._failed[mode] = why
            _log.error("interception.failed", mode=mode, reason=why)

    def _uncarried(self) -> list[str]:
        if "redirect" not in self._devices:
            return []
        numbers = {MODES.index("redirect")} | (
            {MODES.index(AUTO)} if self._chosen == "redirect" else set()
        )
        services = {
            service.service
            for entries in self.table.assets.values()
            for entry in entries
            if entry.mode in numbers
            for service in entry.services
            if not supports("redirect", service.transport)
        }
        return [f"{one} is UDP, which redirect does not carry" for one in sorted(services)]

    def _kernel_(self) -> Netlink:
        self._kernel = self._kernel or Netlink()
        return self._kernel


def router_addresses(fabric: FabricMap | None) -> list[Address]:
    """Where routers are, as far as the map says it by number."""
    named = () if fabric is None else (one.address for one in fabric.routers)
    hosts = sorted({text.rpartition(":")[0].strip("[]") for text in named})
    return [one for one in map(as_address, hosts) if one is not None]


def conflicts(
    table: Table, peers: Iterable[Address], own: Iterable[Address]
) -> tuple[frozenset[Prefix], dict[Prefix, str]]:
    """What nothing may catch, and all that contradicts what this edge itself needs, each in a sentence. Pure.

    Args:
        table: what is intercepted.
        peers: addresses of routers.
        own: of this host; those in a pool are the edge's.
    """
    routers = table.overlaps("of a router", peers)
    found = {
        prefix: f"{text}: it is left out, since the edge would lose its way to the plant"
        for prefix, text in routers.items()
    }
    pools = table.pools
    mine = [one for one in own if pools is None or not pools.contain(one)]
    for prefix, text in table.overlaps("of this host itself", mine).items():
        found.setdefault(prefix, f"{text}: what is sent to it stays here")
    return frozenset(routers), found


def plan_of(table: Table, mode: str, numbers: set[int], out: frozenset[Prefix]) -> Plan:
    """What a mode catches. Pure.

    Args:
        table: what is intercepted.
        mode: its name.
        numbers: which modes of entries it stands for.
        out: what nothing may catch.
    """
    prefixes = table.prefixes()
    if mode == "tun":
        return Plan(
            (), tuple(one for one, modes in prefixes.items() if modes & numbers and one not in out)
        )
    alone = tuple(one for one, modes in prefixes.items() if modes <= numbers and one not in out)
    served = tuple(
        Served(prefix, transport, start, end)
        for prefix, transport, start, end, chosen in table.segments()
        if chosen in numbers and supports(mode, transport) and prefix not in out
    )
    return Plan(served, alone)


def _own(pools: Pools) -> tuple[ipaddress.IPv4Interface, ipaddress.IPv6Interface]:
    """The edge's own address in each pool; the next one plays its clients (`OWN_NUMBERS`)."""
    return ipaddress.IPv4Interface(pools.v4[1]), ipaddress.IPv6Interface(pools.v6[1])


def _told(assignments: Assignments) -> tuple[Sequence[object], ...]:
    return assignments.intercepts, assignments.behind, assignments.pools
