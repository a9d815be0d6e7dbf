"""A node as a witness of the audit log: it keeps the tree heads that it sees, tells them to its neighbours, has the
controller prove that the log only grows, and raises the alarm (docs/protocol/audit.md, U-11 to U-14)."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import msgspec

from overlay.aio.logs import get_logger
from overlay.aio.shelf import DamagedError
from overlay.aio.state import KeptState
from overlay.audit.event import EventName, Outcome
from overlay.audit.witness import Fork, Memory, Question, Seen, Witness
from overlay.control.messages import Failed, Proofs
from overlay.errors import Code, DecodeError, TrustError
from overlay.fabric.authority import Authority
from overlay.identity.certificate import Role
from overlay.identity.trust import open_signed
from overlay.wire.bodies import Heads, TreeHead
from overlay.wire.codec import Signed, decode
from overlay.wire.timestamps import format_time

FILE = "witness"
TELL_SECONDS = 60.0
"""A new head is told to the neighbours, and goes to disk, at most so often."""
MESSAGES = 16
"""Messages with heads of one neighbour that are looked at in `TELL_SECONDS`."""
UNPROVEN_SECONDS = 600.0
"""Without a proof for so long, while the controller is there, this is said."""

_log = get_logger("witness")


class Link(Protocol):
    """What is needed of a link (`LinkDriver`)."""

    @property
    def name(self) -> str:
        """The neighbour's name."""
        ...

    @property
    def newcomer(self) -> bool:
        """Nobody vouches for it yet: it is neither told anything nor believed."""
        ...

    def send_control(self, body: Heads) -> None:
        """Say something to it."""
        ...


class Record(Protocol):
    """How an event is recorded (`NodeAgent.record`)."""

    def __call__(self, event: EventName, outcome: Outcome, **fields: str | int) -> None:
        """Never blocks, never fails."""
        ...


class Witnessing:
    """`now` is the time for certificates, `links` gives the neighbours. Nothing is taken before `begin`."""

    def __init__(
        self,
        state: KeptState,
        now: Callable[[], int],
        record: Record,
        links: Callable[[], Iterable[Link]],
    ) -> None:
        self._state = state
        self._now = now
        self._record = record
        self._begun = False
        self._told: Seen | None = None
        self._tick = 0.0
        self._heard: dict[str, int] = {}
        self._unproven: float | None = None
        self._said = False
        self._crowded = asyncio.Event()
        self.links = links
        self.witness = Witness()
        self.ignored = 0
        """Heads from neighbours that did not hold, or came too fast."""

    async def begin(self) -> None:
        """Go on with what was kept on disk.

        Raises:
            DamagedError: the file was damaged, or belongs to another plant.
        """
        without = "forget which tree heads of the audit log this node has seen"
        kept = await self._state.shelf.load(FILE, Memory, without=without)
        if kept is not None:
            try:
                self.witness.restore(kept, self._read_kept)
            except (DecodeError, TrustError) as error:
                raise DamagedError(
                    f"{self._state.shelf.path(FILE)} does not belong here ({error}): "
                    f"move it away to {without}."
                ) from None
            for fork in self.witness.forks:
                _log.error("log.fork", found=format_time(fork.found), text=fork.reason)
        self._begun = True
        held = self._state.authority.held
        if held is not None:
            self._take(held.body.head, relied=False)

    def keep(self) -> None:
        """Put what is known on the shelf."""
        memory = self.witness.memory()
        if self._begun and memory is not None:
            self._state.shelf.later(FILE, memory)

    # --- heads that come ------------------------------------------------------------------------------

    def published(self, signed: bytes) -> None:
        """An authority came, old or new, believed or not: the head in it is a statement of its own."""
        held = self._state.authority.held
        if held is not None and held.signed == signed:
            self._take(held.body.head, relied=False)
            return
        with contextlib.suppress(DecodeError):
            envelope = decode(Signed, signed)
            if envelope.type == Authority.TYPE:
                self._take(decode(Authority, envelope.body).head, relied=False)

    def recorded(self, signed: bytes) -> None:
        """The spool lets go of events because of this head."""
        self._take(signed, relied=True)

    def heard(self, link: Link, heads: Heads) -> None:
        """A neighbour tells what it has seen; it is believed only what a controller signed."""
        count = self._heard.get(link.name, 0)
        if link.newcomer or count >= MESSAGES:
            self.ignored += 1
            return
        self._heard[link.name] = count + 1
        for signed in heads.heads:
            self._take(signed, relied=False)

    def _take(self, signed: bytes, *, relied: bool) -> None:
        if not signed or not self._begun or self.witness.knows(signed):
            return
        try:
            seen = self._read(signed)
        except (DecodeError, TrustError) as error:
            self.ignored += 1
            _log.debug("head.ignored", reason=str(error))
            return
        self._alarm(self.witness.offer(seen, self._state.now(), relied=relied))
        if self.witness.crowded:
            self._crowded.set()

    def _read(self, signed: bytes) -> Seen:
        """Raises: DecodeError, TrustError: it is not a head that a controller signed, or that one is revoked."""
        head, leaf = open_signed(
            TreeHead, signed, self._state.signers, self._now(),
            role=Role.CONTROLLER, expired_leaf_ok=True,
        )  # fmt: skip
        if self._state.authority.revoked(leaf):
            raise TrustError(f"the tree head is signed by {leaf.identity.name}, which is revoked")
        return Seen(signed, head)

    def _read_kept(self, signed: bytes) -> Seen:
        """As `_read`, at the time at which it was signed."""
        time = decode(TreeHead, decode(Signed, signed).body).time
        head, _ = open_signed(
            TreeHead, signed, self._state.signers, time, role=Role.CONTROLLER, expired_leaf_ok=True
        )
        return Seen(signed, head)

    # --- the neighbours -------------------------------------------------------------------------------

    def greet(self, link: Link) -> None:
        """A link has come up: the newest head goes over it, and the last fork."""
        newest = self.witness.newest
        if newest is not None and not link.newcomer:
            last = [(fork.older, fork.newer) for fork in self.witness.forks[-1:]]
            link.send_control(Heads((newest.signed, *(one for pair in last for one in pair))))

    def _tell(self, heads: Heads) -> None:
        for link in self.links():
            if not link.newcomer:
                link.send_control(heads)

    def tick(self) -> None:
        """Tell and keep what is new; call it every second."""
        now = asyncio.get_running_loop().time()
        if now - self._tick < TELL_SECONDS:
            return
        self._tick = now
        self._heard.clear()
        newest = self.witness.newest
        if newest is None or newest == self._told:
            return
        self._told = newest
        self._tell(Heads((newest.signed,)))
        self.keep()

    # --- proofs ---------------------------------------------------------------------------------------

    async def due(self, seconds: float) -> Question | None:
        """Wait that long, less where many heads wait; what to ask then."""
        try:
            async with asyncio.timeout(seconds):
                await self._crowded.wait()
        except TimeoutError:
            pass
        self._crowded.clear()
        return self.witness.question()

    def answered(self, question: Question, answer: object) -> None:
        """Take what the controller says to a question; None where it says nothing."""
        now = self._state.now()
        if isinstance(answer, Proofs):
            self._unproven, self._said = None, False
            self._alarm(self.witness.answered(question, answer.proofs, now))
        elif isinstance(answer, Failed) and answer.code == Code.NOT_TRUSTED:
            self._alarm(self.witness.refused(question, answer.reason, now))
        else:
            self._no_proof(question)

    def _no_proof(self, question: Question) -> None:
        """A store that is away, or a controller of an older version: no alarm, but no secret either."""
        now = asyncio.get_running_loop().time()
        self._unproven = now if self._unproven is None else self._unproven
        if now - self._unproven >= UNPROVEN_SECONDS and not self._said:
            self._said = True
            _log.warning(
                "log.unproven", size=question.target.head.size,
                text="The controller does not prove that the audit log only grows.",
            )  # fmt: skip

    # --- alarm ----------------------------------------------------------------------------------------

    def _alarm(self, fork: Fork | None) -> None:
        if fork is None:
            return
        _log.error("log.fork", text=f"The audit log was forked or rewritten: {fork.reason}.")
        self.keep()
        detail = msgspec.json.encode([_shown(fork.older), _shown(fork.newer)]).decode()
        self._record(
            EventName.SECURITY_FORK, Outcome.FAILED, reason=fork.reason[:200], detail=detail
        )
        self._tell(Heads((fork.older, fork.newer)))

    def status(self) -> dict[str, Any] | None:
        """What was seen of the log: its size, up to where that is proven, and what is wrong; None before any head."""
        newest, base = self.witness.newest, self.witness.base
        if newest is None or base is None:
            return None
        return {
            "size": newest.head.size,
            "time": format_time(newest.head.time),
            "proven": base.head.size,
            "forks": [
                {"found": format_time(fork.found), "reason": fork.reason}
                for fork in self.witness.forks
            ],
        }


def _shown(signed: bytes) -> dict[str, object]:
    head = decode(TreeHead, decode(Signed, signed).body)
    return {"size": head.size, "root": head.root.hex(), "time": format_time(head.time)}
