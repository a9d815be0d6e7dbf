"""Whether a rule of nftables means a packet, from what `nft -j` prints of it. Pure."""

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Value = str | int | Network | frozenset[str]
Packet = Mapping[str, Value]
"""What is known: `nfproto`, `l4proto`, `iifname`, `oifname`, `saddr`, `daddr`, `sport`, `dport`, `mark`, `ct state`,
`ct status`, `tcp flags`; `reversed`: its sender is reached by where it came in. An address may be a subnet, whose every
address is meant; flags are those that are set."""
_FLAGS = frozenset({"ct state", "ct status", "tcp flags"})
_PROTOCOLS = {"1": "icmp", "6": "tcp", "17": "udp", "58": "ipv6-icmp", "icmpv6": "ipv6-icmp"}
_SAME = {"iif": "iifname", "oif": "oifname"}
_VERSIONS = {"ip": "ipv4", "ip6": "ipv6"}


class Fit(IntEnum):
    """Whether a packet is one that a rule means; the greater the less is certain."""

    YES = 0
    SOME = 1
    UNKNOWN = 2
    NO = 3


class Matcher:
    """Of one packet.

    Args:
        packet: what is known of it.
        elements: what is in a named set or map; None where that is not known.
    """

    def __init__(self, packet: Packet, elements: Callable[[str], list[Any] | None]) -> None:
        self._packet = packet
        self._elements = elements

    def fit(self, left: Any, operator: str, right: Any) -> Fit:
        """Of one comparison, as nft prints its sides."""
        if isinstance(left, dict) and "concat" in left:
            return self._side_by_side(left["concat"], operator, right)
        mask: Any = None
        if isinstance(left, dict) and "&" in left:
            left, mask = left["&"]
        key, other = _key(left, self._packet)
        if other is not Fit.YES:
            return other
        value = self._packet.get(key)
        if value is None:
            return Fit.SOME if key else Fit.UNKNOWN
        if mask is not None:
            value = _masked(value, mask)
        if value is None:
            return Fit.UNKNOWN
        if operator in ("<", ">", "<=", ">="):
            return _ordered(value, operator, right)
        wanted = self._wanted(right)
        if wanted is None:
            return Fit.UNKNOWN
        if key not in _FLAGS:
            fit = _any(_equal(key, value, one) for one in wanted)
        elif key == "ct state" or operator in ("in", "!"):
            fit = _any(_shares(value, one) for one in wanted)
        else:
            whole = isinstance(right, dict) and "set" in right
            fit = _any(_same(value, one) for one in (wanted if whole else [wanted]))
        return _not(fit) if operator in ("!=", "!") else fit

    def _side_by_side(self, keys: list[Any], operator: str, right: Any) -> Fit:
        wanted = self._wanted(right)
        if wanted is None:
            return Fit.UNKNOWN
        fits = []
        for one in wanted:
            parts = one.get("concat", ()) if isinstance(one, dict) else ()
            if len(parts) != len(keys):
                return Fit.UNKNOWN
            each = (self.fit(key, "==", part) for key, part in zip(keys, parts, strict=True))
            fits.append(max(each, default=Fit.YES))
        fit = _any(fits)
        return _not(fit) if operator == "!=" else fit

    def _wanted(self, right: Any) -> list[Any] | None:
        """The values that are meant, any of them."""
        some = right["set"] if isinstance(right, dict) and "set" in right else None
        if isinstance(right, str) and right.startswith("@"):
            some = self._elements(right)
        elif some is None:
            return _listed(right)
        if some is None:
            return None
        return [
            one["elem"]["val"] if isinstance(one, dict) and "elem" in one else one for one in some
        ]


def _listed(value: Any) -> list[Any]:
    """One value, or flags side by side, as versions of nft print them."""
    if isinstance(value, dict) and "|" in value:
        value = value["|"]
    return list(value) if isinstance(value, list) else [value]


def _key(left: Any, packet: Packet) -> tuple[str, Fit]:
    """What of a packet a rule looks at (empty: nothing that is known here), and whether the packet has such a thing."""
    ((kind, body),) = left.items() if isinstance(left, dict) and left else (("", None),)
    if not isinstance(body, dict):
        return "", Fit.UNKNOWN
    name = str(body.get("key", ""))
    if kind == "meta":
        return _SAME.get(name, name), Fit.YES
    if kind == "ct":
        if name in ("state", "status"):
            return f"ct {name}", Fit.YES
        return "", Fit.UNKNOWN
    if kind == "fib" and body.get("result") == "oif" and "saddr" in body.get("flags", ()):
        return "reversed", Fit.YES
    if kind != "payload" or "field" not in body:
        return "", Fit.UNKNOWN
    protocol, field = body["protocol"], body["field"]
    if protocol in _VERSIONS:
        other = packet.get("nfproto", _VERSIONS[protocol]) != _VERSIONS[protocol]
        field = "l4proto" if field in ("protocol", "nexthdr") else field
        return field, Fit.NO if other else Fit.YES
    carried = packet.get("l4proto")
    if protocol != "th" and carried is not None and carried != _PROTOCOLS.get(protocol, protocol):
        return field, Fit.NO
    return (field if field in ("sport", "dport") else f"{protocol} {field}"), Fit.YES


def _any(fits: Iterable[Fit]) -> Fit:
    found = set(fits)
    return next((one for one in (Fit.YES, Fit.UNKNOWN, Fit.SOME) if one in found), Fit.NO)


def _not(fit: Fit) -> Fit:
    return {Fit.YES: Fit.NO, Fit.NO: Fit.YES}.get(fit, fit)


def _equal(key: str, value: Value, wanted: Any) -> Fit:
    if key in ("saddr", "daddr") and not isinstance(value, (str, int, frozenset)):
        return _inside(value, wanted)
    if isinstance(wanted, dict):
        bounds = wanted.get("range")
        if bounds and isinstance(value, int) and all(isinstance(one, int) for one in bounds):
            return Fit.YES if bounds[0] <= value <= bounds[1] else Fit.NO
        return Fit.UNKNOWN
    if key == "l4proto":
        return Fit.YES if value == _PROTOCOLS.get(str(wanted), str(wanted)) else Fit.NO
    if isinstance(value, str) and isinstance(wanted, str) and wanted.endswith("*"):
        return Fit.YES if value.startswith(wanted[:-1]) else Fit.NO
    return Fit.YES if value == wanted else Fit.NO if type(value) is type(wanted) else Fit.UNKNOWN


def _inside(value: Network, wanted: Any) -> Fit:
    """Whether all addresses of a subnet are among those that are meant."""
    first, last = int(value.network_address), int(value.broadcast_address)
    try:
        if isinstance(wanted, dict) and "range" in wanted:
            low, high = (int(ipaddress.ip_address(one)) for one in wanted["range"])
        else:
            prefix = wanted["prefix"] if isinstance(wanted, dict) else {"addr": wanted, "len": None}
            size = "" if prefix["len"] is None else f"/{prefix['len']}"
            network = ipaddress.ip_network(f"{prefix['addr']}{size}", strict=False)
            if network.version != value.version:
                return Fit.NO
            low, high = int(network.network_address), int(network.broadcast_address)
    except (ValueError, KeyError, TypeError):
        return Fit.UNKNOWN
    if low <= first and last <= high:
        return Fit.YES
    return Fit.SOME if low <= last and first <= high else Fit.NO


def _shares(value: Value, wanted: Any) -> Fit:
    """One of these flags is set."""
    if not isinstance(value, frozenset):
        return Fit.UNKNOWN
    return Fit.YES if value & {str(one) for one in _listed(wanted)} else Fit.NO


def _same(value: Value, wanted: Any) -> Fit:
    """These flags are set and no other."""
    if not isinstance(value, frozenset):
        return Fit.UNKNOWN
    return Fit.YES if value == {str(one) for one in _listed(wanted) if one != 0} else Fit.NO


def _masked(value: Value, mask: Any) -> Value | None:
    if isinstance(value, int) and isinstance(mask, int):
        return value & mask
    return value & set(map(str, _listed(mask))) if isinstance(value, frozenset) else None


def _ordered(value: Value, operator: str, right: Any) -> Fit:
    if not isinstance(value, int) or not isinstance(right, int):
        return Fit.UNKNOWN
    return (
        Fit.YES
        if {"<": value < right, ">": value > right, "<=": value <= right, ">=": value >= right}[
            operator
        ]
        else Fit.NO
    )
