"""The circuits of one node over all its links: opens them, accepts them, and moves them when a path is lost."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from overlay.aio.circuit_stream import CircuitStream, Predicate
from overlay.aio.world import World
from overlay.errors import Code
from overlay.identity.certificate import Leaf
from overlay.identity.trust import Credentials, Signers
from overlay.policy.grant import Grant
from overlay.wire.bodies import STREAM, LinkControl
from overlay.wire.header import Header

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver

CONTROL_SERVICE = "_control"


class GrantCheck(Protocol):
    """May this grant carry a circuit now (G-01, G-02)? None, or why not. The signature is checked already."""

    def __call__(
        self,
        grant: Grant,
        *,
        key_id: bytes,
        via: str,
        service: str,
        transport: int,
        host: str | None,
    ) -> tuple[Code, str] | None: ...


class CircuitFacts(NamedTuple):
    """What a node knows of one of its live circuits. `bytes_in` is towards the service, `started` plant time in µs."""

    circuit_id: bytes
    hosting: bool
    service: str
    grant: Grant | None
    peer: Leaf | None
    path: tuple[str, ...]
    key_exchange: str
    integrity: int
    transport: int
    started: int
    bytes_in: int
    bytes_out: int


class Incoming:
    """A circuit that asks for a service of this node. Grant and certificate hold already; answer with one of the two."""

    circuit_id: bytes
    grant: Grant | None
    caller: Leaf | None
    caller_public: bytes
    service: str
    integrity: int
    transport: int
    path: tuple[str, ...]
    key_exchange: str

    def exporter(self, label: str) -> bytes:
        """As `CircuitStream.exporter`."""
        raise NotImplementedError

    async def accept(self) -> CircuitStream:
        """Say READY. Raises: Refused: the caller is gone meanwhile."""
        raise NotImplementedError

    def refuse(self, code: Code, reason: str) -> None:
        """Say why not, sealed."""
        raise NotImplementedError


class Endpoint:
    """Implements `LinkOwner`: give it to the links of a node.

    `admit` raises TrustError for a leaf that is revoked. `on_control` gets the links' CONTROL bodies, `on_link` each link with
    True when it comes up and False when it is gone.
    """

    on_incoming: Callable[[Incoming], None] | None
    on_security: Callable[[Code, str, Grant | None, bytes], None] | None

    def __init__(
        self,
        world: World,
        credentials: Callable[[], Credentials],
        signers: Signers,
        plant_now: Callable[[], int],
        grants: GrantCheck,
        boot: int,
        *,
        admit: Callable[[Leaf], None] | None = None,
        on_control: "Callable[[LinkDriver, LinkControl], None] | None" = None,
        on_link: "Callable[[LinkDriver, bool], None] | None" = None,
    ) -> None:
        raise NotImplementedError

    async def dial(
        self,
        service: str,
        grant: bytes = b"",
        *,
        early: bytes = b"",
        transport: int = STREAM,
        enrol: bool = False,
        links: "Sequence[LinkDriver]" = (),
    ) -> CircuitStream:
        """Open a circuit and wait until the host has reached the service. `links`: try only these, in order.

        Raises:
            Refused: nobody could or would; with the reason.
        """
        stream = self.open(service, grant, early=early, transport=transport, enrol=enrol, links=links)
        await stream.ready()
        return stream

    def open(
        self,
        service: str,
        grant: bytes = b"",
        *,
        early: bytes = b"",
        transport: int = STREAM,
        enrol: bool = False,
        links: "Sequence[LinkDriver]" = (),
    ) -> CircuitStream:
        """As `dial`, without waiting: what is written meanwhile leaves as soon as keys exist.

        Raises:
            Refused: no link, or the grant does not hold.
        """
        raise NotImplementedError

    def cut(self, matches: Predicate, code: Code, reason: str) -> int:
        """End each circuit for which `matches(grant, circuit_id, peer)`; how many."""
        raise NotImplementedError

    def forget(self, matches: Callable[[Leaf], bool]) -> None:
        """Drop the associations with these peers: their next circuit needs a handshake (C-03)."""
        raise NotImplementedError

    def live(self) -> list[CircuitFacts]:
        """All circuits that are open now."""
        raise NotImplementedError

    def close(self) -> None:
        """End everything; for the program's end."""
        raise NotImplementedError

    def link_up(self, link: "LinkDriver") -> None:
        """LinkOwner."""
        raise NotImplementedError

    def frame(self, link: "LinkDriver", header: Header, payload: memoryview) -> None:
        """LinkOwner."""
        raise NotImplementedError

    def control(self, link: "LinkDriver", body: LinkControl) -> None:
        """LinkOwner."""
        raise NotImplementedError

    def room(self, link: "LinkDriver", circuit: int) -> None:
        """LinkOwner."""
        raise NotImplementedError

    def link_down(self, link: "LinkDriver", code: Code, reason: str) -> None:
        """LinkOwner."""
        raise NotImplementedError
