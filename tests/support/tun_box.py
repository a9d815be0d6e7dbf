"""A box that intercepts, with no overlay behind it: circuits are stood in for by plain sockets to a server.

`python -m tests.support.tun_box SERVER [mode=MODE] [name=INTERFACE] [dir=FOLDER]`, inside a network namespace: prints `ready`, then a JSON document for each line on
its standard input. SERVER is the address at which services really are, each at its own port.
"""

import asyncio
import contextlib
import ipaddress
import json
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import uvloop

from edge.host_changes import HostChanges
from edge.host_machine import HostMachine
from edge.intercept.base import Failed
from edge.intercept.guard import Guard
from edge.intercept.steered import SteeredInterceptor
from edge.intercept.table import Table
from edge.intercept.tun import TunInterceptor, TunSettings
from edge.interception import plan_of
from edge.netlink import Netlink
from edge.tun.ground import Denial
from edge.tun.routes import TunRoutes
from edge.tun.sources import KnownSources
from overlay.aio import sockets
from overlay.aio.circuit_driver import NO_RECEIPT
from overlay.aio.circuit_roles import CircuitEnd, Refused
from overlay.aio.logs import setup
from overlay.aio.system import System
from overlay.aio.tasks import spawn
from overlay.control.messages import BehindEntry, InterceptEntry, ServicePorts
from overlay.errors import Code
from overlay.policy.interception import Pools

POOLS = Pools(ipaddress.IPv4Network("100.64.0.0/10"), ipaddress.IPv6Network("fd64::/64"))
FIRST, LAST, DENIED, UDP_PORT = 5000, 5999, 81, 7000
HMI = ("192.168.77.20", "fd77::20")


class Stream:
    """A circuit, as far as pump and flow see one."""

    def __init__(self, address: tuple[str, int], *, udp: bool) -> None:
        self.closed: asyncio.Future[CircuitEnd] = asyncio.get_running_loop().create_future()
        self.outcome: CircuitEnd | None = None
        self.dropped = 0
        self.user: Any = None
        self.link: Any = None
        self._address = address
        self._udp: Any = None
        self._waiting: list[bytes] = []
        self._connection: Any = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._memory = memoryview(bytearray(1 << 18))
        self._unsent: list[Any] = []
        self._unread = 0
        self._halves = 0
        self._task = spawn(self._open_udp() if udp else self._open_tcp(), "stream")

    async def _open_tcp(self) -> None:
        try:
            self._connection = await sockets.connect(*self._address)
        except OSError as error:
            self._over(Code.UNREACHABLE, str(error))
            self._opened.set_exception(Refused(Code.UNREACHABLE, str(error)))
            self._opened.exception()
            return
        self._opened.set_result(None)
        if self.user is not None:
            self._connection.start(self)
            self.user.room()

    async def _open_udp(self) -> None:
        self._udp = await sockets.datagrams(self._arrived, remote=self._address)
        for data in self._waiting:
            self._udp.send(data)

    def _arrived(self, data: memoryview, _: object) -> None:
        self.user.data(bytes(data))

    # --- CircuitStream ------------------------------------------------------------------------------

    async def ready(self) -> None:
        await asyncio.shield(self._opened)

    def start(self, user: Any, lend: Any = None) -> None:
        del lend  # frames are opened in memory of their own here
        self.user = user
        if self.outcome is not None:
            user.closed(self.outcome)
        elif self._connection is not None:
            self._connection.start(self)
            user.room()

    def room(self) -> int:
        return 0 if self._connection is None or self._unsent else 1 << 18

    def send(self, data: Any) -> None:
        taken = self._connection.write((data,))
        if taken < len(data):
            self._unsent.append(bytes(data[taken:]))

    def consumed(self, count: int) -> None:
        self._unread -= count
        if self._unread <= 0 and self._connection is not None:
            self._connection.resume()

    def end(self) -> None:
        if self._connection is not None:
            self._connection.end()
            self._half()

    def _half(self) -> None:
        self._halves += 1
        if self._halves == 2:
            self._connection.close()
            self._over(Code.NORMAL, "")

    def abort(self, code: Code, reason: str) -> None:
        self._over(code, reason)
        if self._connection is not None:
            self._connection.abort()
        if self._udp is not None:
            self._udp.close()

    break_off = abort

    def send_datagram(self, data: Any) -> None:
        if self._udp is None:
            self._waiting.append(bytes(data))
        else:
            self._udp.send(data)

    # --- Receiver -----------------------------------------------------------------------------------

    def buffer(self) -> memoryview:
        return self._memory

    def received(self, count: int) -> None:
        self._unread += count
        if self._unread > 1 << 20:
            self._connection.pause()
        self.user.data(bytes(self._memory[:count]))

    def ended(self) -> None:
        self.user.half_closed()
        self._half()

    def writable(self) -> None:
        while self._unsent:
            part = self._unsent.pop()
            taken = self._connection.write((part,))
            if taken < len(part):
                self._unsent.append(part[taken:])
                return
        self.user.room()

    def lost(self, error: OSError | None) -> None:
        code = Code.NORMAL if error is None else Code.APPLICATION_RESET
        self._over(code, str(error or ""))

    def _over(self, code: Code, reason: str) -> None:
        if self.outcome is None:
            self.outcome = CircuitEnd(code, reason, NO_RECEIPT, 0, 0)
            self.closed.set_result(self.outcome)
            if self.user is not None:
                self.user.closed(self.outcome)


class Echoed(Stream):
    """A circuit to an asset that answers every echo request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 9), udp=True)

    def send_datagram(self, data: Any) -> None:
        self.user.data(bytes(data))


class Straight:
    """`Caught` without policy but that port `DENIED` is denied, and a record of who asked for what."""

    def __init__(self, server: str) -> None:
        self.server = server
        self.asked: list[tuple[str, str, int]] = []
        self.turned: list[tuple[str, str, str]] = []

    def open(self, who: str, service: str, port: int = 0, address: bytes = b"") -> Any:
        self.asked.append((who, service, port))
        if service.endswith("denied"):
            return None
        return Stream((self.server, port or FIRST), udp=False)

    def flow(self, who: str, service: str, port: int = 0, address: bytes = b"") -> Any:
        self.asked.append((who, service, port))
        if service.endswith("denied-udp"):
            return None
        return Stream((self.server, UDP_PORT), udp=True)

    def echo(self, who: str, asset: str, address: bytes = b"") -> Any:
        self.asked.append((who, asset, 0))
        return Echoed()

    def connection(self, who: str, service: str, connection: Any, port: int = 0) -> None:
        raise NotImplementedError

    def turned_away(self, source: str, target: str, reason: str) -> None:
        self.turned.append((source, target, reason))


def table(*, at_once: bool) -> Table:
    """plc-b at number 7 of the pools and at 192.168.1.5 and fd05::5; the HMI behind the box is known."""
    services = (
        ServicePorts("plc-b.many", FIRST, LAST, 0, at_once),
        ServicePorts("plc-b.denied", DENIED, DENIED, 0),
        ServicePorts("plc-b.udp", UDP_PORT, UDP_PORT, 1),
        ServicePorts("plc-b.denied-udp", DENIED, DENIED, 1),
    )
    places = ("192.168.1.5", "fd05::5")
    entries = (InterceptEntry("plc-b", 7, services, "box", 0, places),)
    behind = tuple(BehindEntry(f"hmi-{number}", address) for number, address in enumerate(HMI))
    return Table(entries, behind, POOLS, "edge-a")


async def main(server: str, *options: str) -> int:
    """Run until end of input."""
    setup("text")
    loop = asyncio.get_running_loop()
    known = table(at_once="at-once" in options)
    caught = Straight(server)
    sources = KnownSources(Netlink(), loop.time)
    given = dict(one.split("=") for one in options if "=" in one)
    name, mode = given.get("name", "ftun0"), given.get("mode", "tun")
    made: TunInterceptor | SteeredInterceptor
    folder = given.get("dir") or tempfile.mkdtemp()
    changes = await HostChanges.open(System(), Path(folder), HostMachine())
    await changes.undo()
    if mode == "tun":
        routes = TunRoutes(lambda: [prefix.as_network() for prefix in known.prefixes()])
        denial = next((Denial(one) for one in options if one in set(Denial)), Denial.RESET)
        settings = TunSettings(name, denial=denial)
        guard = Guard(changes, name)
        made = TunInterceptor(caught, lambda: known, routes, sources, guard, settings)
    else:
        plan = plan_of(known, mode, {0}, frozenset())
        own = TunSettings().addresses
        made = SteeredInterceptor(
            mode, caught, lambda: known, sources, changes, lambda: plan, name, own
        )
    try:
        await made.start()
    except Failed as error:
        print(error, flush=True)
        return 1
    print("ready", flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        used = resource.getrusage(resource.RUSAGE_SELF)
        found = {
            "counts": made.counts, "asked": caught.asked, "turned": caught.turned[-20:],
            "flows": made.flows, "problems": made.problems,
            "port": getattr(made, "port", 0), "cpu": used.ru_utime + used.ru_stime,
        }  # fmt: skip
        print(json.dumps(found), flush=True)
        caught.asked.clear()
    await made.stop()
    return 0


if __name__ == "__main__":
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        sys.exit(runner.run(main(*sys.argv[1:])))
