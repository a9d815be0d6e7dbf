"""What a node's outgoing circuits share."""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from overlay.aio.node_circuits import NodeCircuits
from overlay.circuit.association import CallerAssociation, CallerAssociations
from overlay.circuit.caller import Wish
from overlay.circuit.link_choice import NEVER, Failures
from overlay.errors import FerruleError
from overlay.identity.certificate import Leaf
from overlay.ordered import OrderedSet

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver


class Waiting(Protocol):
    """A circuit that is being opened (`overlay.aio.calling.Outgoing`), as far as the others must know it."""

    wish: Wish

    @property
    def handshake_key(self) -> bytes:
        """Openings of one key wait for each other's handshake (C-05)."""
        ...

    def begin(self) -> None:
        """Go on."""
        ...

    def link_up(self) -> None:
        """A link came up while it waited for any."""
        ...


class CallerTable:
    """Associations, handshakes under way, who waits for a link, and which links have failed."""

    def __init__(self, node: NodeCircuits) -> None:
        self.linkless = OrderedSet[Waiting]()
        self._node = node
        self._loop = asyncio.get_running_loop()
        self._associations = CallerAssociations()
        self._shaking: dict[bytes, list[Waiting]] = {}
        self._failures: WeakKeyDictionary[LinkDriver, Failures] = WeakKeyDictionary()

    def find(self, hosts: tuple[str, ...]) -> CallerAssociation | None:
        """A living one to one of these hosts (none: to a controller), while both leaves are still good (C-03)."""
        own = self._node.credentials().leaf
        if own is not None and own.not_after < self._node.plant_now():
            return None  # no host would take it, but a controller takes a handshake (I-05)
        found = self._associations.find(hosts or None, own, self._loop.time())
        if found is None:
            return None
        try:
            self._node.admit(found.peer)
        except FerruleError:
            self._associations.drop(found)
            return None
        return found

    def add(self, association: CallerAssociation) -> None:
        """Its handshake is confirmed by the host."""
        self._associations.add(association)

    def drop(self, association: CallerAssociation) -> None:
        """The host does not know it."""
        self._associations.drop(association)

    def forget(self, matches: Callable[[Leaf], bool]) -> None:
        """C-03."""
        self._associations.forget(matches)

    def may_shake_hands(self, outgoing: Waiting) -> bool:
        """True: go on. False: another opening makes the association, and `begin` is called again when that is
        done.
        """
        waiting = self._shaking.get(outgoing.handshake_key)
        if waiting is None or outgoing.wish.enrol:
            self._shaking.setdefault(outgoing.handshake_key, [])
            return True
        waiting.append(outgoing)
        return False

    def handshake_over(self, outgoing: Waiting) -> None:
        """Its handshake is done or has failed."""
        for waiting in self._shaking.pop(outgoing.handshake_key, ()):
            self._loop.call_soon(waiting.begin)

    def link_up(self) -> None:
        """A link came up."""
        for outgoing in list(self.linkless):
            outgoing.link_up()

    def silent(self, link: "LinkDriver") -> None:
        """It led to nothing: the next attempt begins with another one (C-66)."""
        self._failures.setdefault(link, Failures()).silent(self._loop.time())

    def refused(self, link: "LinkDriver", service: str) -> None:
        """It led to a refusal in clear; the same for this service, since its router may lie."""
        self._failures.setdefault(link, Failures()).refused(service, self._loop.time())

    def failed_at(self, link: "LinkDriver", service: str) -> float:
        """When it last failed such a circuit; `NEVER`: not lately."""
        failures = self._failures.get(link)
        return NEVER if failures is None else failures.last(service, self._loop.time())
