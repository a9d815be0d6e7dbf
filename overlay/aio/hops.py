"""The links of one event loop, and who gets the frames of each hop on them."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from overlay import limits
from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.circuit_roles import Target
from overlay.aio.world import EventLoop
from overlay.errors import Code
from overlay.wire.bodies import Refusal
from overlay.wire.codec import encode
from overlay.wire.header import Header, Kind

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver

_FREED = encode(Refusal(Code.NORMAL, ""))


class Hops:
    """Touched by callbacks of `loop` only, but for `post`."""

    def __init__(self, loop: EventLoop) -> None:
        self._event_loop = loop
        self._links: dict[LinkDriver, dict[int, Target]] = {}

    def post(self, call: Callable[..., object], *arguments: object) -> None:
        """Call it on this event loop, from whichever."""
        self._event_loop.post(call, *arguments)

    def links(self) -> "list[LinkDriver]":
        """The links that are up, oldest first."""
        return list(self._links)

    def bind(self, link: "LinkDriver", number: int, target: Target) -> None:
        """Frames of this hop go to `target` from now on."""
        hops = self._links.get(link)
        if hops is not None:
            hops[number] = target

    def unbind(self, link: "LinkDriver", number: int) -> None:
        """The hop is nobody's any more."""
        self._links.get(link, {}).pop(number, None)

    def free(self, link: "LinkDriver", number: int) -> None:
        """Give the hop up (L-21)."""
        self.unbind(link, number)
        link.send(Kind.RESET, number, _FREED)

    def turn_away(self, link: "LinkDriver", number: int, code: Code, reason: str) -> None:
        """REFUSE in clear."""
        self.unbind(link, number)
        link.send(Kind.REFUSE, number, encode(Refusal(int(code), reason[: limits.MAX_REASON])))

    def frame(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """LinkOwner."""
        hops = self._links.get(link)
        if hops is None:
            return
        target = hops.get(header.circuit)
        if target is not None:
            target.frame(link, header, payload)
        else:
            self.began(link, header, payload)

    def began(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """A frame of a hop that is nobody's: when it opens one, decide who gets it."""
        raise NotImplementedError

    def room(self, link: "LinkDriver", circuit: int) -> None:
        """LinkOwner."""
        target = self._links.get(link, {}).get(circuit)
        if isinstance(target, CircuitDriver):
            target.link_has_room()

    def lose(self, link: "LinkDriver", reason: str) -> None:
        """The link is gone, and all hops on it."""
        targets = self._links.pop(link, {})
        for target in list(targets.values()):
            target.lose(link, Code.PATH_LOST, reason)
