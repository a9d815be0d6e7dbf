"""`tproxy` and `redirect` interception: rules of nftables steer traffic to listeners; needs CAP_NET_ADMIN and nft.

The kernel has accepted a connection before the edge sees it, so one that is denied or whose asset does not answer is
reset and not refused; what has no service at all is refused by the rules. Ping is not carried, and by `redirect` no
UDP.
"""

import asyncio
import ipaddress
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from edge.host_changes import (
    AddressChange,
    Change,
    HostChanges,
    HostError,
    NftChange,
    RouteChange,
    RuleChange,
)
from edge.host_machine import run
from edge.intercept import steering
from edge.intercept.base import Caught, Failed, Interface
from edge.intercept.senders import Senders, Sources
from edge.intercept.steered_udp import SteeredUdp
from edge.intercept.steering import Marks, Plan
from edge.intercept.table import Table
from edge.netfilter_log import PacketLog
from edge.netlink import LOCAL, MAIN_TABLE, Netlink, speaks_ipv6
from edge.packets.ip import TCP, UDP, read_packet
from edge.tun.nat import FLOWS, PER_SOURCE
from overlay.aio.lifecycle import describe
from overlay.aio.logs import get_logger
from overlay.aio.pump import join
from overlay.aio.sockets import SocketListener, make_transparent
from overlay.aio.tasks import spawn
from overlay.aio.world import Connection
from overlay.errors import DecodeError
from overlay.policy.interception import Prefix
from overlay.wire.bodies import DATAGRAMS, STREAM

LOOPBACK = "lo"
BACKLOG = 4096
TRIES = 8
"""For a port that is free for all listeners."""
_ORIGINAL = {4: (socket.IPPROTO_IP, 16, 4), 6: (socket.IPPROTO_IPV6, 28, 8)}
"""Level, size, and where the address is, of SO_ORIGINAL_DST; the port is at 2 in both."""
_SO_ORIGINAL_DST = 80
_PENDING = 256

_log = get_logger("steered")


class Way(NamedTuple):
    """What is special about a mode."""

    name: str
    rules: Callable[[Plan, int, Marks], str]
    hosts: dict[int, str]
    transparent: bool


WAYS = {
    "tproxy": Way("tproxy", steering.tproxy, {4: "127.0.0.1", 6: "::1"}, transparent=True),
    "redirect": Way("redirect", steering.redirect, {4: "0.0.0.0", 6: "::"}, transparent=False),  # noqa: S104 - the rules guard it
}


class SteeredInterceptor:
    """Implements `edge.intercept.base.Device`. `port` is where its listeners are.

    Args:
        interface: of the edge; from it come the names of what is made.
        addresses: of the edge, in the pools; empty where another mode holds them.
        plan: what is caught now.
    """

    def __init__(
        self,
        mode: str,
        caught: Caught,
        table: Callable[[], Table],
        sources: Sources,
        changes: HostChanges,
        plan: Callable[[], Plan],
        interface: str,
        addresses: tuple[Interface, ...],
    ) -> None:
        self.mode = mode
        self._problems: list[str] = []
        self._way = WAYS[mode]
        self._caught = caught
        self._senders = Senders(caught, table, sources)
        self._changes = changes
        self._plan = plan
        self._marks = Marks.of(interface)
        self._table_name = steering.table_name(interface, mode)
        self._addresses = addresses
        self._versions = (4, 6) if socket.has_ipv6 and speaks_ipv6(LOOPBACK) else (4,)
        self._made: list[Change] = []
        self._routes: dict[Prefix, Change] = {}
        self._rules: NftChange | None = None
        self.port = 0
        self._listeners: list[SocketListener] = []
        self._udp: SteeredUdp | None = None
        self._told: PacketLog | None = None
        self._open = 0
        self._per_source: Counter[bytes] = Counter()
        self._denied: set[tuple[str, str, int]] = set()
        self._denying: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Device."""
        try:
            self._listen()
            await self._change()
        except (HostError, OSError) as error:
            await self.stop()
            why = describe(error) if isinstance(error, OSError) else str(error)
            raise Failed(why) from None
        except BaseException:
            await self.stop()
            raise
        try:
            self._told = PacketLog(self._marks.group, self._refused)
        except OSError as error:  # only what is recorded depends on it
            self._problems.append(
                f"attempts that the rules of {self.mode} refuse are not recorded: {describe(error)}"
            )
        _log.info("steered.up", mode=self.mode, table=self._table_name, port=self.port)

    async def refresh(self) -> None:
        """Device."""
        rules = await asyncio.to_thread(self._ruleset)
        if self._rules is None or rules == self._rules:
            return
        try:
            await (
                self._route()
            )  # first: what fails here is tried again as long as the rules are the old ones
            await self._changes.replace(self._rules, rules)
            self._rules = rules
        except (HostError, OSError) as error:
            why = describe(error) if isinstance(error, OSError) else str(error)
            raise Failed(why) from None

    def cut(self) -> None:
        """Device."""
        for listener in self._listeners:
            listener.close()
        self._listeners = []
        if self._udp is not None:
            self._udp.close()
        if self._told is not None:
            self._told.close()
            self._told = None

    async def stop(self) -> None:
        """Device."""
        self.cut()
        rules = [] if self._rules is None else [self._rules]
        made = [*self._made, *self._routes.values(), *rules]
        self._made, self._routes, self._rules = [], {}, None
        try:
            await self._changes.undo(made)
        except OSError as error:
            self._problems.append(describe(error))

    @property
    def interface(self) -> str:
        """Device."""
        return LOOPBACK

    @property
    def problems(self) -> list[str]:
        """Device."""
        return list(self._problems)

    @property
    def counts(self) -> dict[str, int]:
        """Device."""
        return dict(self._senders.counts)

    @property
    def flows(self) -> dict[str, int]:
        """Device."""
        return {"tcp": self._open, "udp": 0 if self._udp is None else len(self._udp)}

    # --- what is made on the host -------------------------------------------------------------------

    def _listen(self) -> None:
        for last in range(TRIES - 1, -1, -1):
            try:
                self._bind()
            except OSError:
                self.cut()
                self.port = 0
                if not last:
                    raise
            else:
                return

    def _bind(self) -> None:
        """Listeners of all kinds at one port that the system chooses."""
        for version in self._versions:
            sock = self._socket(version, socket.SOCK_STREAM)
            self.port = sock.getsockname()[1]
            sock.listen(BACKLOG)
            self._listeners.append(SocketListener([sock], self._accepted))
        if self._way.transparent:
            socks = [self._socket(version, socket.SOCK_DGRAM) for version in self._versions]
            self._udp = SteeredUdp(self._caught, self._senders, socks, self._deny)

    def _socket(self, version: int, kind: socket.SocketKind) -> socket.socket:
        sock = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind)
        try:
            sock.settimeout(0)
            if self._way.transparent:
                make_transparent(sock)
            if version == 6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((self._way.hosts[version], self.port))
        except BaseException:
            sock.close()
            raise
        return sock

    async def _change(self) -> None:
        changes: list[Change] = [AddressChange(LOOPBACK, str(one)) for one in self._addresses]
        if self._way.transparent:
            number = self._marks.number
            for version in self._versions:
                everything = "0.0.0.0/0" if version == 4 else "::/0"
                changes += [
                    RouteChange(everything, LOOPBACK, table=number, kind=LOCAL),
                    RuleChange(version, number, number, steering.PRIORITY),
                ]
        self._made += await self._changes.apply(changes)
        await self._route()
        (self._rules,) = await self._changes.apply([self._ruleset()])  # type: ignore[assignment]

    async def _route(self) -> None:
        """A program of this host can only send where a route leads to, whichever; ours are there as long as needed."""
        wanted = {one for one in self._plan().prefixes() if one.version in self._versions}
        stale = self._routes.keys() - wanted
        with Netlink() as kernel:
            there = {Prefix.of(one.destination) for one in kernel.routes(MAIN_TABLE)} - stale
        lacking: dict[Prefix, Change] = {}
        for prefix in sorted(wanted, key=lambda one: one.length):
            if not _covered(prefix, there):
                lacking[prefix] = RouteChange(str(prefix.as_network()), LOOPBACK)
                there.add(prefix)
        await self._changes.apply([*lacking.values()])
        self._routes |= lacking
        if stale:
            await self._changes.undo([self._routes[prefix] for prefix in stale])
        for prefix in stale:
            del self._routes[prefix]

    def _ruleset(self) -> NftChange:
        return NftChange(
            "inet", self._table_name, self._way.rules(self._plan(), self.port, self._marks)
        )

    # --- what is caught -----------------------------------------------------------------------------

    def _accepted(self, connection: Connection) -> None:
        counts = self._senders.counts
        source = ipaddress.ip_address(connection.peer[0].partition("%")[0]).packed
        try:
            destination, port = self._meant(connection)
        except OSError:
            counts["connections of nobody"] += 1
            connection.abort()
            return
        if self._open >= FLOWS or self._per_source[source] >= PER_SOURCE:
            counts["too many flows"] += 1
            connection.abort()
            return
        verdict = self._senders.judge(STREAM, source, destination, port)
        if not verdict.service or not verdict.who:
            self._senders.turn_away(source, destination, port, verdict)
            connection.abort()
            return
        stream = self._caught.open(verdict.who, verdict.service, verdict.port, verdict.address)
        if stream is None:
            counts["denied"] += 1
            connection.abort()
            return
        self._open += 1
        self._per_source[source] += 1
        stream.closed.add_done_callback(lambda _: self._over(source))
        join(connection, stream)

    def _over(self, source: bytes) -> None:
        self._open -= 1
        self._per_source[source] -= 1
        if not self._per_source[source]:
            del self._per_source[source]

    def _meant(self, connection: Connection) -> tuple[bytes, int]:
        """Where the client wanted to go. Raises: OSError: nowhere, it was not steered here."""
        sock = socket.socket(fileno=connection.fileno())
        try:
            if self._way.transparent:
                host, port = sock.getsockname()[:2]
                return ipaddress.ip_address(host.partition("%")[0]).packed, port
            version = 4 if sock.family == socket.AF_INET else 6
            level, size, at = _ORIGINAL[version]
            found = sock.getsockopt(level, _SO_ORIGINAL_DST, size)
            (port,) = struct.unpack_from("!H", found, 2)
            return found[at : at + (4 if version == 4 else 16)], port
        finally:
            sock.detach()

    def _refused(self, data: memoryview) -> None:
        """The rules refused a packet: say of whom it was, and what it wanted."""
        try:
            packet = read_packet(data)
        except DecodeError:
            return
        port, verdict = 0, None
        if packet.protocol in (TCP, UDP) and packet.end >= packet.start + 4:
            port = data[packet.start + 2] << 8 | data[packet.start + 3]
            transport = STREAM if packet.protocol == TCP else DATAGRAMS
            verdict = self._senders.judge(transport, packet.source, packet.destination, port)
            if verdict.service and verdict.who:
                self._senders.counts["refused again"] += 1  # recorded when it was denied
                return
        else:
            verdict = self._senders.judge_asset(packet.source, packet.destination)
        self._senders.turn_away(packet.source, packet.destination, port, verdict)

    def _deny(self, client: tuple[str, int], destination: tuple[str, int]) -> None:
        """Have the kernel refuse what comes next of this flow."""
        if len(self._denied) >= _PENDING:
            return
        self._denied.add((client[0].partition("%")[0], destination[0], destination[1]))
        if self._denying is None or self._denying.done():
            self._denying = spawn(self._tell(), "denied flows")

    async def _tell(self) -> None:
        while self._denied and self._rules is not None:
            flows, self._denied = self._denied, set()
            try:
                await run("nft", "-f", "-", text=steering.denied(self._table_name, flows))
            except HostError as error:
                _log.warning("steered.denied", reason=str(error))
                return


def supports(mode: str, transport: int) -> bool:
    """Whether a mode carries streams or datagrams."""
    return transport == STREAM or mode != "redirect"


def _covered(prefix: Prefix, there: set[Prefix]) -> bool:
    """Whether one of these holds all of it."""
    version, network, _ = prefix
    for length in range(prefix.length + 1):
        if Prefix(version, network & Prefix(version, 0, length).mask, length) in there:
            return True
    return False
