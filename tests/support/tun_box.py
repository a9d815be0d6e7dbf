"""A box that intercepts, with no overlay behind it: circuits are stood in for by plain sockets to a server.

`python -m tests.support.tun_box SERVER [mode=MODE] [name=INTERFACE] [dir=FOLDER] [mac=MAC] [mac-alone=MAC]
[pools=V4,V6]`, inside a network namespace: prints `ready`, then a JSON document for each line on its standard input: an empty one, `crowd COUNT` (so many intercepts more from then on), or `allow`
or `deny` with WHO SERVICE TRANSPORT. SERVER is the address at which services really are, each at its own port.
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

from edge.interception import Choices, Interception
from edge.machine.changes import HostChanges
from edge.machine.making import HostMachine
from edge.machine.tables import Tables
from edge.tun.ground import Denial
from overlay.aio import sockets
from overlay.aio.circuit_driver import NO_RECEIPT
from overlay.aio.circuit_roles import CircuitEnd, Refused
from overlay.aio.lifecycle import collect_rarely
from overlay.aio.logs import setup
from overlay.aio.system import System
from overlay.aio.tasks import spawn
from overlay.control.messages import Assignments, BehindEntry, InterceptEntry, ServicePorts
from overlay.errors import Code
from overlay.policy.interception import MODES, Pools
from overlay.wire.bodies import DATAGRAMS, STREAM
from tests.support.namespaces import FAR_ADDRESSES, HMI_ADDRESSES

POOLS = Pools(ipaddress.IPv4Network("100.64.0.0/10"), ipaddress.IPv6Network("fd64::/64"))
FIRST, LAST, DENIED, KILLED, UDP_PORT = 5000, 5999, 81, 82, 7000
WHO = ("box", "hmi-0", "hmi-1", "far-0", "far-1", "hmi-mac")
GRANTED = (
    ("plc-b.many", STREAM), ("plc-b.udp", DATAGRAMS),
    ("plc-b.killed", STREAM), ("plc-b.killed-udp", DATAGRAMS),
)  # fmt: skip
NEVER = ("does not work here", "of this host already")
"""With such a problem it does not begin."""


class Stream:
    """A circuit, as far as pump and flow see one."""

    def __init__(self, address: tuple[str, int], *, udp: bool, early: bytes = b"") -> None:
        self.closed: asyncio.Future[CircuitEnd] = asyncio.get_running_loop().create_future()
        self.outcome: CircuitEnd | None = None
        self.dropped = 0
        self.user: Any = None
        self.link: Any = None
        self._address = address
        self._early = early
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
        if self._early:
            self.send(self._early)
        if self.user is not None:
            self._connection.start(self)
            self.user.room()

    async def _open_udp(self) -> None:
        self._udp = await sockets.datagrams(self._arrived, remote=self._address)
        for data in self._waiting:
            self._udp.send(data)

    def _arrived(self, data: memoryview, *_: object) -> None:
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

    def send_datagram(self, data: Any, *, more: bool = False) -> None:
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

    def send_datagram(self, data: Any, *, more: bool = False) -> None:
        self.user.data(bytes(data))


class Straight:
    """`Caught` with `grants`, which are for everything but port `DENIED`, a kill of port `KILLED`, and a record of who
    asked for what.
    """

    def __init__(self, server: str) -> None:
        self.server = server
        self.grants = {(who, *service) for who in WHO for service in GRANTED}
        self.grants.add(("hmi-0", "crowd.many", STREAM))
        self.asked: list[tuple[str, str, int]] = []
        self.turned: list[tuple[str, str, str]] = []
        self.refusals: list[tuple[str, str, int]] = []

    def open(
        self, who: str, service: str, port: int = 0, address: bytes = b"", early: bytes = b""
    ) -> Any:
        self.asked.append((who, service, port))
        if self._denies(who, service, STREAM):
            return None
        return Stream((self.server, port or FIRST), udp=False, early=early)

    def allow(self, who: str, service: str, port: int = 0, address: bytes = b"") -> Any:
        self.asked.append((who, service, port))
        if self._denies(who, service, STREAM):
            return None
        return lambda early: Stream((self.server, port or FIRST), udp=False, early=early)

    def flow(self, who: str, service: str, port: int = 0, address: bytes = b"") -> Any:
        self.asked.append((who, service, port))
        if self._denies(who, service, DATAGRAMS):
            return None
        return Stream((self.server, UDP_PORT), udp=True)

    def _denies(self, who: str, service: str, transport: int) -> bool:
        return (who, service, transport) not in self.grants or "killed" in service

    def echo(self, who: str, asset: str, address: bytes = b"") -> Any:
        self.asked.append((who, asset, 0))
        return Echoed()

    def connection(self, who: str, service: str, connection: Any, port: int = 0) -> None:
        raise NotImplementedError

    def refused(self, who: str, service: str, transport: int) -> None:
        self.refusals.append((who, service, transport))

    def turned_away(self, source: str, target: str, reason: str) -> None:
        self.turned.append((source, target, reason))


def assignments(
    mode: str, *, at_once: bool, mac: str = "", alone: str = "", crowd: int = 0, pools: str = ""
) -> Assignments:
    """plc-b at number 7 of the pools and at 192.168.1.5 and fd05::5; the HMI behind the box is known.

    Args:
        mac: by this hardware address besides its addresses.
        alone: by this hardware address and no other.
        crowd: so many intercepts more, each with one service; odd and even numbers have none in common.
        pools: other ones than `POOLS`.
    """
    services = (
        ServicePorts("plc-b.many", FIRST, LAST, 0, at_once),
        ServicePorts("plc-b.denied", DENIED, DENIED, 0),
        ServicePorts("plc-b.udp", UDP_PORT, UDP_PORT, 1),
        ServicePorts("plc-b.denied-udp", DENIED, DENIED, 1),
        ServicePorts("plc-b.killed", KILLED, KILLED, 0),
        ServicePorts("plc-b.killed-udp", KILLED, KILLED, 1),
    )
    number = MODES.index(mode)
    entries = [InterceptEntry("plc-b", 7, services, "box", number, ("192.168.1.5", "fd05::5"))]
    one = (ServicePorts("crowd.many", FIRST, FIRST, 0, at_once),)
    entries += [
        InterceptEntry(f"c-{crowd % 2}-{n}", 16 + 2 * n + crowd % 2, one, "box", number, (crowded(crowd, n),))
        for n in range(crowd)
    ]  # fmt: skip
    behind = tuple(
        BehindEntry(f"{what}-{number}", address, mac if what == "hmi" else "")
        for what, addresses in (("hmi", HMI_ADDRESSES), ("far", FAR_ADDRESSES))
        for number, address in enumerate(addresses)
    )
    if alone:
        behind = (BehindEntry("hmi-mac", "", alone),)
    both = tuple(pools.split(",")) if pools else (str(POOLS.v4), str(POOLS.v6))
    return Assignments(crowd, b"", (), (), tuple(entries), behind, both)


def crowded(crowd: int, number: int) -> str:
    """Which subnet one of a crowd has."""
    return f"10.{128 + crowd % 2 * 64 + number // 250}.{number % 250}.0/24"


async def main(server: str, *options: str) -> int:
    """Run until end of input."""
    setup("text")
    collect_rarely()
    caught = Straight(server)
    given = dict(one.split("=") for one in options if "=" in one)
    name, mode = given.get("name", "ftun0"), given.get("mode", "tun")
    folder = given.get("dir") or tempfile.mkdtemp()
    changes = await HostChanges.open(System(), Path(folder), HostMachine())
    await changes.undo()
    denial = next((Denial(one) for one in options if one in set(Denial)), Denial.RESET)
    made = Interception(
        caught,
        lambda: "edge-a",
        lambda: bytes(32),
        changes,
        _nobody,
        lambda: frozenset(caught.grants),
        Choices(name, denial),
    )

    tables = Tables(changes)
    tables.start()

    def assign(crowd: int = 0) -> None:
        at_once = "at-once" in options
        mac, alone = given.get("mac", ""), given.get("mac-alone", "")
        pools = given.get("pools", "")
        made.assign(
            assignments(mode, at_once=at_once, mac=mac, alone=alone, crowd=crowd, pools=pools)
        )

    assign()
    try:
        while not _running(made, mode):
            for problem in made.problems:
                if any(words in problem for words in NEVER):
                    print(problem, flush=True)
                    return 1
            await asyncio.sleep(0.01)
        print("ready", flush=True)
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            word, *use = line.decode().split() or [""]
            if word == "crowd":
                assign(int(use[0]))
            elif word:
                change = caught.grants.add if word == "allow" else caught.grants.discard
                change((use[0], use[1], int(use[2])))
                made.granted()
            used = resource.getrusage(resource.RUSAGE_SELF)
            told = made.status() or {}
            found = {
                "counts": told.get("counts", {}), "flows": told.get("flows", {}),
                "asked": caught.asked, "turned": caught.turned[-20:], "problems": made.problems,
                "refused": caught.refusals,
                "port": getattr(made._devices.get(mode), "port", 0), "cpu": used.ru_utime + used.ru_stime,
            }  # fmt: skip
            print(json.dumps(found), flush=True)
            caught.asked.clear()
            caught.refusals.clear()
    finally:
        await tables.close()
        await made.close()
    return 0


def _running(made: Interception, mode: str) -> bool:
    return (made.status() or {}).get("mode") == mode


async def _nobody() -> tuple[()]:
    return ()


if __name__ == "__main__":
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        sys.exit(runner.run(main(*sys.argv[1:])))
