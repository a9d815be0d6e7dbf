"""One control circuit, the node's side (docs/protocol/control.md, K-01 to K-08)."""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from overlay import limits
from overlay.aio.logs import get_logger
from overlay.aio.seconds import nearest, pause
from overlay.aio.spool import Spool
from overlay.aio.state import KeptState
from overlay.aio.tasks import cancel, spawn
from overlay.aio.witnessing import Witnessing
from overlay.aio.world import World
from overlay.audit.record import FORM
from overlay.control.messages import (
    Answer,
    Ask,
    Assignments,
    ControllerMessage,
    Events,
    Failed,
    GrantUpdate,
    Issued,
    Live,
    Measure,
    Measured,
    NodeMessage,
    Proofs,
    Prove,
    Recorded,
    Renew,
    Start,
)
from overlay.control.stream import encode_message, from_controller
from overlay.errors import ProtocolError
from overlay.fabric.plant_time import Freshness
from overlay.identity.certificate import make_csr
from overlay.identity.keys import SigningKey

if TYPE_CHECKING:
    from overlay.aio.circuit_stream import CircuitStream

LIVE_SECONDS = 5.0
LIVE_TWICE = 2
"""What is live is said so often at least when nothing changes: a circuit has to be missing twice (K-06)."""
LIVE_AGAIN_SECONDS = 30.0
"""And then so often, for round trips and for a controller that was set back."""
SILENT_SECONDS = 15.0
"""Without any answer for so long the circuit is given up and dialed anew."""
ANSWER_SECONDS = 30.0
"""For an answer to Events and Renew."""
FIRST_QUESTION = 2.0
"""Within that many seconds a new conversation asks for a proof: not all nodes at once when a controller comes back."""
PROOF_PAUSE = 5.0
"""Between two questions for proofs where very many heads wait."""
REFUSED_PAUSE = 5.0
"""After the controller could not take a batch of events, or did not renew."""
MANY_EVENTS = 4
EVENTS_PAUSE = 0.2
"""After a batch of `MANY_EVENTS` the next waits so long, unless it is full: each costs the controller a transaction
with the disk. Where little happens a session is seen at once."""

_log = get_logger("control")


class ConversationOwner(Protocol):
    """What a conversation tells its node."""

    witnessing: Witnessing

    @property
    def applied(self) -> Callable[[], int]:
        """The version of the authority by which this node cuts and refuses."""
        ...

    def authority_offered(self, signed: bytes) -> None:
        """An authority came inside the control circuit. Raises: DecodeError, TrustError."""
        ...

    def assignments_came(self, assignments: Assignments) -> None:
        """Raises: DecodeError, TrustError: its map does not hold."""
        ...

    def grants_came(self, update: GrantUpdate) -> None:
        """Raises: DecodeError, TrustError: a grant does not hold."""
        ...

    def renewed(self) -> None:
        """Key and certificate were replaced."""
        ...

    def live(self) -> Iterable[tuple[bytes, int, int]]:
        """Hosted circuits that are open."""
        ...

    def routers(self) -> Mapping[str, int]:
        """The routers that this node has links to, by name, with the round trip in µs (0: not measured yet)."""
        ...

    async def measure(self, names: Collection[str]) -> Mapping[str, int]:
        """Round trips in µs to routers, measured now; without those that do not answer."""
        ...


class Conversation:
    """Lives as long as its circuit. `run` returns or raises when the circuit is over."""

    def __init__(
        self,
        world: World,
        state: KeptState,
        spool: Spool,
        freshness: Freshness,
        owner: ConversationOwner,
        stream: "CircuitStream",
        version: str,
    ) -> None:
        self._world = world
        self._state = state
        self._spool = spool
        self._freshness = freshness
        self._owner = owner
        self._stream = stream
        self._version = version
        self._asked: dict[bytes, float] = {}
        self._answered: tuple[int, float] | None = None
        self._heard = 0.0
        self._next_id = 0
        self._waiting: dict[int, asyncio.Future[ControllerMessage]] = {}
        self._speaking = asyncio.Lock()
        self._changed = asyncio.Event()
        self._to_measure: asyncio.Queue[Measure] = asyncio.Queue(1)
        self.started = False
        """The controller has answered Start."""

    async def run(self, *, renew_only: bool) -> None:
        """Talk until the circuit ends. `renew_only`: the leaf has expired, nothing else is allowed (I-05).

        Raises:
            OSError: the circuit was cut, or the controller fell silent.
            FerruleError: the controller said what it may not say.
        """
        tasks: list[asyncio.Task[Any]] = [spawn(self._read(), "control reader", awaited=True)]
        if renew_only:
            tasks.append(spawn(self._renew(), "control renewal", awaited=True))
        else:
            await self._say(Start(
                self._version, self._state.boot, self._spool.last, self._state.leaf.generation
            ))  # fmt: skip
            tasks += [
                spawn(self._ask_on(), "control questions", awaited=True),
                spawn(self._send_events(), "control events", awaited=True),
                spawn(self._report_live(), "control live", awaited=True),
                spawn(self._renew_on(), "control renewal", awaited=True),
                spawn(self._prove_on(), "control proofs", awaited=True),
                spawn(self._measure_on(), "control measurements", awaited=True),
            ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancel(*tasks)
            for waiting in self._waiting.values():
                waiting.cancel()

    def links_changed(self) -> None:
        """Report live circuits and routers now."""
        self._changed.set()

    # --- what comes -------------------------------------------------------------------------------

    async def _read(self) -> None:
        reader = from_controller()
        while data := await self._stream.read():
            for message in reader.feed(data):
                self._heard = self._world.clock.boot()
                self._take(message)
        raise ConnectionResetError("the controller closed the control circuit")

    def _take(self, message: ControllerMessage) -> None:
        if isinstance(message, Answer):
            self._take_answer(message)
        elif isinstance(message, Issued | Recorded | Failed | Proofs):
            waiting = self._waiting.pop(message.id, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(message)
        elif isinstance(message, Assignments):
            self._owner.assignments_came(message)
            self.started = True
        elif isinstance(message, GrantUpdate):
            self._owner.grants_came(message)
        elif isinstance(message, Measure):
            with contextlib.suppress(asyncio.QueueFull):
                self._to_measure.put_nowait(message)
        else:
            self._owner.authority_offered(message.signed)

    def _take_answer(self, answer: Answer) -> None:
        asked = self._asked.pop(answer.nonce, None)
        if asked is None:
            raise ProtocolError("the controller answered what was not asked")
        boot = self._world.clock.boot()
        if self._state.time.answer(answer.time, asked, boot):
            self._answered = (answer.authority, asked)
            self.authority_changed()

    def authority_changed(self) -> None:
        """Freshness counts once the authority that the answer named is in force here (K-03)."""
        if self._answered is not None and self._owner.applied() >= self._answered[0]:
            self._freshness.answered(self._answered[1], self._world.clock.boot())
            self._answered = None

    # --- what is said -----------------------------------------------------------------------------

    async def _say(self, message: NodeMessage) -> None:
        data = encode_message(message)
        async with self._speaking:
            await self._stream.write(data)

    async def _request(self, make: Callable[[int], NodeMessage]) -> ControllerMessage:
        self._next_id = (self._next_id + 1) % (1 << 32)
        number = self._next_id
        answer: asyncio.Future[ControllerMessage] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._say(make(number))
                return await answer
        finally:
            self._waiting.pop(number, None)

    async def _ask_on(self) -> None:
        clock = self._world.clock
        self._heard = clock.boot()
        while True:
            nonce = self._world.entropy.bytes(16)
            boot = clock.boot()
            if boot - self._heard > SILENT_SECONDS:
                raise ConnectionResetError("the controller has fallen silent")
            self._asked = {n: at for n, at in self._asked.items() if boot - at < limits.FRESH_FOR}
            self._asked[nonce] = boot
            await self._say(Ask(nonce, self._owner.applied()))
            await pause(limits.AUTHORITY_INTERVAL)

    async def _report_live(self) -> None:
        """What is live, when it changed; an edge at rest tells no news every 5 s, of which 10,000 were a load."""
        clock, loop = self._world.clock, asyncio.get_running_loop()
        before, times, told = None, 0, 0.0
        while True:
            self._changed.clear()
            trips = self._owner.routers()
            routers = tuple(sorted(trips))[: limits.ROUTERS_PER_NODE]
            live = (tuple(self._owner.live()), routers)
            times = times + 1 if live == before else 1
            if times <= LIVE_TWICE or clock.boot() - told >= LIVE_AGAIN_SECONDS:
                await self._say(Live(*live, tuple(trips[one] for one in routers)))
                told = clock.boot()
            before = live
            try:
                async with asyncio.timeout_at(nearest(loop.time() + LIVE_SECONDS)):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _send_events(self) -> None:
        spool, loop = self._spool, asyncio.get_running_loop()
        due = loop.time()
        while True:
            spool.changed.clear()
            if 0 < spool.durable - spool.acknowledged < limits.EVENTS_PER_BATCH:
                await asyncio.sleep(due - loop.time())
            batch = await spool.batch()
            if batch is None:
                await spool.changed.wait()
                continue
            first, events, chain = batch
            due = loop.time() + EVENTS_PAUSE * (len(events) >= MANY_EVENTS)
            answer = await self._request(lambda number: Events(number, first, events, chain, FORM))  # noqa: B023
            if isinstance(answer, Recorded):
                await spool.acknowledge(batch, answer, self._state.signers, self._state.now())
                self._owner.witnessing.recorded(answer.head)
            else:
                reason = answer.reason if isinstance(answer, Failed) else "an unfitting answer"
                _log.warning("events.refused", first=first, events=len(events), reason=reason)
                await asyncio.sleep(REFUSED_PAUSE)

    async def _prove_on(self) -> None:
        """Has the log only grown since this node saw it last (U-13)? Asked at the start, and once a minute."""
        witnessing = self._owner.witnessing
        seconds = self._world.entropy.uniform() * FIRST_QUESTION
        while True:
            question = await witnessing.due(seconds)
            seconds = limits.PROVE_INTERVAL
            if question is None:
                continue
            try:
                answer = await self._request(
                    lambda number: Prove(number, question.sizes, question.target.head.size)  # noqa: B023
                )
            except TimeoutError:
                answer = None  # a controller of an older version does not know the question
            witnessing.answered(question, answer)
            await asyncio.sleep(PROOF_PAUSE)

    async def _measure_on(self) -> None:
        """Measure for whoever asks for a trace (K-12), with a pause. One question may wait; more are dropped."""
        while True:
            question = await self._to_measure.get()
            found = await self._owner.measure(question.routers)
            trips = tuple(found.get(one, 0) for one in question.routers)
            await self._say(Measured(question.id, trips))
            await asyncio.sleep(limits.MEASURE_PAUSE)

    async def _renew_on(self) -> None:
        while True:
            leaf = self._state.leaf
            due = leaf.not_before + (leaf.not_after - leaf.not_before) * 2 // 3
            if self._state.now() < due:
                await asyncio.sleep(min(60.0, max(1.0, (due - self._state.now()) / 1_000_000)))
                continue
            if not await self._renew():
                await asyncio.sleep(REFUSED_PAUSE)

    async def _renew(self) -> bool:
        """With a new key (E-08); False when the controller did not."""
        key = SigningKey.generate(self._world.entropy.bytes(32))
        csr = make_csr(key)
        answer = await self._request(lambda number: Renew(number, csr))
        if not isinstance(answer, Issued):
            reason = answer.reason if isinstance(answer, Failed) else "an unfitting answer"
            _log.warning("renewal.refused", reason=reason)
            return False
        try:
            leaf = await self._state.renew(key, answer.chain)
        except OSError as error:
            _log.error("renewal.unwritten", error=error.strerror or str(error))
            return False
        _log.info("renewal.done", until=leaf.not_after // 1_000_000)
        self._owner.renewed()
        return True
