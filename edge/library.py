"""An edge inside a program: connect to services and host them, with no tunnel, no listener and no privileges
(docs/library.md).
"""

import asyncio
import inspect
import logging
import sys
from collections.abc import Awaitable, Callable
from importlib.metadata import version as version_of
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import structlog

from edge.circuit_transport import CircuitTransport
from edge.edge import Edge
from edge.machine.hearing import Hearing
from edge.machine.netlink import News
from overlay.aio.circuit_roles import Refused
from overlay.aio.circuit_stream import CircuitStream
from overlay.aio.dialer import Reach
from overlay.aio.node import NodeAgent
from overlay.aio.system import System
from overlay.aio.tasks import cancel, spawn
from overlay.aio.world import World
from overlay.errors import Code, FerruleError
from overlay.identity.certificate import Role
from overlay.policy.names import parse_service, service_name

P = TypeVar("P", bound=asyncio.BaseProtocol)
READY_SECONDS = 30.0
"""Until the plant is reached, at most."""
STOP_SECONDS = 5.0
UPDATES = 2
"""Grants are in hand when they came from disk, and once more from the controller."""
READ_LIMIT = 64 * 1024
"""Of a StreamReader, as asyncio has it."""
Served = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


_serving: set[asyncio.Task[None]] = set()


class NotConnectedError(FerruleError, ConnectionRefusedError):
    """A service was not reached: not allowed, or it does not answer. `code` is of `overlay.errors.Code`; the text says
    why in a sentence. It is a `ConnectionRefusedError`, so that programs for TCP understand it.
    """

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Hosted:
    """A service that this program hosts; made by `Plant.listen`."""

    def __init__(self, stop: Callable[[], None], service: str) -> None:
        self.service = service
        self._stop = stop

    def close(self) -> None:
        """Take no more connections; those there are live on."""
        self._stop()

    async def __aenter__(self) -> "Hosted":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class Plant:
    """A plant as this program sees it. Made by `edge.open`; an asynchronous context manager.

    The folder is that of an edge (`ferrule add edge`), and no other program may use it at the same time.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        token: str | Path | None = None,
        proxy: str | None = None,
        world: World | None = None,
    ) -> None:
        self._directory = Path(directory)
        self._token = None if token is None else Path(token)
        self._reach = Reach(proxy, "header")
        self._world = world or System()
        self._machine = world is None
        self._underlay: Hearing | None = None
        self._stop = asyncio.Event()
        self._agent: NodeAgent | None = None
        self._edge: Edge | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Plant":
        """Enrol when the folder is new, and reach the plant.

        Raises:
            FerruleError: the folder or the token cannot be used, or no router is reachable within `READY_SECONDS`.
        """
        _quiet()
        self._agent = agent = await NodeAgent.open(
            self._world, self._directory, role=Role.EDGE, version=version_of("ferrule"),
            token=self._token, reach=self._reach,
        )  # fmt: skip
        try:
            self._edge = edge = Edge(self._world, agent, lanes=False)
            agent.use(edge.endpoint, edge)
            if self._machine:
                self._underlay = Hearing("underlay", News, agent.uplinks.network_changed)
                self._underlay.start()
            running = spawn(agent.run(self._stop), "plant", awaited=True)
            self._tasks = [running, spawn(edge.enforce(), "enforcement")]
            await self._ready(agent, edge, running)
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._close()

    @property
    def name(self) -> str:
        """The name of this edge, as which it calls unless it is told otherwise."""
        return self._parts()[1].endpoint.name

    async def connect(
        self, service: str, *, who: str | None = None, port: int = 0, limit: int = READ_LIMIT
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """As `asyncio.open_connection`, to a service.

        Args:
            service: ASSET.PROTOCOL.
            who: an asset behind this edge, as which the connection counts; else the edge itself.
            port: of a service with several.
            limit: of the reader.

        Raises:
            InputError: not the name of a service.
            NotConnectedError: not allowed, or not reached.
        """
        reader = asyncio.StreamReader(limit)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await self.create_connection(lambda: protocol, service, who=who, port=port)
        return reader, asyncio.StreamWriter(transport, protocol, reader, asyncio.get_running_loop())

    async def create_connection(
        self, factory: Callable[[], P], service: str, *, who: str | None = None, port: int = 0
    ) -> tuple[asyncio.Transport, P]:
        """As `loop.create_connection`, to a service: for libraries that bring a protocol of their own.

        Raises:
            InputError, NotConnectedError: as `connect`.
        """
        _, edge = self._parts()
        name = service_name(*parse_service(service))
        caller = who or edge.endpoint.name
        try:
            stream = edge.calling.ask(caller, name, port)
            try:
                await stream.ready()
            except asyncio.CancelledError:  # whoever waited, wants it no more: `asyncio.timeout`
                if not stream.closed.done():
                    stream.abort(Code.APPLICATION_RESET, "the program gave up")
                raise
        except Refused as error:
            raise NotConnectedError(error.code, error.reason or error.code.name) from None
        return _join(stream, factory, caller)

    async def listen(self, service: str, served: Served) -> Hosted:
        """Host a service in this program: `served(reader, writer)` is called for each connection, as by
        `asyncio.start_server`. The service is one of an asset that stands behind this edge; nothing is dialled for it.

        Raises:
            InputError: not the name of a service.
            FerruleError: this program hosts it already.
        """
        _, edge = self._parts()
        name = service_name(*parse_service(service))
        loop = asyncio.get_running_loop()

        def take(stream: CircuitStream) -> None:
            who = "" if stream.grant is None else stream.grant.who
            reader = asyncio.StreamReader(READ_LIMIT)

            def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                work = served(reader, writer)
                if inspect.isawaitable(work):
                    _serving.add(task := spawn(_finished(work, writer), name))
                    task.add_done_callback(_serving.discard)

            _join(stream, lambda: asyncio.StreamReaderProtocol(reader, connected, loop), who)

        if name in edge.hosting.inside:
            raise FerruleError(f"This program hosts {name} already.")
        edge.hosting.inside[name] = take

        def stop() -> None:
            if edge.hosting.inside.get(name) is take:  # else it is somebody else's by now
                del edge.hosting.inside[name]

        return Hosted(stop, name)

    def _parts(self) -> tuple[NodeAgent, Edge]:
        if self._agent is None or self._edge is None:
            raise FerruleError("The plant is not open: use `async with edge.open(...) as plant`.")
        return self._agent, self._edge

    async def _ready(self, agent: NodeAgent, edge: Edge, running: asyncio.Task[None]) -> None:
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not (agent.name and agent.connected and edge.updates >= UPDATES):
                    if running.done():
                        running.result()
                        raise FerruleError("The edge ended before it reached the plant.")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            if agent.name and agent.state.grants:
                return  # with what it was granted before it works without the controller
            why = "; ".join(agent.link_errors().values()) or "no router answers"
            raise FerruleError(
                f"The plant is not reached within {READY_SECONDS:.0f} s: {why}"
            ) from None

    async def _close(self) -> None:
        self._stop.set()
        tasks, self._tasks = self._tasks, []
        if tasks:
            await asyncio.wait(tasks[:1], timeout=STOP_SECONDS)
        await cancel(*tasks)
        if self._underlay is not None:
            self._underlay.close()
        if self._edge is not None:
            await self._edge.close()
        if self._agent is not None:
            await self._agent.close()
        self._edge = self._agent = None


def _join(stream: CircuitStream, factory: Callable[[], P], who: str) -> tuple[asyncio.Transport, P]:
    protocol = factory()
    transport = CircuitTransport(stream, protocol, who)
    transport.start()
    return transport, protocol


def _quiet() -> None:
    """A program that has not said what becomes of log entries gets warnings, on stderr."""
    if not structlog.is_configured():
        structlog.configure(
            wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        )


async def _finished(work: Awaitable[None], writer: asyncio.StreamWriter) -> None:
    try:
        await work
    except ConnectionError:
        pass  # the caller is gone
    finally:
        writer.close()
