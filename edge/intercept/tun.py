"""`tun` interception: a TUN device to which the addresses of services are routed; needs CAP_NET_ADMIN.

TCP is terminated by the kernel through address rewriting (`edge.tun.nat`), UDP and ICMP echo are carried packet by
packet. When the interface disappears or goes down, it is made again.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from edge.intercept.base import Caught, Failed, Interface
from edge.intercept.guard import Guard
from edge.intercept.senders import Sources
from edge.intercept.table import Table
from edge.tun.device import MTU, TunDevice, TunError
from edge.tun.ground import Denial, Ground
from edge.tun.nat import Addresses, Nat
from edge.tun.ping import Pings
from edge.tun.prompt import PromptConnection
from edge.tun.stack import Stack
from edge.tun.tcp import Tcp
from edge.tun.udp import Udp
from overlay.aio.lifecycle import describe
from overlay.aio.logs import get_logger
from overlay.aio.seconds import pause
from overlay.aio.sockets import SocketListener
from overlay.aio.tasks import cancel, spawn

LOOK = 1.0
"""Seconds between two looks at the interface."""
SWEEP = 5
"""Looks between two sweeps of what has rested."""
BACKLOG = 4096
V4 = ipaddress.ip_interface("198.18.0.1/30")
V6 = ipaddress.ip_interface("fd66:7272:756c:65::1/126")
"""The device's own addresses: of the range for network tests (RFC 2544), and of a random private prefix (RFC 4193).
The next address of each plays all clients."""

_log = get_logger("tun")


class Host(Protocol):
    """What the host's network is told; it goes with the device (`edge.machine.changes`). Raises: OSError."""

    def ready(self, name: str, addresses: Iterable[Interface]) -> list[Interface]:
        """The device is there: give it its addresses and the routes that belong to it; which addresses it has."""
        ...

    def refresh(self) -> None:
        """Other routes belong to it now."""
        ...

    def disturbed(self) -> bool:
        """Somebody else may have taken some of it, or what stood in its way: `ready` makes it whole again."""
        ...

    def close(self) -> None:
        """It is not used any more."""
        ...

    @property
    def problems(self) -> list[str]:
        """Routes that it does not have, each in a sentence."""
        ...


@dataclass(frozen=True)
class TunSettings:
    """Of one device."""

    name: str = "ferrule0"
    mtu: int = MTU
    addresses: tuple[Interface, ...] = (V4, V6)
    denial: Denial = Denial.RESET


class TunInterceptor:
    """Implements `edge.intercept.base.Device`. `problem` says why it does not work now."""

    mode = "tun"

    def __init__(
        self,
        caught: Caught,
        table: Callable[[], Table],
        host: Host,
        sources: Sources,
        guard: Guard,
        settings: TunSettings | None = None,
    ) -> None:
        self.problem = ""
        self.ground: Ground | None = None
        self._caught = caught
        self._table = table
        self._host = host
        self._sources = sources
        self._guard = guard
        self._settings = settings or TunSettings()
        self._running: _Running | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Device."""
        try:
            # Before the first packet is read: until then a device may pass as this host.
            await self._guard.put()
            await self._begin()
        except BaseException:
            self.cut()
            self._host.close()
            await self._guard.take()
            raise
        self._task = spawn(self._watch(), "tun")

    async def refresh(self) -> None:
        """Device."""
        await self._guard.put()
        try:
            await asyncio.to_thread(self._host.refresh)
        except OSError as error:
            raise Failed(f"routes cannot be changed: {describe(error)}") from None

    def cut(self) -> None:
        """Device: the interface is gone when this returns; connections through it break."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        self._end()

    async def stop(self) -> None:
        """Device."""
        task = self._task
        self.cut()
        await cancel(task)
        self._host.close()
        await self._guard.take()

    @property
    def interface(self) -> str:
        """Device."""
        return self._settings.name

    @property
    def problems(self) -> list[str]:
        """Device."""
        own = [one for one in (self.problem, self._guard.problem) if one]
        return [*own, *self._host.problems]

    @property
    def counts(self) -> dict[str, int]:
        """Device: since the interface was made."""
        return {} if self.ground is None else dict(self.ground.counts)

    @property
    def flows(self) -> dict[str, int]:
        """Device."""
        running = self._running
        return {} if running is None else running.flows()

    async def _begin(self) -> None:
        settings = self._settings
        device = TunDevice(settings.name, settings.mtu)
        try:
            addresses = await self._ready()
            ground = Ground(
                device.write,
                asyncio.get_running_loop().time,
                self._caught,
                self._table,
                self._sources,
                settings.denial,
            )
            self._running = _Running(device, ground, addresses)
        except OSError as error:
            device.close()
            raise TunError(
                f"The interface {settings.name} cannot be set up: {describe(error)}."
            ) from None
        except BaseException:
            device.close()
            raise
        self.ground = ground
        self.problem = ""
        offloads = device.offloads
        _log.info(
            "tun.up", interface=settings.name, tcp_offload=offloads.tcp, udp_offload=offloads.udp
        )

    async def _ready(self) -> list[Interface]:
        """Ten thousand routes take most of a second: elsewhere, while other traffic goes on."""
        settings = self._settings
        return await asyncio.to_thread(self._host.ready, settings.name, settings.addresses)

    def _end(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            running.close()

    async def _watch(self) -> None:
        looks = 0
        while True:
            await pause(LOOK)
            looks += 1
            await self._look()
            running = self._running
            if running is not None and looks % SWEEP == 0:
                running.stack.sweep()

    async def _look(self) -> None:
        """Make the interface again when it is gone, and bring it up when it is down."""
        running, name = self._running, self._settings.name
        try:
            if running is None:
                await self._begin()
            elif running.gone or not running.device.exists():
                _log.warning("tun.lost", interface=name, then="it is made again")
                self._end()
                await self._begin()
            elif not running.device.is_up():
                _log.warning("tun.down", interface=name, then="it is brought up again")
                running.device.bring_up()
                await self._ready()
            elif self._host.disturbed():
                _log.warning(
                    "tun.disturbed", interface=name, then="addresses and routes are made again"
                )
                await self._ready()
        except (TunError, OSError) as error:
            why = describe(error) if isinstance(error, OSError) else str(error)
            if why != self.problem:
                self.problem = why
                _log.error("tun.failed", interface=name, reason=why)
        else:
            self.problem = ""


class _Running:
    """A device and all that belongs to it, until it is gone."""

    def __init__(self, device: TunDevice, ground: Ground, addresses: list[Interface]) -> None:
        self.gone = False
        self.device = device
        self._listeners, port = _listen(device.name, addresses, self._accepted)
        pairs = [Addresses(one.ip.packed, (one.ip + 1).packed) for one in addresses]
        self.tcp = Tcp(ground, Nat(pairs, port))
        self.udp = Udp(ground, device.mtu)
        self.pings = Pings(ground)
        self.stack = Stack(device, ground, self.tcp, self.udp, self.pings, self._lost)

    def flows(self) -> dict[str, int]:
        """How many of each kind."""
        tcp = self.tcp
        return {
            "held": tcp.held, "tcp": len(tcp), "resting": len(tcp.nat) - len(tcp),
            "udp": len(self.udp), "echo": len(self.pings),
        }  # fmt: skip

    def close(self) -> None:
        """Nothing is caught any more."""
        self.stack.stop()
        for listener in self._listeners:
            listener.close()
        for part in (self.tcp, self.udp, self.pings):
            part.close()
        self.device.close()

    def _lost(self) -> None:
        self.gone = True

    def _accepted(self, connection: PromptConnection) -> None:
        self.tcp.accepted(connection)


def _listen(
    device: str, addresses: list[Interface], accepted: Callable[[PromptConnection], None]
) -> tuple[list[SocketListener], int]:
    """Listeners on the device's own addresses, all with one port, that hear nobody but the device itself.

    Raises: OSError.
    """
    socks: list[socket.socket] = []
    port = 0
    try:
        for one in addresses:
            family = socket.AF_INET if one.version == 4 else socket.AF_INET6
            sock = socket.socket(family, socket.SOCK_STREAM)
            socks.append(sock)
            sock.settimeout(0)
            # Who comes over another interface is not heard. A program of this host is, and cut (`Nat.accepted`).
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((str(one.ip), port))
            port = sock.getsockname()[1]
            sock.listen(BACKLOG)
        return [SocketListener([sock], accepted, PromptConnection) for sock in socks], port
    except OSError:
        for sock in socks:
            sock.close()
        raise
