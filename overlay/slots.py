"""How many of something may be in use at once, in all and by whom: bounds before anybody is authenticated."""

import ipaddress
from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Slots(Generic[Key]):
    """How many of something are in use at once, in all and per key; both bounded.

    `reserved` of them are only for keys that were `welcome`d before: whoever fills the rest cannot lock those out. The
    last `remembered` of these are known.
    """

    def __init__(self, total: int, per_key: int, reserved: int = 0, remembered: int = 0) -> None:
        self._total = total
        self._per_key = per_key
        self._reserved = reserved
        self._remembered = remembered
        self._used: dict[Key, int] = {}
        self._in_all = 0
        self._welcome: OrderedDict[Key, None] = OrderedDict()

    @property
    def used(self) -> int:
        """Slots in use, of all keys together."""
        return self._in_all

    def welcome(self, key: Key) -> None:
        """Remember that somebody authenticated from here."""
        self._welcome[key] = None
        self._welcome.move_to_end(key)
        if len(self._welcome) > self._remembered:
            self._welcome.popitem(last=False)

    def enter(self, key: Key) -> bool:
        """Whether there was a slot; then `leave` is owed."""
        mine = self._used.get(key, 0)
        total = self._total if key in self._welcome else self._total - self._reserved
        if mine >= self._per_key or self._in_all >= total:
            return False
        self._used[key] = mine + 1
        self._in_all += 1
        return True

    def leave(self, key: Key) -> None:
        """Give back what one `enter` took."""
        self._in_all -= 1
        mine = self._used[key] - 1
        if mine:
            self._used[key] = mine
        else:
            del self._used[key]


def source_of(address: str) -> str:
    """Whom limits count: an IPv4 address, or the /64 in which an IPv6 host can take any address it likes. What is no
    address counts as itself.
    """
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            return str(ip.ipv4_mapped)
        return str(ipaddress.IPv6Network((int(ip) >> 64 << 64, 64)))
    return str(ip)
