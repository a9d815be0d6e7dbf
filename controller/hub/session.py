"""One node on its control circuit, the controller's side (docs/protocol/control.md, K-01 to K-08)."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

import msgspec

from controller.hub.needs import HubActions
from controller.hub.updates import GrantLedger
from overlay import limits
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn
from overlay.control.messages import (
    Answer,
    Ask,
    Assignments,
    ControllerMessage,
    Current,
    Events,
    Failed,
    Issued,
    Live,
    Measure,
    Measured,
    NodeMessage,
    Proofs,
    Prove,
    Renew,
    Start,
)
from overlay.control.stream import encode_message, from_node
from overlay.errors import Code, DecodeError, FerruleError, ProtocolError, TrustError
from overlay.identity.certificate import Leaf

WAITING = 4
"""Messages of one kind that wait to be handled; a node that sends faster than it is answered loses its circuit."""
RETRY_SECONDS = 2.0
"""Until assignments and grants are tried again when the store is away."""
LOOK_AGAIN_SECONDS = 60.0
"""So often at least a session looks whether grants must be refreshed."""
MEASURE_SECONDS = 2.0
"""For an answer to Measure; afterwards what the node said before has to do."""
SILENT_SECONDS = 60.0
"""A node that has said nothing for so long is gone: it asks every 5 s."""

_log = get_logger("hub")


class Wire(Protocol):
    """What a session needs of a `CircuitStream`."""

    async def read(self, most: int = 65_536) -> bytes:
        """Some bytes; empty at the end."""
        ...

    async def write(self, data: bytes) -> None:
        """All of it."""
        ...

    def abort(self, code: Code, reason: str) -> None:
        """End it."""
        ...


class Publisher(Protocol):
    """Where the newest authority comes from."""

    pushes: asyncio.Semaphore
    """Held while the assignments and grants of a node are worked out."""

    async def current_authority(self, version: int) -> bytes:
        """The newest signed authority, of this version or a later one."""
        ...

    def heard_version(self, version: int, node: str) -> None:
        """A node has an authority of this version in force."""
        ...


class Session:
    """Made for an authenticated node; `run` until its circuit ends."""

    def __init__(self, actions: HubActions, publisher: Publisher, leaf: Leaf, stream: Wire) -> None:
        self.leaf = leaf
        self.name = leaf.identity.name
        self.started = False
        """Its Start came: the node counts as connected."""
        self._actions = actions
        self._publisher = publisher
        self._stream = stream
        self._speaking = asyncio.Lock()
        self._dirty = asyncio.Event()
        self._ledger = GrantLedger()
        self._assigned: Assignments | None = None
        self._asks: asyncio.Queue[Ask] = asyncio.Queue(WAITING)
        self._events: asyncio.Queue[Events] = asyncio.Queue(1)
        self._others: asyncio.Queue[Renew | Live] = asyncio.Queue(WAITING)
        self._questions: asyncio.Queue[Prove] = asyncio.Queue(WAITING)
        self._to_measure: asyncio.Queue[Measure] = asyncio.Queue(WAITING)
        self._measuring: dict[int, asyncio.Future[tuple[int, ...]]] = {}
        self._last_measure = (0, float("-inf"))

    def changed(self) -> None:
        """Policy, inventory or map changed: what this node has to know may differ."""
        self._dirty.set()

    def end(self, code: Code, reason: str) -> None:
        """Cut it."""
        self._stream.abort(code, reason)

    async def measure(self, routers: Sequence[str]) -> dict[str, int]:
        """Round trips in µs from the node to these routers, measured now (K-12), by router. Those that it cannot tell
        are missing: all where it was asked less than `MEASURE_PAUSE` ago, or does not know the question."""
        loop = asyncio.get_running_loop()
        number, asked = self._last_measure
        if loop.time() - asked < limits.MEASURE_PAUSE:
            return {}
        number = (number + 1) % (1 << 32)
        self._last_measure = number, loop.time()
        answer = self._measuring[number] = loop.create_future()
        try:
            self._to_measure.put_nowait(Measure(number, tuple(routers)))
            async with asyncio.timeout(MEASURE_SECONDS):
                trips = await answer
        except (asyncio.QueueFull, TimeoutError):
            return {}
        finally:
            self._measuring.pop(number, None)
        return {router: trip for router, trip in zip(routers, trips, strict=False) if trip}

    async def run(self) -> None:
        """Talk until the circuit ends.

        Raises:
            OSError: the circuit was cut.
            FerruleError: the node said what it may not say.
        """
        expired = self.leaf.not_after < self._actions.now()
        tasks: list[asyncio.Task[None]] = [
            spawn(self._read(renew_only=expired), f"read {self.name}", awaited=True),
            spawn(self._work(self._others, self._handle_other), f"serve {self.name}", awaited=True),
        ]
        if not expired:
            tasks += [
                spawn(self._work(self._asks, self._answer), f"answer {self.name}", awaited=True),
                spawn(self._work(self._events, self._record), f"record {self.name}", awaited=True),
                spawn(self._work(self._questions, self._prove), f"prove {self.name}", awaited=True),
                spawn(self._work(self._to_measure, self._say), f"ask {self.name}", awaited=True),
                spawn(self._push(), f"push {self.name}", awaited=True),
            ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await cancel(*tasks)
            for number in list(self._measuring):
                self._measured(Measured(number, ()))
            if self.started:
                await self._actions.node_disconnected(self.leaf, "the control circuit ended")

    # --- what comes -------------------------------------------------------------------------------

    async def _read(self, *, renew_only: bool) -> None:
        reader = from_node()
        while True:
            try:
                async with asyncio.timeout(SILENT_SECONDS):
                    data = await self._stream.read()
            except TimeoutError:
                raise ConnectionResetError("the node has fallen silent") from None
            if not data:
                return
            for message in reader.feed(data):
                if renew_only and not isinstance(message, Renew):
                    raise ProtocolError(f"the certificate of {self.name} has expired: renew first")
                await self._take(message)

    async def _take(self, message: NodeMessage) -> None:
        if isinstance(message, Start):
            if self.started:
                raise ProtocolError("Start came twice")
            if message.generation != self.leaf.generation:
                raise ProtocolError("Start names another generation than the certificate")
            await self._actions.node_connected(self.leaf, message.version, message.boot)
            self.started = True
            self._dirty.set()
            return
        if isinstance(message, Renew):
            self._put(self._others, message)
            return
        if not self.started:
            raise ProtocolError("Start comes first")
        if isinstance(message, Ask):
            self._put(self._asks, message)
        elif isinstance(message, Events):
            self._put(self._events, message)
        elif isinstance(message, Live):
            self._put(self._others, message)
        elif isinstance(message, Prove):
            self._put(self._questions, message)
        elif isinstance(message, Measured):
            self._measured(message)
        else:
            raise ProtocolError("an enrolled node does not enrol")

    def _measured(self, message: Measured) -> None:
        """One that comes too late, or that nobody asked for, is nothing to anybody."""
        answer = self._measuring.get(message.id)
        if answer is not None and not answer.done():
            answer.set_result(message.trips)

    @staticmethod
    def _put(queue: "asyncio.Queue[Any]", message: NodeMessage) -> None:
        try:
            queue.put_nowait(message)
        except asyncio.QueueFull:
            raise ProtocolError("the node sends faster than it is answered", Code.BUSY) from None

    @staticmethod
    async def _work(
        queue: "asyncio.Queue[Any]", handle: Callable[[Any], Coroutine[Any, Any, None]]
    ) -> None:
        while True:
            await handle(await queue.get())

    # --- answers ----------------------------------------------------------------------------------

    async def _answer(self, ask: Ask) -> None:
        """Freshness (K-03). A store that is away gives no answer, and the node's authority becomes stale."""
        self._publisher.heard_version(ask.authority, self.name)
        try:
            version = await self._actions.authority_version()
            if ask.authority < version:
                await self._say(Current(await self._publisher.current_authority(version)))
        except FerruleError as error:
            _log.warning("hub.no_answer", node=self.name, reason=str(error))
            return
        await self._say(Answer(ask.nonce, self._actions.now(), version))

    async def _record(self, batch: Events) -> None:
        answer: ControllerMessage
        try:
            recorded = await self._actions.record_events(
                self.leaf, batch.first, batch.events, batch.chain, batch.makes
            )
            answer = type(recorded)(batch.id, recorded.first, recorded.head, recorded.records)
        except (DecodeError, TrustError) as error:
            _log.error("hub.events_refused", node=self.name, first=batch.first, reason=str(error))
            answer = _failed(batch.id, Code.NOT_TRUSTED, error)
        except FerruleError as error:
            answer = _failed(batch.id, Code.BUSY, error)
        await self._say(answer)

    async def _handle_other(self, message: Renew | Live) -> None:
        if isinstance(message, Live):
            self._actions.node_links(self.name, message.routers, message.trips)
            try:
                await self._actions.node_live(self.leaf, message.circuits)
            except FerruleError as error:
                _log.warning("hub.live", node=self.name, reason=str(error))
            return

        async def issue() -> ControllerMessage:
            return Issued(message.id, await self._actions.renew(self.leaf, message.csr))

        await self._say(await _or_failed(message.id, issue()))

    async def _prove(self, question: Prove) -> None:
        """The log has only grown (K-09, U-13)."""

        async def prove() -> ControllerMessage:
            proofs = await self._actions.prove_growth(question.sizes, question.size)
            return Proofs(question.id, tuple(map(tuple, proofs)))

        await self._say(await _or_failed(question.id, prove()))

    async def _say(self, message: ControllerMessage) -> None:
        data = encode_message(message)
        async with self._speaking:
            await self._stream.write(data)

    # --- what the node has to know ----------------------------------------------------------------

    async def _push(self) -> None:
        first = True
        while True:
            await self._wait_for_news()
            self._dirty.clear()
            try:
                if first:
                    await self._say(Current(await self._publisher.current_authority(0)))
                    first = False
                async with self._publisher.pushes:
                    # Where nothing has to be read thousands would come in one turn.
                    await asyncio.sleep(0)
                    assignments = await self._actions.assignments_for(self.leaf)
                    grants = await self._actions.grants_for(self.leaf)
                    news = self._ledger.compare(grants, self._actions.now())
                    signed = await self._actions.sign_grants(news.put)
            except FerruleError as error:
                _log.warning("hub.push", node=self.name, reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)
                self._dirty.set()
                continue
            if self._assigned is None or not _same(assignments, self._assigned):
                await self._say(assignments)
                self._assigned = assignments
            for update in self._ledger.tell(news, signed):
                await self._say(update)

    async def _wait_for_news(self) -> None:
        """A change, or the time to refresh grants (K-04)."""
        due = self._ledger.refresh_due()
        seconds = LOOK_AGAIN_SECONDS
        if due is not None:
            seconds = min(seconds, max(0.5, (due - self._actions.now()) / 1_000_000))
        if not self.started:
            await self._dirty.wait()
            return
        try:
            async with asyncio.timeout(seconds):
                await self._dirty.wait()
        except TimeoutError:
            pass


def _same(one: Assignments, other: Assignments) -> bool:
    """Whether they say the same, of whatever version: that rises with every change of policy, for all nodes."""
    return msgspec.structs.replace(one, version=other.version) == other


async def _or_failed(number: int, work: Awaitable[ControllerMessage]) -> ControllerMessage:
    """The answer that `work` makes, or why there is none."""
    try:
        return await work
    except TrustError as error:
        return _failed(number, Code.NOT_TRUSTED, error)
    except FerruleError as error:
        return _failed(number, Code.BUSY, error)


def _failed(number: int, code: Code, error: Exception) -> Failed:
    return Failed(number, code, str(error)[: limits.MAX_REASON])


assert SILENT_SECONDS > 2 * limits.AUTHORITY_INTERVAL  # noqa: S101 - nodes ask every 5 s
