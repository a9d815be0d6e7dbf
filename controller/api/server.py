"""The API's listening socket: connections are counted before TLS begins, and nobody holds one for free."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from controller.api import guard
from controller.api.problem import ApiError, ProblemCode
from controller.api.service import Service, problem_response
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel, spawn
from overlay.slots import source_of

BACKLOG = 128
ACCEPT_PAUSE = 0.1
CLOSE_SECONDS = 1.0
"""For running answers to end when the program stops; streams are cut then."""

_log = get_logger("api")


class _Connection(RequestHandler):
    """aiohttp's connection, which also gives its place back and answers bad HTTP with a problem document."""

    __slots__ = ("_leave",)

    def __init__(self, manager: web.Server, leave: Callable[[], None], **settings: Any) -> None:
        super().__init__(manager, loop=asyncio.get_running_loop(), **settings)
        self._leave = leave

    def connection_lost(self, exc: BaseException | None) -> None:
        super().connection_lost(exc)
        self._leave()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is not HTTP is answered once and never logged with a traceback: strangers could fill the log."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        bad = status < 500
        code = ProblemCode.BAD_REQUEST if bad else ProblemCode.INTERNAL
        text = "this is not proper HTTP" if bad else "the controller failed at this"
        if not bad:
            _log.error("api.connection_failed", error=repr(exc))
        return problem_response(ApiError(code, text, close=True))


class ApiServer:
    """Listens with TLS and hands requests to a `Service`."""

    def __init__(self, service: Service, tls: ssl.SSLContext) -> None:
        self._service = service
        self._tls = tls
        self._http = web.Server(service.answer)
        self._socket: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._opening: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens, with the port that the system chose."""
        if self._socket is None:
            raise RuntimeError("not started")
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    async def start(self, host: str, port: int) -> None:
        """Listen on `host`:`port` (0: any free one).

        Raises:
            OSError: the address cannot be used.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, number, _, address = found[0]
        listening = socket.socket(family, kind, number)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)  # noqa: FBT003 - the standard library's own
            listening.bind(address)
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
        self._socket = listening
        self._accepting = spawn(self._accept(listening), "api accept")

    async def close(self) -> None:
        """Stop listening, let running answers end for a moment, then cut what is left."""
        if self._socket is None:
            return
        await cancel(self._accepting, *self._opening)
        self._socket.close()
        self._socket = None
        await self._service.end_streams()
        self._http.pre_shutdown()
        await self._http.shutdown(CLOSE_SECONDS)
        await self._service.end()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listening)
            except OSError as error:  # out of descriptors: others must get a chance to free some
                _log.warning("api.accept_failed", error=str(error))
                await asyncio.sleep(ACCEPT_PAUSE)
                continue
            source = source_of(str(address[0]))
            if not self._service.connections.enter(source):
                connection.close()
                continue
            task = spawn(self._open(connection, source), "api handshake")
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, connection: socket.socket, source: str) -> None:
        """The TLS handshake, in bounded time; then the connection is aiohttp's."""
        left = False

        def leave() -> None:
            nonlocal left
            if not left:
                left = True
                self._service.connections.leave(source)

        def made() -> _Connection:
            return _Connection(
                self._http,
                leave,
                keepalive_timeout=guard.REQUEST_SECONDS,
                lingering_time=guard.LINGER_SECONDS,
                max_line_size=guard.MAX_HEAD_LINE,
                max_field_size=guard.MAX_HEAD_LINE,
                max_headers=guard.MAX_HEADERS,
                auto_decompress=False,
                access_log=None,
            )

        done = False
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            async with asyncio.timeout(guard.TLS_SECONDS):
                await asyncio.get_running_loop().connect_accepted_socket(
                    made, connection, ssl=self._tls, ssl_handshake_timeout=guard.TLS_SECONDS
                )
            done = True
        except (OSError, ssl.SSLError):
            pass  # a stranger who does not speak our TLS; counted by its place only
        finally:
            if not done:
                leave()
                with contextlib.suppress(OSError):
                    connection.close()
