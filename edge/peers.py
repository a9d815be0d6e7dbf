"""Where this edge's own links lead: what must never be intercepted, since they would lead into themselves."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterable

from overlay.aio.sockets import resolve
from overlay.aio.tasks import cancel, spawn
from overlay.policy.interception import Address, as_address

ANSWER = 1.0
"""Seconds in which a resolver should say where a name leads; what it says later counts from the next time on."""


class Peers:
    """Names are asked anew each time, and what one led to counts until there is another answer: an edge that lost its
    links must not lose its way to new ones.

    Args:
        hosts: names and numbers that this edge dials.
        linked: at which numbers its links end now.
    """

    def __init__(
        self, hosts: Callable[[], Iterable[str]], linked: Callable[[], Iterable[str]]
    ) -> None:
        self._hosts = hosts
        self._linked = linked
        self._found: dict[str, list[Address]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    async def addresses(self) -> list[Address]:
        """All that is known, within `ANSWER`."""
        hosts = set(self._hosts())
        self._found = {host: known for host, known in self._found.items() if host in hosts}
        for host in hosts - self._asking.keys():
            if as_address(host) is None:
                self._asking[host] = spawn(self._ask(host), f"where {host} is")
        if self._asking:
            await asyncio.wait([*self._asking.values()], timeout=ANSWER)
        numbers = map(as_address, {*hosts, *self._linked()})
        return [one for one in numbers if one is not None] + [
            one for host in hosts for one in self._found.get(host, ())
        ]

    async def close(self) -> None:
        """Ask nobody any more."""
        await cancel(*self._asking.values())

    async def _ask(self, host: str) -> None:
        try:
            found = await resolve(host, 0, socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return  # what was known counts
        finally:
            del self._asking[host]
        self._found[host] = [ipaddress.ip_address(name[0].partition("%")[0]) for _, name in found]
