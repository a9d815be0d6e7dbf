"""Whose intercepted traffic is, and what is said of traffic of nobody, or to nothing; the same for every mode."""

import ipaddress
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from edge.intercept.base import Caught
from edge.intercept.table import Table, Verdict


class Sources(Protocol):
    """Who sends: known to the machine, not in the packet (`edge.intercept.sources`)."""

    def own(self, address: bytes) -> bool:
        """An address of this machine itself: a program on it sent the packet."""
        ...

    def mac(self, address: bytes) -> bytes | None:
        """The hardware address with which a device on the LAN has this address; None where there is none."""
        ...


class Senders:
    """Of one mode. Addresses are packed.

    Args:
        caught: who decides, and records.
        table: what is intercepted now.
        sources: who sends.
    """

    def __init__(self, caught: Caught, table: Callable[[], Table], sources: Sources) -> None:
        self.counts: Counter[str] = Counter()
        self._caught = caught
        self._table = table
        self._sources = sources

    def judge(self, transport: int, source: bytes, destination: bytes, port: int) -> Verdict:
        """Which service is meant, and of whom the traffic is."""
        sender, mac = self._sender(source)
        return self._table().match(transport, destination, port, sender, mac)

    def judge_asset(self, source: bytes, destination: bytes) -> Verdict:
        """The same for what has no port."""
        sender, mac = self._sender(source)
        return self._table().match_asset(destination, sender, mac)

    def turn_away(self, source: bytes, destination: bytes, port: int, verdict: Verdict) -> None:
        """Record traffic of nobody, or to nothing."""
        self.counts["turned away"] += 1
        target = str(ipaddress.ip_address(destination))
        if port:
            target = f"[{target}]:{port}" if ":" in target else f"{target}:{port}"
        who = str(ipaddress.ip_address(source))
        self._caught.turned_away(who, verdict.service or target, verdict.reason)

    def _sender(self, source: bytes) -> tuple[bytes | None, bytes | None]:
        if self._sources.own(source):
            return None, None
        return source, self._sources.mac(source)
