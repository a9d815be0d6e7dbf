"""What the controller assigned to be intercepted, made true on this machine: the table, and the mode that catches."""

import asyncio
import ipaddress
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edge.intercept.base import Caught
from edge.intercept.table import Table
from edge.intercept.tun import TunInterceptor, TunSettings
from edge.netlink import Netlink
from edge.tun.device import TunError
from edge.tun.ground import Denial
from edge.tun.routes import TunRoutes
from edge.tun.sources import KnownSources
from overlay.aio.lifecycle import describe
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn
from overlay.control.messages import Assignments
from overlay.errors import InputError
from overlay.policy.interception import MODES, Pools

RETRY = 5.0
"""Seconds until a mode that does not work is tried again."""
_TUN = frozenset({"auto", "tun"})

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
    """Keeps table, routes and device equal to what is assigned. With nothing assigned there is no device.

    Args:
        caught: who decides.
        name: this edge's own, which is known once it is enrolled.
        root: SHA-256 of the plant's root, from which the default IPv6 pool is made.
        choices: of this machine.
    """

    def __init__(
        self,
        caught: Caught,
        name: Callable[[], str],
        root: Callable[[], bytes],
        choices: Choices | None = None,
    ) -> None:
        self.table = Table()
        self._caught = caught
        self._name = name
        self._root = root
        self._choices = choices or Choices()
        self._problem = ""
        self._routes = TunRoutes(self._wanted)
        self._tun: TunInterceptor | None = None
        self._kernel: Netlink | None = None
        self._task: asyncio.Task[None] | None = None
        self._assigned: tuple[Any, ...] = ()

    def assign(self, assignments: Assignments | None) -> None:
        """What is intercepted from now on; None: nothing, for an edge that is revoked."""
        told = () if assignments is None else _told(assignments)
        if told == self._assigned:
            return
        self._assigned = told
        before, self.table = self.table.pools, self._load(assignments)
        if not self._caught_by_tun():
            self._stop()
        elif before != self.table.pools:
            self._stop()  # the device has addresses of another pool
            self._begin()
        elif self._tun is None:
            self._begin()
        else:
            self._refresh()

    @property
    def problems(self) -> list[str]:
        """Why something is not intercepted, each in a sentence."""
        tun = self._tun
        found = [*self.table.problems, *self._unsupported()]
        if self._problem:
            found.append(self._problem)
        if tun is not None:
            found += [*([tun.problem] if tun.problem else []), *self._routes.problems]
        return found

    def status(self) -> dict[str, Any] | None:
        """For `ferrule-edge status`; None where nothing is intercepted."""
        if not len(self.table):
            return None
        tun = self._tun
        if tun is None:
            return {
                "mode": None,
                "why": self._problem or "no entry asks for a mode that works here",
            }
        why = "TUN works on this machine, and is the first choice of auto"
        return {
            "mode": "tun", "why": why, "interface": self._choices.interface,
            "flows": tun.flows, "counts": tun.counts,
        }  # fmt: skip

    async def close(self) -> None:
        """Catch nothing more."""
        await cancel(self._task)
        self._stop()

    # --- inside -------------------------------------------------------------------------------------

    def _load(self, assignments: Assignments | None) -> Table:
        if assignments is None:
            return Table()
        try:
            pools = Pools.of(assignments.pools, self._root()) if assignments.pools else None
        except InputError as error:
            pools = None
            self._problem = str(error)
        return Table(assignments.intercepts, assignments.behind, pools, self._name())

    def _wanted(self) -> list[Any]:
        found = self.table.prefixes().items()
        return [prefix.as_network() for prefix, modes in found if _names(modes) & _TUN]

    def _caught_by_tun(self) -> bool:
        return bool(self._wanted())

    def _unsupported(self) -> list[str]:
        return [
            f"{prefix} is to be intercepted by {' or '.join(sorted(names))}, which this version does not do"
            for prefix, modes in self.table.prefixes().items()
            if not (names := _names(modes)) & _TUN
        ]

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = spawn(self._try(), "interception")

    async def _try(self) -> None:
        while self._tun is None and self._caught_by_tun():
            choices, pools = self._choices, self.table.pools
            loop = asyncio.get_running_loop()
            self._kernel = self._kernel or Netlink()
            settings = TunSettings(
                choices.interface,
                addresses=TunSettings().addresses if pools is None else _own(pools),
                denial=choices.denial,
            )
            made = TunInterceptor(
                self._caught, lambda: self.table, self._routes,
                KnownSources(self._kernel, loop.time), settings,
            )  # fmt: skip
            try:
                await made.start()
            except TunError as error:
                if str(error) != self._problem:
                    self._problem = str(error)
                    _log.error("interception.failed", mode="tun", reason=self._problem)
                await asyncio.sleep(RETRY)
            else:
                self._tun, self._problem = made, ""

    def _refresh(self) -> None:
        try:
            self._routes.refresh()
        except OSError as error:
            self._problem = f"routes cannot be changed: {describe(error)}"
            _log.error("interception.failed", mode="tun", reason=self._problem)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
        tun, self._tun = self._tun, None
        if tun is not None:
            tun.stop()
            _log.info("interception.stopped", mode="tun")
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None


def _own(pools: Pools) -> tuple[ipaddress.IPv4Interface, ipaddress.IPv6Interface]:
    """The device's own address in each pool; the next one plays its clients (`OWN_NUMBERS`)."""
    return ipaddress.IPv4Interface(pools.v4[1]), ipaddress.IPv6Interface(pools.v6[1])


def _told(assignments: Assignments) -> tuple[Sequence[object], ...]:
    return assignments.intercepts, assignments.behind, assignments.pools


def _names(modes: frozenset[int]) -> set[str]:
    return {MODES[mode] for mode in modes}
