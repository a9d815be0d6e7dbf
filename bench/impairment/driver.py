"""Carries the packets of wires between network namespaces and spoils them: the process behind `bench.impairment.wires`.

Each end of a wire is a TUN device in its namespace, so packets come in the sizes in which they travel: the kernel has
cut super-packets and filled in checksums before. Orders are JSON lines on standard input, each answered by one line;
the end of the input ends the process, and its devices with it.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import select
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from bench.impairment.core import Direction, Impairment

TUN_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000
_NEW_NET = 0x40000000
NAMESPACES = Path("/run/netns")

PACKET = 65_536
TURN = 64
"""Packets that one end may hand over before the others have their turn."""


@contextlib.contextmanager
def entered(namespace: str) -> Iterator[None]:
    """This thread is in a namespace; what it opens there stays there.

    Raises:
        OSError: there is no such namespace, or we may not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    with open("/proc/thread-self/ns/net") as home, open(NAMESPACES / namespace) as there:
        if libc.setns(there.fileno(), _NEW_NET):
            raise OSError(ctypes.get_errno(), f"setns {namespace}")
        try:
            yield
        finally:
            libc.setns(home.fileno(), _NEW_NET)


def device(name: str, namespace: str) -> int:
    """Make a TUN device in a namespace; its file descriptor, non-blocking.

    Raises:
        OSError: there is no such namespace, the name is taken, or we may not.
    """
    with entered(namespace):
        made = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI)
            fcntl.ioctl(made, _TUNSETIFF, request)
        except OSError:
            os.close(made)
            raise
    return made


class Driver:
    """All wires of one process. Directions are named `WIRE>` (from its first end to its second) and `WIRE<`."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._directions: dict[str, Direction] = {}
        self._from: dict[int, tuple[Direction, int]] = {}
        """By the descriptor that packets are read from: the direction, and the descriptor that they are written to."""
        self._orders = b""

    def wire(self, name: str, ends: list[tuple[str, str]]) -> None:
        """Make a wire; each end is (namespace, name of the device in it).

        Raises:
            OSError: from `device`.
        """
        first, second = (device(interface, namespace) for namespace, interface in ends)
        for sign, source, target in ((">", first, second), ("<", second, first)):
            # Seeds of their own: what one direction draws does not depend on the packets of another.
            direction = Direction(Impairment(), Random(self._random.random()))
            self._directions[name + sign] = direction
            self._from[source] = (direction, target)

    def run(self) -> None:
        """Carry packets and obey orders until standard input ends."""
        while True:
            ready, _, _ = select.select([0, *self._from], [], [], self._patience())
            if 0 in ready:
                if not self._obey():
                    return
                ready.remove(0)
            for source in ready:
                self._take(source)
            now = time.monotonic()
            for direction, target in self._from.values():
                for packet in direction.due(now):
                    # A device that is down, or whose queue is full, loses the packet, as any wire would.
                    with contextlib.suppress(OSError):
                        os.write(target, packet)

    def _patience(self) -> float | None:
        """Seconds until something is due; None: nothing is on its way."""
        times = [when for one, _ in self._from.values() if (when := one.next()) is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _take(self, source: int) -> None:
        direction = self._from[source][0]
        for _ in range(TURN):
            try:
                packet = os.read(source, PACKET)
            except OSError:  # nothing more, or the device is down
                return
            direction.arrive(packet, time.monotonic())

    def _obey(self) -> bool:
        """Follow the orders that have come; False: there will be no more."""
        data = os.read(0, 65_536)
        if not data:
            return False
        *lines, self._orders = (self._orders + data).split(b"\n")
        for line in lines:
            try:
                answer = self.order(json.loads(line))
            except (OSError, TypeError, KeyError, ValueError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)
        return True

    def order(self, order: dict[str, Any]) -> dict[str, Any]:
        """Follow one: `wire` with `ends`, or `set` with the directions' impairments, or `counts`.

        Raises:
            OSError: from `device`.
            TypeError, KeyError, ValueError: it makes no sense.
        """
        if "wire" in order:
            self.wire(order["wire"], order["ends"])
        elif "set" in order:
            changes = {name: Impairment(**given) for name, given in order["set"].items()}
            for name, one in changes.items():
                if self._directions[name] is not None and one.wrong():
                    raise ValueError(one.wrong())
            for name, one in changes.items():  # all or none
                self._directions[name].change(one, time.monotonic())
        elif "counts" in order:
            return {name: one.counts._asdict() for name, one in self._directions.items()}
        else:
            raise ValueError("an order is wire, set, or counts")
        return {}


if __name__ == "__main__":
    Driver(Random(sys.argv[1])).run()
