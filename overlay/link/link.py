"""One link's state: hello, circuit numbers, end (docs/protocol/link.md, L-20 to L-35). Pure.

The driver hands every opened frame to `receive` and asks `may_send` before it queues one; what the link itself has to
say collects in `outbox`. Owners never see frames of circuits that do not exist, and never see a reset twice.
"""

from enum import IntEnum
from typing import NamedTuple, cast, get_args

from msgspec import Raw

from overlay import limits
from overlay.errors import Code, DecodeError, FerruleError, LimitError, ProtocolError, known_code
from overlay.link.liveness import SUSPECT_AFTER, SUSPECT_BULK_AFTER, Liveness, Verdict
from overlay.link.turns import Frame
from overlay.wire.bodies import EXPRESS, Hello, LinkControl, Refusal
from overlay.wire.codec import decode, encode
from overlay.wire.header import Flag, Header, Kind

NUMBERS_PER_LINK = 2 * limits.CIRCUITS_PER_LINK
"""Circuit numbers in any state, those that wait for the answer to a RESET included."""

_ANSWERS = frozenset({Kind.ACCEPT, Kind.READY, Kind.REFUSE})
_OPENERS = frozenset({Kind.OPEN, Kind.RESUME})
_CONTROL = cast("type[LinkControl]", LinkControl)
_TAGS = frozenset(kind.__struct_config__.tag for kind in get_args(LinkControl))
_RUNNING = frozenset({Kind.DATA, Kind.DATAGRAM, Kind.CREDIT, Kind.CHECKPOINT, Kind.CLOSE})
_LAST = int(Flag.LAST)
_NO_REASON = encode(Refusal(Code.NORMAL, ""))


class State(IntEnum):
    """Of one circuit number."""

    ASKED = 0  # the other side opened it and waits for our answer
    SAID = 1  # we have said our last frame, and hear what the other side still says
    HEARD = 2  # the other side has said its last frame
    LIVE = 3
    RESETTING = 4  # we sent RESET and ignore the circuit until the answer
    REFUSED = 5  # we sent REFUSE and ignore the circuit until the RESET


_LIVE = State.LIVE  # 3.11 looks a member up slowly; this one is asked for with each frame


class Deliver(NamedTuple):
    """The frame is for the owner."""


class Up(NamedTuple):
    """The other side's Hello: the link is up."""

    hello: Hello


class Control(NamedTuple):
    """A CONTROL body other than Hello."""

    body: LinkControl


class Ended(NamedTuple):
    """The other side ended the link with GOAWAY."""

    code: Code
    reason: str


class Health(NamedTuple):
    """`Link.sound` has changed: circuits had better leave the link, or may come back."""


class LinkRefused(FerruleError):
    """The other side said GOAWAY, or went, before the link was up."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(
            f"the link is refused ({code.name.lower()}): {reason or 'no reason given'}"
        )
        self.code = code
        self.reason = reason


DELIVER = Deliver()
HEALTH = Health()
Outcome = Deliver | Up | Control | Ended | Health


class Link:
    """The state of one connection. Times are seconds of one clock.

    Args:
        dialer: this side dialed the connection.
        newcomer: one side is not enrolled: one circuit, `ENROL_BYTES`, `ENROL_SECONDS` and no more (L-34).
        link_id: what both sides' Hello names (L-08).
        lane: likewise; on a bulk lane nothing is opened but by RESUME, and nothing is published.
        eager: this side finds out early whether the other answers (L-35).
    """

    def __init__(
        self,
        *,
        dialer: bool,
        newcomer: bool,
        link_id: bytes,
        now: float,
        lane: int = EXPRESS,
        eager: bool = False,
    ) -> None:
        self.id = link_id
        self.lane = lane
        self.dialer = dialer
        self.newcomer = newcomer
        self.hello: Hello | None = None
        self.outbox: list[Frame] = []
        self.ignored = 0
        """CONTROL frames with a tag that this version does not know (P-10)."""
        self.ponged: tuple[int, float] = (-1, 0.0)
        """The last PONG that was believed: which `probe` it answers, and the seconds that took."""
        self.going_away = False
        """The other side said GOAWAY(GOING_AWAY): open nothing new here."""
        least = SUSPECT_AFTER if lane == EXPRESS else SUSPECT_BULK_AFTER
        self.liveness = Liveness(now, leads=dialer or eager, eager=eager, least=least)
        self._goodbye = False
        self._circuits: dict[int, State] = {}
        self._asked = 0
        self._live = 0
        self._numbered = -1 if dialer else 0
        self._ours = 0
        self._theirs = 0
        self._began = now
        self._bytes = 0

    # --- circuits -----------------------------------------------------------------------------------

    @property
    def circuits(self) -> int:
        """Circuits that are open on this link."""
        return self._live

    @property
    def idle(self) -> bool:
        """No circuit is open, and both sides know it."""
        return not self._circuits

    @property
    def sound(self) -> bool:
        """The other side answers, and does not go away."""
        return not self.going_away and not self.liveness.suspect

    def next_circuit(self) -> int:
        """A number for a circuit that this side opens with its next OPEN or RESUME (L-20)."""
        self._numbered += 2
        return self._numbered

    def may_send(self, kind: Kind, circuit: int, flags: int = 0) -> bool:
        """Note that this side wants to send a frame of a circuit; False: it is over, drop the frame."""
        state = self._circuits.get(circuit)
        if state is _LIVE:
            if kind in _RUNNING:
                if flags & _LAST:
                    self._circuits[circuit] = State.SAID
                return True
            if kind is Kind.RESET or kind is Kind.REFUSE:
                self._finish(
                    circuit, state, State.RESETTING if kind is Kind.RESET else State.REFUSED
                )
            return kind is not Kind.OPEN
        if state is State.SAID and kind is not Kind.RESET:
            return False
        if state is State.HEARD:
            if flags & _LAST or kind is Kind.RESET or kind is Kind.REFUSE:  # nothing more will come
                self._finish(circuit, state, None)
            return True
        if state is State.ASKED or state is State.SAID:
            if kind is Kind.RESET or kind is Kind.REFUSE:
                self._finish(
                    circuit, state, State.RESETTING if kind is Kind.RESET else State.REFUSED
                )
            elif kind is Kind.ACCEPT:
                self._asked -= 1
                self._circuits[circuit] = State.LIVE
            elif flags & _LAST:
                self._finish(circuit, state, State.SAID)
            return True
        if kind in _OPENERS and self._is_ours(circuit) and self._ours < circuit <= self._numbered:
            self._circuits[circuit] = State.LIVE
            self._ours = circuit
            self._live += 1
            return True
        return False

    def is_open(self, circuit: int) -> bool:
        """Whether frames of this circuit still mean something to both sides."""
        return self._circuits.get(circuit, State.REFUSED) <= State.LIVE

    # --- frames -------------------------------------------------------------------------------------

    def receive(self, header: Header, payload: memoryview, now: float) -> Outcome | None:
        """Judge a frame that came in; None: nothing for the owner.

        Raises:
            ProtocolError: it may not be sent (now); the link must end with this code.
        """
        if self._circuits.get(header.circuit) is _LIVE and self.hello is not None:
            if header.kind in _RUNNING and not self.newcomer:
                if header.flags & _LAST:
                    self._circuits[header.circuit] = State.HEARD
                return DELIVER  # the hot path: nearly all frames leave here
            return self._receive_known(header)
        if header.kind >= Kind.PING:
            return self._receive_own(header, payload, now)
        if self.hello is None:
            raise ProtocolError(f"{header.kind.name} came before Hello")
        if header.circuit in self._circuits:
            return self._receive_known(header)
        return self._receive_unknown(header)

    def start(self, hello: Hello) -> None:
        """Say Hello, the first frame (L-30)."""
        self._say(Kind.CONTROL, 0, encode(hello))

    def refuse(self, code: Code, reason: str) -> None:
        """Say why there will be no link, sealed, instead of Hello (L-07)."""
        self.goodbye(code, reason)

    def goodbye(self, code: Code, reason: str) -> None:
        """Say GOAWAY (L-32). From now on nothing new is accepted."""
        self._goodbye = True
        self._say(Kind.GOAWAY, 0, encode(Refusal(code, reason[:200])))

    # --- time ---------------------------------------------------------------------------------------

    def tick(self, now: float) -> Ended | Health | None:
        """Keepalive (L-31) and suspicion (L-35); call it at `deadline`."""
        if self.newcomer and now - self._began >= limits.ENROL_SECONDS:
            return Ended(Code.BUSY, "the time for enrolling over this link is over")
        verdict = self.liveness.look(now, busy=self._live > 0)
        if verdict is Verdict.DEAD:
            return Ended(Code.PATH_LOST, f"nothing was heard for {limits.DEAD_AFTER} s")
        if verdict is Verdict.LOST:
            return Ended(
                Code.PATH_LOST, "this host is reached otherwise now, and it did not answer"
            )
        if verdict is Verdict.PING:
            self.probe(now)
        return HEALTH if verdict is Verdict.SUSPECT else None

    def probe(self, now: float) -> int:
        """Say PING (L-31); the number by which `ponged` tells its answer."""
        said = int(now * 1e6)
        self._say(Kind.PING, 0, said.to_bytes(8, "big"))
        return said

    def deadline(self, now: float) -> float:
        """When to call `tick` next."""
        return self.liveness.deadline(now, busy=self._live > 0)

    # --- inside -------------------------------------------------------------------------------------

    def _receive_known(self, header: Header) -> Outcome | None:
        kind, circuit = header.kind, header.circuit
        state = self._circuits[circuit]
        if kind >= Kind.PING:
            raise ProtocolError(f"{kind.name} does not belong to a circuit")
        if kind is Kind.OPEN or (kind is Kind.RESUME and not self._is_ours(circuit)):
            raise ProtocolError("a circuit number was used twice")
        if kind in _ANSWERS and not self._is_ours(circuit):
            raise ProtocolError(f"{kind.name} came from the side that opened the circuit")
        if self.newcomer:
            self._count(header)
        last = header.flags & _LAST
        if kind is Kind.RESET:
            if state is not State.RESETTING and state is not State.SAID:
                self._say(Kind.RESET, circuit, _NO_REASON)
            self._finish(circuit, state, None)
            return DELIVER if state <= State.LIVE else None
        if state > State.LIVE:
            if last:  # as good as the answer
                self._finish(circuit, state, None)
            return None
        if state is State.HEARD:
            return None
        if last or (kind is Kind.REFUSE and state is State.SAID):
            self._finish(circuit, state, None if state is State.SAID else State.HEARD)
        elif kind is Kind.REFUSE:
            # A refused hop is of no more use: free it here, so that no owner can forget to.
            self._finish(circuit, state, State.RESETTING)
            self._say(Kind.RESET, circuit, _NO_REASON)
        return DELIVER

    def _receive_unknown(self, header: Header) -> Outcome | None:
        kind, circuit = header.kind, header.circuit
        ours = self._is_ours(circuit)
        if kind is Kind.OPEN and self.lane != EXPRESS:
            raise ProtocolError("a circuit was opened on a bulk lane")
        if kind in _OPENERS and not ours and circuit > self._theirs:
            return self._receive_open(header)
        if kind is Kind.OPEN and ours:
            raise ProtocolError("an OPEN came with a number of the side that it was sent to")
        if circuit == 0 or circuit > (self._ours if ours else self._theirs):
            raise ProtocolError(f"{kind.name} of a circuit that was never opened")
        if kind in _OPENERS and not ours:
            raise ProtocolError("circuit numbers must rise")
        if kind is not Kind.RESET:
            self._remember(circuit, State.RESETTING)
            unknown = Refusal(Code.UNKNOWN_CIRCUIT, "nothing is known under this number")
            self._say(Kind.RESET, circuit, encode(unknown))
        return None

    def _receive_open(self, header: Header) -> Outcome | None:
        if self.newcomer:
            if self._theirs or self._circuits:
                raise LimitError("a link for enrolling carries one circuit")
            self._count(header)
        self._theirs = header.circuit
        if self._goodbye:
            self._refuse(header.circuit, Code.GOING_AWAY, "this side is going away")
        elif self._live >= limits.CIRCUITS_PER_LINK:
            self._refuse(header.circuit, Code.BUSY, "too many circuits on this link")
        elif header.kind is Kind.OPEN and self._asked >= limits.OPENS_PENDING_PER_LINK:
            self._refuse(header.circuit, Code.BUSY, "too many unanswered circuits on this link")
        else:
            asked = header.kind is Kind.OPEN
            self._remember(header.circuit, State.ASKED if asked else State.LIVE)
            self._asked += asked
            self._live += 1
            return DELIVER
        return None

    def _receive_own(self, header: Header, payload: memoryview, now: float) -> Outcome | None:
        """A frame of the link itself."""
        kind = header.kind
        if header.circuit:
            raise ProtocolError(f"{kind.name} does not belong to a circuit")
        if kind is Kind.GOAWAY:
            try:
                refusal = decode(Refusal, payload)
            except DecodeError as error:
                raise ProtocolError(str(error)) from None
            code = known_code(refusal.code)
            if code is not Code.GOING_AWAY or self.hello is None:
                return Ended(code, refusal.reason)
            news, self.going_away = not self.going_away, True
            return HEALTH if news else None  # said again it must not make this node tell all others
        if kind is Kind.CONTROL:
            return self._receive_control(payload)
        if self.hello is None:
            raise ProtocolError(f"{kind.name} came before Hello")
        if header.length != 8:
            raise ProtocolError(f"{kind.name} has 8 bytes")
        if kind is Kind.PING:
            self._say(Kind.PONG, 0, bytes(payload))
        else:
            said = int.from_bytes(payload, "big")
            elapsed = now - said / 1e6
            if 0 <= elapsed < limits.DEAD_AFTER:
                self.liveness.answered(elapsed)
                self.ponged = said, elapsed
        return None

    def _receive_control(self, payload: memoryview) -> Outcome | None:
        try:
            body = decode(_CONTROL, payload)
        except DecodeError as error:
            if self.hello is not None and _is_from_the_future(payload):
                self.ignored += 1
                return None
            raise ProtocolError(str(error)) from None
        if isinstance(body, Hello) is not (self.hello is None):
            raise ProtocolError("Hello comes first, and once")
        if isinstance(body, Hello):
            if body.link != self.id or body.lane != self.lane:
                raise ProtocolError("Hello names another link")
            self.hello = body
            return Up(body)
        if self.newcomer or self.lane != EXPRESS:
            raise ProtocolError("a link for enrolling, or for bulk, carries no control messages")
        return Control(body)

    def _refuse(self, circuit: int, code: Code, reason: str) -> None:
        self._remember(circuit, State.REFUSED)
        self._say(Kind.REFUSE, circuit, encode(Refusal(code, reason)))

    def _count(self, header: Header) -> None:
        self._bytes += header.length
        if self._bytes > limits.ENROL_BYTES:
            raise LimitError(f"a link for enrolling carries {limits.ENROL_BYTES} bytes")

    def _remember(self, circuit: int, state: State) -> None:
        if len(self._circuits) >= NUMBERS_PER_LINK:
            raise LimitError("too many circuits of this link are in doubt")
        self._circuits[circuit] = state

    def _finish(self, circuit: int, state: State, after: State | None) -> None:
        if state <= State.LIVE and (after is None or after > State.LIVE):
            self._live -= 1
        if state is State.ASKED:
            self._asked -= 1
        if after is None:
            del self._circuits[circuit]
        else:
            self._circuits[circuit] = after

    def _is_ours(self, circuit: int) -> bool:
        return bool(circuit & 1) is self.dialer

    def _say(self, kind: Kind, circuit: int, payload: bytes) -> None:
        self.outbox.append(Frame(kind, 0, len(payload), circuit, 0, payload))


def _is_from_the_future(payload: memoryview) -> bool:
    """A well-formed CONTROL body whose tag a later version has added."""
    try:
        fields = decode(list[Raw], payload)
        return bool(fields) and decode(int, fields[0]) not in _TAGS
    except DecodeError:
        return False
