"""What an owner may ask of a link; `LinkDriver` does the rest."""

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from overlay.aio.link_clock import LinkClock
from overlay.aio.link_owner import LinkOwner
from overlay.aio.link_sender import LinkSender
from overlay.aio.world import Buffer
from overlay.errors import ProtocolError
from overlay.identity.certificate import Leaf, Role
from overlay.link.link import Link
from overlay.link.reader import Reader
from overlay.wire.bodies import EXPRESS, Hello, Load
from overlay.wire.header import Kind

if TYPE_CHECKING:
    from overlay.aio.link_driver import LinkDriver

_DATAGRAM = Kind.DATAGRAM  # 3.11 looks members of an enumeration up slowly


class LinkFacts:
    """`peer` is None for a newcomer; `over`: nothing is received or sent any more."""

    peer: Leaf | None
    over: bool
    mode: str
    splices: bool
    """Large payloads may pass from and to this link without being seen."""
    owner: LinkOwner
    _link: Link
    _sender: LinkSender
    _clock: LinkClock
    _reader: Reader
    load = 0
    """How busy the router at the other end says that it is (F-17)."""
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
    def mode_and_lane(self) -> str:
        """In words, for the record."""
        return self.mode if self.lane == EXPRESS else f"{self.mode}, lane {self.lane}"

    @property
    def hello(self) -> Hello:
        """The other side's Hello. Raises: RuntimeError: the link is not up."""
        if self._link.hello is None:
            raise RuntimeError("the link is not up")
        return self._link.hello

    @property
    def going_away(self) -> bool:
        """The other side takes no new circuits here."""
        return self._link.going_away

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
    def ponged(self) -> tuple[int, float]:
        """The last answer to a PING: which `probe` it answers, and the seconds that took."""
        return self._link.ponged

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

    def _told(self, body: Load) -> None:
        """Raises: ProtocolError: no router says that."""
        if self.peer is None or self.peer.identity.role is not Role.ROUTER:
            raise ProtocolError("only routers tell how busy they are")
        self.load = body.level

    def stirs(self, told: Callable[[], None]) -> None:
        """Tell when a circuit says something here after a while without, as often as that happens."""
        self._clock.told = told

    @property
    def more(self) -> bool:
        """Something has come already behind the frame that is being handled."""
        return self._reader.missing <= 0

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
        more: bool = False,
    ) -> int:
        """Send or queue a DATAGRAM; how many datagrams of the circuit are lost by that, this one where the circuit is
        over. `more`: another frame for this link follows at once, with which it may leave.
        """
        if self.over or not self._link.may_send(_DATAGRAM, circuit):
            return 1
        if self._clock.resting:
            self._clock.spoken()
        return self._sender.send_datagram(flags, circuit, sequence, payload, kept=kept, more=more)

    def drop_datagrams(self, circuit: int) -> int:
        """Forget the datagrams that wait for this circuit; how many."""
        return self._sender.turns.drop_datagrams(circuit)

    def next_circuit(self) -> int:
        """The number for the next OPEN or RESUME of this side; send it before you ask for another."""
        return self._link.next_circuit()

    def is_open(self, circuit: int) -> bool:
        """The circuit's number still means something here."""
        return not self.over and self._link.is_open(circuit)
