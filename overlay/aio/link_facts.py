"""What an owner may ask of a link; `LinkDriver` does the rest."""

from typing import TYPE_CHECKING, cast

from overlay.aio.link_owner import LinkOwner
from overlay.aio.link_sender import LinkSender
from overlay.aio.world import Buffer
from overlay.identity.certificate import Leaf
from overlay.link.link import Link
from overlay.wire.bodies import Hello
from overlay.wire.header import Kind

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver


class LinkFacts:
    """`peer` is None for a newcomer; `over`: nothing is received or sent any more."""

    peer: Leaf | None
    over: bool
    splices: bool
    """Large payloads may pass from and to this link without being seen."""
    owner: LinkOwner
    _link: Link
    _sender: LinkSender
    _avoided = False

    @property
    def name(self) -> str:
        """The other side's name; empty for a newcomer."""
        return "" if self.peer is None else self.peer.identity.name

    @property
    def lane(self) -> int:
        """Which one it is (L-08); 0 is express."""
        return self._link.lane

    @property
    def hello(self) -> Hello:
        """The other side's Hello. Raises: RuntimeError: the link is not up."""
        if self._link.hello is None:
            raise RuntimeError("the link is not up")
        return self._link.hello

    @property
    def draining(self) -> bool:
        """The other side takes no new circuits here."""
        return self._link.draining

    @property
    def circuits(self) -> int:
        """Circuits that are open on this link."""
        return self._link.circuits

    @property
    def idle(self) -> bool:
        """No circuit is open, and both sides know it."""
        return self._link.idle

    @property
    def round_trip(self) -> float | None:
        """Seconds that a PING takes, smoothed; None before the first."""
        return self._link.liveness.round_trip

    @property
    def sound(self) -> bool:
        """Circuits may as well be here: the other side neither goes away nor leaves this side without an answer."""
        return self._link.sound and not self.over and not self._avoided

    @property
    def suspect(self) -> bool:
        """The other side leaves this side without an answer (L-35)."""
        return self._link.liveness.suspect

    def avoid(self, wanted: bool) -> None:  # noqa: FBT001 - posted from other loops
        """The map says whether the other side drains (L-37): circuits had better be elsewhere then."""
        if self._avoided is not wanted and not self.over:
            self._avoided = wanted
            self.owner.health(cast("LinkDriver", self))

    @property
    def total_backlog(self) -> int:
        """Bytes that wait on this link, of all circuits and control."""
        return self._sender.turns.total

    @property
    def blocked(self) -> bool:
        """The connection does not take what waits."""
        return self._sender.blocked

    @property
    def bytes_out(self) -> int:
        """Bytes that the connection has taken."""
        return self._sender.bytes

    def backlog(self, circuit: int) -> int:
        """Bytes that wait for this circuit's turn."""
        return self._sender.turns.backlog(circuit)

    def largest_backlog(self) -> tuple[int, int]:
        """(circuit, bytes) of the circuit with most bytes waiting; (0, 0) when none waits."""
        return self._sender.turns.largest()

    def send_datagram(
        self,
        circuit: int,
        payload: Buffer,
        *,
        flags: int = 0,
        sequence: int = 0,
        kept: bool = False,
    ) -> int:
        """Queue a DATAGRAM; how many datagrams of the circuit are lost by that, this one where the circuit is over."""
        if self.over or not self._link.may_send(Kind.DATAGRAM, circuit):
            return 1
        return self._sender.send_datagram(flags, circuit, sequence, payload, kept=kept)

    def drop_datagrams(self, circuit: int) -> int:
        """Forget the datagrams that wait for this circuit; how many."""
        return self._sender.turns.drop_datagrams(circuit)

    def next_circuit(self) -> int:
        """The number for the next OPEN or RESUME of this side; send it before you ask for another."""
        return self._link.next_circuit()

    def is_open(self, circuit: int) -> bool:
        """The circuit's number still means something here."""
        return not self.over and self._link.is_open(circuit)
