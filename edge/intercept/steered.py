"""`tproxy` and `redirect` interception: rules of nftables steer traffic to listeners; needs CAP_NET_ADMIN and nft.

What has no service, or no grant, is refused by the rules. The kernel has accepted a connection before the edge sees
it, so one that is denied though there is a grant (a kill), or whose asset does not answer, is reset and not refused.
Ping is not carried, and by `redirect` no UDP.
"""

import asyncio
import contextlib
import ipaddress
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from edge.intercept import steering
from edge.intercept.base import Caught, Failed, Interface
from edge.intercept.flows import CONNECTIONS, CONNECTIONS_PER_SOURCE
from edge.intercept.plan import Plan, missing_routes
from edge.intercept.refusals import Refusals
from edge.intercept.senders import Senders, Sources
from edge.intercept.steered_udp import SteeredUdp
from edge.intercept.steering import Layout, Marks, Rules
from edge.intercept.table import Table
from edge.machine.changes import (
    MAX_RULES,
    AddressChange,
    Change,
    HostChanges,
    HostError,
    NftChange,
    RouteChange,
    RuleChange,
)
from edge.machine.netfilter import table_exists
from edge.machine.netlink import LOCAL, MAIN_TABLE, Netlink, speaks_ipv6
from overlay import limits
from overlay.aio.lifecycle import describe
from overlay.aio.logs import get_logger
from overlay.aio.pump import join
from overlay.aio.sockets import SocketListener, make_transparent
from overlay.aio.world import Connection
from overlay.policy.interception import Prefix
from overlay.wire.bodies import STREAM

LOOPBACK = "lo"
BACKLOG = 4096
TRIES = 8
"""For a port that is free for all listeners."""
_ORIGINAL = {4: (socket.IPPROTO_IP, 16, 4), 6: (socket.IPPROTO_IPV6, 28, 8)}
"""Level, size, and where the address is, of SO_ORIGINAL_DST; the port is at 2 in both."""
_SO_ORIGINAL_DST = 80

TAKEN = (
    "there is a table inet {0} of nftables already: where another edge runs on this host, give this one another name "
    "than {1} with --tun, and another pool; else remove it with `nft delete table inet {0}`"
)

_log = get_logger("steered")


class Way(NamedTuple):
    """What is special about a mode."""

    name: str
    rules: Callable[[Plan, Layout, int, Marks], Rules]
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
        plan: what is caught now.
        addresses: of the edge, in the pools; empty while another mode holds them.
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
        addresses: Callable[[], tuple[Interface, ...]],
    ) -> None:
        self.mode = mode
        self._problems: list[str] = []
        self._way = WAYS[mode]
        self._caught = caught
        self._senders = Senders(caught, table, sources)
        self._changes = changes
        self._plan = plan
        self._name = interface
        self._marks = Marks.of(interface, mode)
        self._tables = [steering.table_name(interface, f"{mode}{suffix}") for suffix in ("", "_b")]
        """Two, of which one is in use: the other one takes its place."""
        self._addresses = addresses
        self._versions = (4, 6) if socket.has_ipv6 and speaks_ipv6(LOOPBACK) else (4,)
        self._made: list[Change] = []
        self._held: tuple[Change, ...] = ()
        self._routes: dict[Prefix, Change] = {}
        self._rules: NftChange | None = None
        self._layout: Layout | None = None
        self._routed: Layout | None = None
        """For which there are routes."""
        self.port = 0
        self._listeners: list[SocketListener] = []
        self._udp: SteeredUdp | None = None
        self._refusals = Refusals(
            mode, caught, self._senders, lambda: "" if self._rules is None else self._rules.table
        )
        self._open = 0
        self._per_source: Counter[bytes] = Counter()

    async def start(self) -> None:
        """Device."""
        try:
            self._claim()
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
            self._refusals.listen(self._marks.group)
        except OSError as error:  # only what is recorded depends on it
            self._problems.append(
                f"attempts that the rules of {self.mode} refuse are not recorded: {describe(error)}"
            )
        _log.info("steered.up", mode=self.mode, table=self._tables[0], port=self.port)

    async def refresh(self) -> None:
        """Device."""
        try:
            old = self._rules
            if old is None:
                return
            rules = await asyncio.to_thread(self._ruleset)
            await self._hold()
            if rules == old:
                return
            # First: what fails here is tried again as long as the rules are the old ones.
            if self._routed is not self._layout:
                await self._route()
            if not await self._alter(old, rules):
                await self._replace(old, replace(rules, table=self._tables[1]))
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
        self._refusals.close()

    async def stop(self) -> None:
        """Device."""
        self.cut()
        rules = [] if self._rules is None else [self._rules]
        made = [*self._held, *self._made, *self._routes.values(), *rules]
        self._held, self._made, self._routes, self._rules = (), [], {}, None
        self._routed = None
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

    def _claim(self) -> None:
        """Take no table away. Raises: Failed: there is one of ours, and another edge's journal has it."""
        with contextlib.suppress(OSError):  # what comes next needs the same right, and says so
            for table in self._tables:
                if table_exists("inet", table):
                    raise Failed(TAKEN.format(table, self._name))

    def _bind(self) -> None:
        """Listeners of all kinds at one port that the system chooses."""
        for version in self._versions:
            sock = self._socket(version, socket.SOCK_STREAM)
            self.port = sock.getsockname()[1]
            sock.listen(BACKLOG)
            self._listeners.append(SocketListener([sock], self._accepted))
        if self._way.transparent:
            socks = [self._socket(version, socket.SOCK_DGRAM) for version in self._versions]
            self._udp = SteeredUdp(self._caught, self._senders, socks, self._refusals.deny)

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
        await self._hold()
        changes: list[Change] = []
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
        rules = await asyncio.to_thread(self._ruleset)
        await self._changes.apply([rules])
        self._rules = rules

    async def _alter(self, old: NftChange, new: NftChange) -> bool:
        """Change what is in the sets and nothing else; False where that is not all, or somebody has removed them."""
        try:
            altered = await self._changes.alter(old, new)
        except HostError as error:
            _log.info("steered.anew", reason=str(error))
            return False
        if altered:
            self._rules = new
        return altered

    async def _replace(self, old: NftChange, new: NftChange) -> None:
        """For a moment both tables are there, and what one of them refuses is refused. Raises: HostError, OSError."""
        await self._changes.apply([new])
        self._tables.reverse()
        self._rules = new
        await self._changes.undo([old])

    async def _hold(self) -> None:
        """Have the edge's own addresses, or leave them to another mode."""
        ours = (one for one in self._addresses() if one.version in self._versions)
        wanted = tuple(AddressChange(LOOPBACK, str(one)) for one in ours)
        if wanted != self._held:
            held, self._held = self._held, ()
            await self._changes.undo(held)
            self._held = await self._changes.apply(wanted)

    async def _route(self) -> None:
        """A program of this host can only send where a route leads to, whichever; ours are there as long as needed."""
        layout = self._layout
        wanted, lacking = await asyncio.to_thread(self._compare_routes)
        stale = self._routes.keys() - wanted
        await self._changes.apply([*lacking.values()])
        self._routes |= lacking
        if stale:
            await self._changes.undo([self._routes[prefix] for prefix in stale])
        for prefix in stale:
            del self._routes[prefix]
        self._routed = layout

    def _compare_routes(self) -> tuple[set[Prefix], dict[Prefix, Change]]:
        """What is to be caught, and the routes that are lacking to it. Raises: OSError."""
        wanted = {one for one in self._plan().prefixes() if one.version in self._versions}
        with Netlink() as kernel:
            there = {Prefix.of(one.destination) for one in kernel.routes(MAIN_TABLE)}
        lacking = missing_routes(wanted, there - (self._routes.keys() - wanted))
        return wanted, {one: RouteChange(str(one.as_network()), LOOPBACK) for one in lacking}

    def _ruleset(self) -> NftChange:
        """Of the table that is in use. Raises: HostError: there is more of it than an edge makes."""
        plan = self._plan()
        if self._layout is None or not self._layout.fits(plan):
            self._layout = Layout(plan)
        sets, hooks, elements = self._way.rules(plan, self._layout, self.port, self._marks)
        size = len(sets) + len(hooks) + sum(len(one) for _, some in elements for one in some)
        if size > MAX_RULES:
            raise HostError(f"the rules would have more than {MAX_RULES} characters")
        return NftChange("inet", self._tables[0], hooks, sets, elements)

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
        if self._open >= CONNECTIONS or self._per_source[source] >= CONNECTIONS_PER_SOURCE:
            counts["too many flows"] += 1
            connection.abort()
            return
        verdict = self._senders.judge(STREAM, source, destination, port)
        if not verdict.service or not verdict.who:
            self._senders.turn_away(source, destination, port, verdict)
            connection.abort()
            return
        stream = self._caught.open(
            verdict.who, verdict.service, verdict.port, verdict.address,
            connection.arrived(limits.MAX_EARLY_DATA),
        )  # fmt: skip
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
