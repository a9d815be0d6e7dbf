"""Who may try a handshake now: bounds before authentication (docs/protocol/link.md, L-04)."""

from collections import Counter, OrderedDict

from overlay import limits

KNOWN_SOURCES = 4096
"""Source addresses that are remembered because somebody authenticated from there; the oldest gives way."""


class Places:
    """Counts handshakes that are under way, in all and by source address."""

    def __init__(
        self,
        at_once: int = limits.HANDSHAKES_AT_ONCE,
        per_source: int = limits.HANDSHAKES_PER_SOURCE,
        reserved: int = limits.HANDSHAKES_RESERVED,
    ) -> None:
        self._at_once = at_once
        self._per_source = per_source
        self._reserved = reserved
        self._by_source: Counter[str] = Counter()
        self._known: OrderedDict[str, None] = OrderedDict()
        self.taken = 0

    def enter(self, source: str) -> bool:
        """Take a place; False: there is none for this source, close the connection at once."""
        open_to_all = self._at_once - self._reserved
        free = self.taken < (self._at_once if source in self._known else open_to_all)
        if not free or self._by_source[source] >= self._per_source:
            if not self._by_source[source]:
                del self._by_source[source]
            return False
        self.taken += 1
        self._by_source[source] += 1
        return True

    def leave(self, source: str, *, authenticated: bool) -> None:
        """Give the place back; an authenticated source is a known one from now on."""
        self.taken -= 1
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]
        if authenticated:
            self._known[source] = None
            self._known.move_to_end(source)
            if len(self._known) > KNOWN_SOURCES:
                self._known.popitem(last=False)
