"""The links of a router by node and lane (docs/protocol/link.md, L-08): of several with one node, the newest counts."""

from collections.abc import Iterator, Mapping
from typing import Generic, Protocol, TypeVar

from overlay.identity.certificate import Leaf, Role
from overlay.wire.bodies import EXPRESS


class Neighbour(Protocol):
    """What is asked of a link."""

    @property
    def name(self) -> str:
        """Who is at the other end."""
        ...

    @property
    def peer(self) -> Leaf | None:
        """Its certificate; None for a newcomer."""
        ...

    @property
    def newcomer(self) -> bool:
        """It is there to enrol, and is nobody's neighbour."""
        ...

    @property
    def lane(self) -> int:
        """Which lane this is."""
        ...


L = TypeVar("L", bound=Neighbour)


class Links(Generic[L]):
    """All links that are up. Pure: links are only compared and asked who they are."""

    def __init__(self) -> None:
        self._all: dict[L, None] = {}
        self._lanes: dict[int, dict[str, L]] = {}
        self._roles: dict[int, dict[str, Role]] = {}
        self.express = self.lane(EXPRESS)
        """The newest living express link of each neighbour, by name."""

    def __iter__(self) -> Iterator[L]:
        return iter(list(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def lane(self, lane: int) -> Mapping[str, L]:
        """The newest link of each neighbour in this lane, by name; kept up to date."""
        return self._lanes.setdefault(lane, {})

    def roles(self, lane: int) -> Mapping[str, Role]:
        """Who has a link in this lane, and what it is; kept up to date."""
        return self._roles.setdefault(lane, {})

    def add(self, link: L) -> None:
        """A link has come up."""
        self._all[link] = None
        self._note(link)

    def discard(self, link: L) -> None:
        """A link is gone: an older one with the same node and lane counts again, if there is one."""
        self._all.pop(link, None)
        if self.lane(link.lane).get(link.name) is not link:
            return
        del self._lanes[link.lane][link.name], self._roles[link.lane][link.name]
        for other in self._all:
            if other.name == link.name and other.lane == link.lane:
                self._note(other)

    def newcomers(self) -> int:
        """How many are there to enrol."""
        return sum(link.newcomer for link in self._all)

    def _note(self, link: L) -> None:
        if link.peer is not None and not link.newcomer:
            self._lanes.setdefault(link.lane, {})[link.name] = link
            self._roles.setdefault(link.lane, {})[link.name] = link.peer.identity.role
