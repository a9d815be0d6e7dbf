"""What the kernel knows of addresses, routes, rules and neighbours of this host, asked and changed over rtnetlink.

Of the edge only, and blocking: the kernel answers at once. Written out because the libraries for it do not run under
uvloop or take a third of a second to load. Layouts: linux/rtnetlink.h, linux/fib_rules.h, linux/neighbour.h.
"""

import errno
import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge.machine.news import AT_ONCE, NetlinkNews

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAIN_TABLE = 254
PROTOCOL = 70
"""What the kernel keeps of an edge's addresses, routes and rules as who made them: a number that nobody else has."""
LOCAL = 2
"""The kind of a route to this host itself."""
_BIG_TABLE = 252
"""Stands where a table's number does not fit into a byte."""
_GETLINK = 18
_NEWADDR, _DELADDR, _GETADDR = 20, 21, 22
_NEWROUTE, _DELROUTE, _GETROUTE = 24, 25, 26
_GETNEIGH = 30
_NEWRULE, _DELRULE, _GETRULE = 32, 33, 34
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _ROOT_MATCH, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x400
_REPLACE = 0x100
_NEWS = 0x10 | 0x40 | 0x100 | 0x400
"""Groups of the kernel's news: addresses and routes of both versions of IP."""
_INTERFACES = 0x1
"""The group of news of interfaces, cables included."""
_UP = 0x1
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_MAC_LENGTH = 6
_NO_MAC = 0x40 | 0x20 | 0x01
"""Neighbour states in which its MAC is not known: NOARP, FAILED, INCOMPLETE."""


class Link(NamedTuple):
    """A network interface."""

    number: int
    name: str
    up: bool
    mtu: int


class Route(NamedTuple):
    """A route; `destination` of length 0 is a default route, `kind` 1 is to elsewhere."""

    destination: Network
    interface: int
    gateway: Address | None = None
    table: int = MAIN_TABLE
    kind: int = 1
    metric: int = 0


class Rule(NamedTuple):
    """A rule of policy routing: packets with `mark` are routed by `table`."""

    version: int
    mark: int
    table: int
    priority: int


class Netlink:
    """A socket to the kernel. Every method raises OSError where the kernel refuses (EPERM: no CAP_NET_ADMIN)."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.bind((0, 0))
        self._socket.settimeout(5.0)
        self.port: int = self._socket.getsockname()[0]
        """By which the kernel names it in its news of what was changed by it."""
        self._sequence = 0

    def close(self) -> None:
        """Give it back."""
        self._socket.close()

    def __enter__(self) -> "Netlink":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- interfaces -------------------------------------------------------------------------------

    def links(self) -> list[Link]:
        """All interfaces."""
        found = []
        for body in self._dump(_GETLINK, struct.pack("=BxHiII", 0, 0, 0, 0, 0)):
            _, _, index, flags, _ = struct.unpack_from("=BxHiII", body)
            attributes = _attributes(body[16:])
            name = attributes.get(3, b"").rstrip(b"\0").decode("utf-8", "replace")
            mtu = int.from_bytes(attributes.get(4, b""), sys.byteorder)
            found.append(Link(index, name, bool(flags & _UP), mtu))
        return found

    def index(self, name: str) -> int:
        """The number of an interface. Raises: OSError: ENODEV: there is none of that name."""
        try:
            return socket.if_nametoindex(name)
        except OSError:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name) from None

    # --- addresses --------------------------------------------------------------------------------

    def addresses(self) -> list[tuple[int, Interface]]:
        """All addresses with the index of their interface."""
        found = []
        for body in self._dump(_GETADDR, struct.pack("=BBBBi", 0, 0, 0, 0, 0)):
            family, length, _, _, index = struct.unpack_from("=BBBBi", body)
            attributes = _attributes(body[8:])
            raw = attributes.get(2) or attributes.get(1)
            if family in _FAMILIES.values() and raw is not None:
                found.append(
                    (index, ipaddress.ip_interface(f"{ipaddress.ip_address(raw)}/{length}"))
                )
        return found

    def add_address(self, index: int, address: Interface) -> None:
        """Give an interface an address; an IPv6 one is used at once, without a search for its double."""
        self._change(_NEWADDR, _CREATE | _EXCLUSIVE, _address(index, address))

    def drop_address(self, index: int, address: Interface) -> None:
        """Take it away, whoever made it."""
        self._change(_DELADDR, 0, _address(index, address))

    def whose(self, index: int, address: Interface) -> int | None:
        """The protocol that made an address, 0 where the kernel does not know; None where it is not there."""
        for body in self._dump(
            _GETADDR, struct.pack("=BBBBi", _FAMILIES[address.version], 0, 0, 0, 0)
        ):
            _, length, _, _, at = struct.unpack_from("=BBBBi", body)
            attributes = _attributes(body[8:])
            raw = attributes.get(2) or attributes.get(1)
            if (at, raw, length) == (index, address.packed, address.network.prefixlen):
                return attributes.get(11, b"\0")[0]
        return None

    # --- routes and rules -------------------------------------------------------------------------

    def routes(self, table: int | None = MAIN_TABLE, *, version: int = 0) -> list[Route]:
        """Routes of one table, or of all; of one version of IP, or of both."""
        found = []
        for body in self._dump(_GETROUTE, bytes([_FAMILIES.get(version, 0)]) + bytes(11)):
            family, length, _, _, number, _, _, kind = struct.unpack_from("=BBBBBBBB", body)
            if family not in _FAMILIES.values():
                continue
            attributes = _attributes(body[12:])
            number = int.from_bytes(attributes.get(15, bytes([number])), sys.byteorder)
            if table is not None and number != table:
                continue
            size = 4 if family == socket.AF_INET else 16
            network = ipaddress.ip_address(attributes.get(1, bytes(size)))
            gateway = attributes.get(5)
            found.append(
                Route(
                    ipaddress.ip_network(f"{network}/{length}", strict=False),
                    int.from_bytes(attributes.get(4, b""), sys.byteorder),
                    None if gateway is None else ipaddress.ip_address(gateway),
                    number, kind, int.from_bytes(attributes.get(6, b""), sys.byteorder),
                )
            )  # fmt: skip
        return found

    def add_route(self, route: Route) -> None:
        """Add it. Raises: OSError: EEXIST: there is one."""
        self._change(_NEWROUTE, _CREATE | _EXCLUSIVE, _route(route))

    def drop_route(self, route: Route) -> None:
        """Take it away, where an edge made it. Raises: OSError: ESRCH: there is none that an edge made."""
        self._change(_DELROUTE, 0, _route(route))

    def rules(self) -> list[Rule]:
        """All rules that name a mark."""
        found = []
        for body in self._dump(_GETRULE, bytes(12)):
            attributes = _attributes(body[12:])
            mark = int.from_bytes(attributes.get(10, b""), sys.byteorder)
            if mark:
                version = 4 if body[0] == socket.AF_INET else 6
                table = int.from_bytes(attributes.get(15, body[4:5]), sys.byteorder)
                priority = int.from_bytes(attributes.get(6, b""), sys.byteorder)
                found.append(Rule(version, mark, table, priority))
        return found

    def add_rule(self, rule: Rule) -> None:
        """Add it. Raises: OSError: EEXIST: there is one."""
        self._change(_NEWRULE, _CREATE | _EXCLUSIVE, _rule(rule))

    def drop_rule(self, rule: Rule) -> None:
        """Take it away, where an edge made it. Raises: OSError: ENOENT: there is none that an edge made."""
        self._change(_DELRULE, 0, _rule(rule))

    # --- neighbours -------------------------------------------------------------------------------

    def neighbours(self) -> dict[bytes, bytes]:
        """MAC addresses of neighbours by their packed IP address, as far as the kernel knows them."""
        found = {}
        for body in self._dump(_GETNEIGH, struct.pack("=BxHiHBB", 0, 0, 0, 0, 0, 0)):
            state = struct.unpack_from("=H", body, 8)[0]
            attributes = _attributes(body[12:])
            address, mac = attributes.get(1), attributes.get(2)
            if address and mac and len(mac) == _MAC_LENGTH and not state & _NO_MAC:
                found[address] = mac
        return found

    # --- messages ---------------------------------------------------------------------------------

    def _dump(self, kind: int, body: bytes) -> Iterator[bytes]:
        self._send(kind, _ROOT_MATCH, body)
        while True:
            for answer, payload in self._receive():
                if answer == _DONE:
                    return
                yield payload

    def _change(self, kind: int, flags: int, body: bytes) -> None:
        self._send(kind, _ACK | flags, body)
        while not self._receive():
            continue  # what is left of a list that nobody read to its end comes first

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        header = _HEADER.pack(_HEADER.size + len(body), kind, _REQUEST | flags, self._sequence, 0)
        self._socket.send(header + body)

    def _receive(self) -> list[tuple[int, bytes]]:
        """The messages of one datagram that answer the last request: none, when it answers an earlier one.

        Raises: OSError: the kernel's refusal.
        """
        found = []
        for kind, _, sequence, _, body in _messages(self._socket.recv(1 << 20)):
            if sequence != self._sequence:
                continue
            if kind == _ERROR:
                code = -int(struct.unpack_from("=i", body)[0])
                if code:
                    raise OSError(code, os.strerror(code))
            found.append((kind, body))
        return found


class News(NetlinkNews):
    """Readable when addresses, routes or interfaces of this host have changed. Needs no privilege."""

    protocol = 0  # NETLINK_ROUTE, which `socket` does not name on systems without
    groups = _NEWS | _INTERFACES


class Disturbances(News):
    """Hears of what others take from an interface: addresses, and routes to it. Made before what is to be watched."""

    groups = _NEWS

    def any(self, index: int, *, others: bool = False, but: int = -1) -> bool:
        """Whether there may have been one since it was last asked; at most `AT_ONCE` are looked at.

        Args:
            index: of the interface.
            others: a route of another interface that is gone counts, too.
            but: the port of the socket by which these things are changed ourselves.
        """
        found = False
        for _ in range(AT_ONCE):
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                break
            except OSError:  # more than there was room for: whatever it was
                found = True
                continue
            for kind, flags, _, port, body in _messages(data):
                if port == but:
                    continue
                if kind == _DELADDR:
                    found |= struct.unpack_from("=i", body, 4)[0] == index
                elif kind == _DELROUTE:
                    by = _attributes(body[12:]).get(4, b"")
                    found |= others or int.from_bytes(by, sys.byteorder) == index
                elif kind == _NEWROUTE:
                    # One that took the place of another, and nobody says of which.
                    found |= bool(flags & _REPLACE)
        return found


def _messages(data: bytes) -> Iterator[tuple[int, int, int, int, bytes]]:
    """The messages of one datagram: type, flags, sequence number, port, and what follows the header."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, port = _HEADER.unpack_from(data, at)
        if not _HEADER.size <= length <= len(data) - at:
            return
        yield kind, flags, sequence, port, data[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= len(data) - at:
            break
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3
    return found


def _address(index: int, address: Interface) -> bytes:
    no_double_search = 0x02 if address.version == 6 else 0
    head = struct.pack(
        "=BBBBi", _FAMILIES[address.version], address.network.prefixlen, no_double_search, 0, index
    )
    return (
        head
        + _attribute(2, address.packed)
        + _attribute(1, address.packed)
        + _attribute(11, bytes([PROTOCOL]))
    )


def _route(route: Route) -> bytes:
    to = route.destination
    scope = 254 if route.kind == LOCAL else 0 if route.gateway or to.version == 6 else 253
    number = route.table if route.table < 256 else _BIG_TABLE
    head = struct.pack(
        "=BBBBBBBBI",
        _FAMILIES[to.version],
        to.prefixlen,
        0,
        0,
        number,
        PROTOCOL,
        scope,
        route.kind,
        0,
    )
    body = _attribute(4, struct.pack("=i", route.interface))
    body += _attribute(15, struct.pack("=I", route.table))
    if to.prefixlen:
        body += _attribute(1, to.network_address.packed)
    if route.gateway is not None:
        body += _attribute(5, route.gateway.packed)
    if route.metric:
        body += _attribute(6, struct.pack("=I", route.metric))
    return head + body


def _rule(rule: Rule) -> bytes:
    number = rule.table if rule.table < 256 else _BIG_TABLE
    head = struct.pack("=BBBBBBBBI", _FAMILIES[rule.version], 0, 0, 0, number, 0, 0, 1, 0)
    return (
        head
        + _attribute(6, struct.pack("=I", rule.priority))
        + _attribute(10, struct.pack("=I", rule.mark))
        + _attribute(15, struct.pack("=I", rule.table))
        + _attribute(21, bytes([PROTOCOL]))
    )


def speaks_ipv6(interface: str) -> bool:
    """Whether the kernel has IPv6, and it is on at this interface."""
    try:
        switch = Path(f"/proc/sys/net/ipv6/conf/{interface}/disable_ipv6")
        return switch.read_text(encoding="ascii").strip() == "0"
    except OSError:
        return False
