"""Makes what is assigned true on this machine: which modes catch traffic here, and why these."""

import asyncio
import ipaddress
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edge.grants import Use
from edge.intercept.base import Caught, Device, Failed
from edge.intercept.guard import Guard
from edge.intercept.plan import (
    ALLOWED,
    TOLD,
    Behind,
    Places,
    Plan,
    conflicts,
    forwarded_assets,
    lacking,
    others_pool,
    supports,
)
from edge.intercept.sources import KnownSources
from edge.intercept.steered import SteeredInterceptor
from edge.intercept.table import Table
from edge.intercept.tun import TunInterceptor, TunSettings
from edge.keeping import keep
from edge.machine.changes import HostChanges, HostError
from edge.machine.netlink import Netlink
from edge.names.host_names import resolvers
from edge.tun.ground import Denial
from edge.tun.routes import TunRoutes
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn
from overlay.control.messages import Assignments
from overlay.errors import InputError
from overlay.policy.interception import MODES, Address, Pools, Prefix

RETRY = 5.0
"""Seconds until a mode that does not work is tried again, and between two looks at this host: its own addresses, and
whether what was made there is still there."""
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
        peers: addresses that this edge dials (`edge.peers`).
        uses: what there are grants for that hold now.
        choices: of this machine.
    """

    def __init__(
        self,
        caught: Caught,
        name: Callable[[], str],
        root: Callable[[], bytes],
        changes: HostChanges,
        peers: Callable[[], Awaitable[Iterable[Address]]],
        uses: Callable[[], frozenset[Use]],
        choices: Choices | None = None,
    ) -> None:
        self.table = Table()
        self.made: Callable[[], None] = lambda: None
        """Told each time that a mode begins to work, or has the edge's own addresses by now."""
        self._caught = caught
        self._name = name
        self._root = root
        self._changes = changes
        self._peers = peers
        self._grants = uses
        self._uses: frozenset[Use] = frozenset()
        self._choices = choices or Choices()
        self._devices: dict[str, Device] = {}
        self._plans: dict[str, Plan] = {}
        self._places: dict[str, Places] = {}
        self._failed: dict[str, str] = {}
        self._overlaps: dict[Prefix, str] = {}
        self._removed = ""
        self._broken = ""
        self._taken = ""
        self._behind = Behind()
        self._kept_out: frozenset[Prefix] = frozenset()
        self._chosen = ""
        self._why = ""
        self._holder = ""
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
            self._task = spawn(keep(self._once, self._changed, RETRY, self._tell), "interception")

    def granted(self) -> None:
        """Other grants hold: rules that refuse who has none must know at once."""
        if any(mode != "tun" for mode in self._devices):
            self._changed.set()

    @property
    def interface(self) -> str:
        """That which has the edge's own addresses; empty while there is none."""
        for mode in ORDER:
            if mode in self._devices:
                return self._devices[mode].interface
        return ""

    @property
    def problems(self) -> list[str]:
        """Why something is not intercepted, each in a sentence."""
        found = [*self.table.problems, *self._overlaps.values(), *self._uncarried(), *self._late()]
        found += [f"{mode} does not work here: {why}" for mode, why in self._failed.items()]
        found += [why for why in (self._broken, self._removed) if why]
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
            "problems": self.problems, "devices": [*self._behind.names], "senders": [*self._behind.addresses],
            "catches": [str(one) for one in itertools.islice(self.table.prefixes(), TOLD)],
        }  # fmt: skip
        if not running:
            why = "; ".join(self._failed.values()) or self._broken or "it is being set up"
            return told | {"mode": None, "why": why}
        flows = {mode: self._devices[mode].flows for mode in running}
        counts = {mode: self._devices[mode].counts for mode in running}
        first = running[0]
        return told | {
            "mode": " and ".join(running), "why": (self._why or "as it was asked for") + lacking(running),
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

    def _tell(self, why: str) -> None:
        self._broken = why
        if why:
            _log.error("interception.broken", reason=why)

    async def _once(self) -> None:
        uses, before = self._grants(), self._uses
        self._uses = uses
        if self._wanted is not self._loaded:
            await self._load()
        elif uses != before:
            for mode in [one for one in self._devices if one != "tun"]:
                await self._refresh(mode)
        elif self._wanted is not None:
            self._look(await self._peers())
        if self._taken:
            raise Failed(self._taken)
        asked = {MODES[mode] for modes in self.table.prefixes().values() for mode in modes}
        explicit = asked - {AUTO}
        for mode in [one for one in self._devices if one not in explicit]:
            if not (mode == self._chosen and AUTO in asked):
                await self._stop(mode)
        await self._hand_over()
        chosen = {self._chosen} & self._devices.keys()
        needed = {*ORDER} if AUTO in asked and not chosen else explicit | chosen
        self._failed = {mode: why for mode, why in self._failed.items() if mode in needed}
        if AUTO in asked:
            await self._choose(explicit)
        else:
            self._chosen, self._why = "", ""
        for mode in ORDER:
            if mode in explicit:
                await self._make(mode)
        await self._put_back()

    async def _put_back(self) -> None:
        """Somebody else may have flushed what this edge has made on this host."""
        try:
            await self._changes.put_back()
        except HostError as error:
            self._removed = f"what somebody else removed could not be made again: {error}"
        else:
            self._removed = ""

    async def _load(self) -> None:
        """Ten thousand intercepts take most of a second: elsewhere, while traffic goes on by the table before."""
        wanted, before = self._wanted, self.table.pools
        table = Table() if wanted is None else await asyncio.to_thread(self._table, wanted)
        peers = await self._peers()
        if wanted is not self._wanted:
            return  # there is newer word, and it has set `_changed`
        if before != table.pools:
            for mode in list(self._devices):  # the devices have addresses of another pool
                await self._stop(mode)
        self.table = table
        self._look(peers)
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

    def _look(self, peers: Iterable[Address]) -> None:
        """What is intercepted must not be what this edge itself needs."""
        try:
            own = [one.ip for _, one in self._kernel_().addresses()]
        except OSError:
            return
        self._taken = "" if self._devices else others_pool(self.table.pools, own)
        self._behind = Behind() if self._wanted is None else forwarded_assets(self._wanted, own)
        told = set(self._overlaps.values())
        out, self._overlaps = conflicts(self.table, peers, own, resolvers())
        for text in self._overlaps.values():
            if text not in told:
                _log.error("interception.overlap", reason=text)
        if out != self._kept_out:
            self._kept_out = out
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
                for one in {mode} if ran else ({"redirect"} - {mode}) & self._devices.keys():
                    await self._refresh(one)
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
        """What fails, however, is tried again, with everything else."""
        try:
            await self._replan(mode)
            await self._devices[mode].refresh()
        except Failed as error:
            self._fail(mode, str(error))
            self._loaded = None
        except BaseException:
            self._loaded = None
            raise
        else:
            self._failed.pop(mode, None)

    async def _make(self, mode: str) -> bool:
        """Whether it runs now."""
        if mode in self._devices:
            return True
        await self._replan(mode)
        self._holder = self._holder or mode
        device = self._device(mode)
        try:
            await device.start()
        except Failed as error:
            if self._holder == mode:
                self._holder = ""
            self._fail(mode, str(error))
            return False
        self._devices[mode] = device
        self._failed.pop(mode, None)
        self.made()
        return True

    async def _hand_over(self) -> None:
        """The edge's own addresses go on to another mode when the one that has them has ended. TUN always has them."""
        if self._holder in self._devices:
            return
        self._holder = next((mode for mode in ORDER if mode in self._devices), "")
        if self._holder:
            await self._refresh(self._holder)
            self.made()

    async def _stop(self, mode: str) -> None:
        self._places.pop(mode, None)
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
        return SteeredInterceptor(
            mode, self._caught, lambda: self.table, sources, self._changes,
            lambda: self._plans[mode], choices.interface,
            lambda: own if pools is not None and self._holder == mode else (),
        )  # fmt: skip

    async def _replan(self, mode: str) -> None:
        # Of two modes with rules the last one refuses what belongs to both.
        beside = self._numbers("tproxy") if mode == "redirect" else frozenset[int]()
        numbers = self._numbers(mode)
        self._plans[mode] = await asyncio.to_thread(self._plan, mode, numbers, beside)

    def _plan(self, mode: str, numbers: frozenset[int], beside: frozenset[int]) -> Plan:
        places, choice = self._places.get(mode), (numbers, self._kept_out, beside)
        if places is None or not places.are(self.table, *choice):
            self._places[mode] = places = Places(self.table, mode, *choice)
        return places.plan(self._uses)

    def _numbers(self, mode: str) -> frozenset[int]:
        """The modes of entries that it stands for."""
        auto = (AUTO,) if mode == self._chosen else ()
        return frozenset(MODES.index(one) for one in (mode, *auto))

    def _fail(self, mode: str, why: str) -> None:
        if self._failed.get(mode) != why:
            self._failed[mode] = why
            _log.error("interception.failed", mode=mode, reason=why)

    def _uncarried(self) -> list[str]:
        if "redirect" not in self._devices:
            return []
        numbers = self._numbers("redirect")
        services = {
            service.service
            for entries in self.table.assets.values()
            for entry in entries
            if entry.mode in numbers
            for service in entry.services
            if not supports("redirect", service.transport)
        }
        return [f"{one} is UDP, which redirect does not carry" for one in sorted(services)]

    def _late(self) -> list[str]:
        """Modes whose rules do not know who has a grant."""
        return [
            f"there are grants for more than {ALLOWED} pairs of a sender and a place, so by {mode} what is denied is "
            "accepted first, and then reset"
            for mode in self._devices
            if mode != "tun" and self._plans[mode].allowed is None
        ]  # fmt: skip

    def _kernel_(self) -> Netlink:
        self._kernel = self._kernel or Netlink()
        return self._kernel


def _own(pools: Pools) -> tuple[ipaddress.IPv4Interface, ipaddress.IPv6Interface]:
    """The edge's own address in each pool; the next one plays its clients (`OWN_NUMBERS`)."""
    return ipaddress.IPv4Interface(pools.v4[1]), ipaddress.IPv6Interface(pools.v6[1])


def _told(assignments: Assignments) -> tuple[Sequence[object], ...]:
    return assignments.intercepts, assignments.behind, assignments.pools
