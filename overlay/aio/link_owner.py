"""Who gets what a link carries."""

from typing import TYPE_CHECKING, Protocol

from overlay.errors import Code
from overlay.wire.bodies import LinkControl
from overlay.wire.header import Header

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver


class LinkOwner(Protocol):
    """Who gets what a link carries. Called from the event loop; must not block. `frame` and `control` may raise
    ProtocolError: the link ends with its code and text."""

    def link_up(self, link: "LinkDriver") -> None:
        """The other side said Hello; only now may frames be sent."""
        ...

    def frame(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """A frame of a circuit that is open on this link. `payload` holds during the call only."""
        ...

    def control(self, link: "LinkDriver", body: LinkControl) -> None:
        """A CONTROL body other than Hello."""
        ...

    def room(self, link: "LinkDriver", circuit: int) -> None:
        """The circuit's queue fell below half of `CIRCUIT_QUEUE_BYTES`."""
        ...

    def health(self, link: "LinkDriver") -> None:
        """`link.sound` has changed: the other side goes away (L-32), does not answer (L-35), or answers again."""
        ...

    def link_down(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """The link is gone; called once for each `link_up`, never from inside a call to the link."""
        ...
