"""How much waits in a router, and which circuit is given up when that is too much (docs/protocol/link.md, L-24)."""

from collections.abc import Iterator

from overlay import limits
from overlay.aio.link_driver import LinkDriver

LARGEST_QUEUE = limits.MAX_WINDOW + limits.MAX_DATA
"""Bytes of one direction of a circuit that may wait here: more is against the rules."""
SPLICED_QUEUE = 4 * 1024 * 1024
"""Bytes on one link up to which payloads wait in pipes, of which there are few; beyond it they wait in memory."""
_LEAST = 2 * LARGEST_QUEUE


class Queues:
    """Keeps the sum of all links' queues as frames are put in; what left meanwhile is noticed when it matters.

    `most`: bytes that may wait in all.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most = limits.ROUTER_QUEUE_BYTES if most is None else most
        self._shed_to = self._most * 7 // 8
        self._waiting: dict[LinkDriver, int] = {}
        self._total = 0

    @classmethod
    def shared(cls, processes: int) -> "Queues":
        """The part of one process of a router that has several: together they hold what one would, as long as that
        leaves each room for two full windows."""
        most = limits.ROUTER_QUEUE_BYTES
        return cls(max(min(_LEAST, most), most // processes))

    def put(self, link: LinkDriver) -> bool:
        """A frame was queued on `link`; True: too much may wait in all."""
        waiting = link.total_backlog
        self._total += waiting - self._waiting.get(link, 0)
        if waiting:
            self._waiting[link] = waiting
        else:
            self._waiting.pop(link, None)
        return self._total > self._most

    def forget(self, link: LinkDriver) -> None:
        """The link is gone, and with it what waited."""
        self._total -= self._waiting.pop(link, 0)

    def excess(self) -> Iterator[tuple[LinkDriver, int]]:
        """Circuits to give up, by link and number, the longest queue first, until enough room is left.

        The caller cuts each before it asks for the next.
        """
        self._count()
        while self._total > self._shed_to and self._waiting:
            link = max(self._waiting, key=lambda one: one.largest_backlog()[1])
            number, size = link.largest_backlog()
            if not size:
                return  # only control waits, which has its own bound
            yield link, number
            if link.backlog(number) >= size:
                return  # nothing was given up
            self._count()

    def _count(self) -> None:
        self._waiting = {link: link.total_backlog for link in self._waiting if link.total_backlog}
        self._total = sum(self._waiting.values())
