"""The way of a request: limits, login, body, action, answer.

Nothing is read or kept for a stranger beyond fixed bounds. Order: size that the head announces; rate of the address;
login; rate of the login; route; body (bounded in bytes and time); action (bounded in time); answer. A refusal is a
problem document.
"""

import asyncio
import hashlib
import math
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import msgspec
from aiohttp import web

from controller.actions.actions import Actions
from controller.actions.errors import NotAuthenticated, TooMany
from controller.actions.requests import Request
from controller.api import guard
from controller.api.problem import MEDIA_TYPE, ApiError, ProblemCode, of_error
from controller.api.route import NOBODY, Call, Route, Table, decode_body, decode_query
from overlay.aio.logs import get_logger
from overlay.aio.tasks import cancel
from overlay.errors import FerruleError
from overlay.limits import MAX_API_BODY
from overlay.slots import Slots, source_of

MAX_TOKEN = 512
JSON = "application/json"
LINES = "application/x-ndjson"
HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}

_log = get_logger("api")


class Service:
    """Answers requests with `actions`."""

    def __init__(self, actions: Actions, routes: Sequence[Route]) -> None:
        self._actions = actions
        self._table = Table(routes)
        self._strangers = guard.Buckets(guard.STRANGER)
        self._logins = guard.Buckets(guard.LOGIN)
        self._known = guard.Buckets(guard.KNOWN)
        self._streams = Slots[str](guard.STREAMS, guard.STREAMS_PER_LOGIN)
        self._running: set[asyncio.Task[Any]] = set()
        self._streaming: set[asyncio.Task[Any]] = set()
        self.connections = Slots[str](
            guard.CONNECTIONS,
            guard.CONNECTIONS_PER_SOURCE,
            guard.CONNECTIONS_RESERVED,
            guard.WELCOME,
        )

    @property
    def routes(self) -> tuple[Route, ...]:
        """All of them."""
        return self._table.routes

    async def end_streams(self) -> None:
        """Cut all streams, also those whose reader has gone."""
        await cancel(*self._streaming)

    async def end(self) -> None:
        """Cut every answer that is still being made."""
        await cancel(*self._running)

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """The answer to any request; raises only when the connection is gone."""
        task = asyncio.current_task()
        if task is not None:
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            task.add_done_callback(self._streaming.discard)
        try:
            return await self._answer(request)
        except ApiError as error:
            return problem_response(error)
        except FerruleError as error:
            return problem_response(of_error(error))
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:  # noqa: BLE001 - a caller gets a sentence, whatever happens
            _log.error("api.failed", path=request.rel_url.path, error=repr(error), exc_info=error)
            text = "the controller failed at this; its log says why"
            return problem_response(ApiError(ProblemCode.INTERNAL, text, close=True))

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        source = source_of(request.remote or "")
        token = _bearer(request)
        opened = self._table.find_open(request.method, request.rel_url.raw_path)
        known = _digest(token)
        limit = guard.MAX_BODY_BEFORE_LOGIN if opened or not token else MAX_API_BODY
        _check_head(request, limit)
        if known not in self._known and (wait := self._strangers.wait(source, _now())):
            raise _slow_down(wait)
        if opened:
            return await self._login(request, opened, source)
        try:
            actor = await self._actions.session(token) if token else None
        except NotAuthenticated:
            actor = None
        if actor is None:
            self._strangers.take(source, _now())
            close = request.can_read_body
            raise ApiError(ProblemCode.NOT_LOGGED_IN, _NOT_LOGGED_IN, close=close)
        self.connections.welcome(source)
        if wait := self._known.take(known, _now()):
            raise _slow_down(wait)
        route, path = self._table.find(request.method, request.rel_url.raw_path)
        query = decode_query(route.query, list(request.query.items()))
        body = await self._body(request, route, limit)
        call = Call(self._actions, actor, token, source, path, lambda: _is_gone(request))
        if route.lines:
            return await self._stream(request, known, await route.handler(call, query, body))
        return _reply(await self._bounded(route, call, query, body))

    async def _login(
        self, request: web.BaseRequest, route: Route, source: str
    ) -> web.StreamResponse:
        """A route that needs no login; each use counts against the address, and failing counts twice."""
        if wait := self._logins.take(source, _now()):
            raise _slow_down(wait)
        query = decode_query(route.query, list(request.query.items()))
        body = await self._body(request, route, guard.MAX_BODY_BEFORE_LOGIN)
        call = Call(self._actions, NOBODY, "", source, {}, lambda: _is_gone(request))
        try:
            answer = await self._bounded(route, call, query, body)
        except NotAuthenticated as error:
            self._strangers.take(source, _now())
            raise ApiError(ProblemCode.LOGIN_REFUSED, str(error)) from None
        except TooMany as error:
            raise ApiError(ProblemCode.LOGIN_LOCKED, str(error)) from None
        self.connections.welcome(source)
        return _reply(answer)

    async def _bounded(
        self, route: Route, call: Call, query: Request, body: Request | None
    ) -> object:
        try:
            async with asyncio.timeout(route.seconds):
                return await route.handler(call, query, body)
        except TimeoutError:
            text = "this took too long and was given up: try again, or ask for less"
            raise ApiError(ProblemCode.UNAVAILABLE, text, retry_after=5) from None

    async def _body(self, request: web.BaseRequest, route: Route, limit: int) -> Request | None:
        """The decoded body, None for a route that takes none.

        Raises:
            ApiError: too large, too slow, not JSON, or not what the route takes.
        """
        if route.body is None:
            if request.can_read_body:
                text = f"{route.method} {route.path} takes no body"
                raise ApiError(ProblemCode.BAD_REQUEST, text, close=True)
            return None
        if request.content_type != JSON:
            text = "the body must be JSON, with Content-Type: application/json"
            raise ApiError(ProblemCode.MEDIA_TYPE, text, close=True)
        raw = bytearray()
        try:
            async with asyncio.timeout(guard.BODY_SECONDS):
                while chunk := await request.content.readany():
                    if len(raw) + len(chunk) > limit:
                        raise _too_large(limit)
                    raw += chunk
        except TimeoutError:
            text = f"the body did not arrive within {guard.BODY_SECONDS:.0f} s"
            raise ApiError(ProblemCode.TOO_SLOW, text, close=True) from None
        except web.RequestPayloadError:
            text = "the body is cut off or wrongly framed"
            raise ApiError(ProblemCode.BAD_REQUEST, text, close=True) from None
        return decode_body(route.body, bytes(raw))

    async def _stream(
        self, request: web.BaseRequest, login: str, items: AsyncGenerator[Any, None]
    ) -> web.StreamResponse:
        """JSON lines as they come; None from the handler is an empty line, which shows that both sides live.

        The first item is fetched before the head goes out, so that a refusal is still a problem document.
        What goes wrong later cuts the connection: a reader must never take half an answer for a whole one.
        """
        if not self._streams.enter(login):
            text = f"too many streams at once: at most {guard.STREAMS_PER_LOGIN} a login"
            raise ApiError(ProblemCode.TOO_MANY, text, retry_after=5)
        if (task := asyncio.current_task()) is not None:
            self._streaming.add(task)
        try:
            item = await anext(items, _END)
            response = web.StreamResponse(headers={**HEADERS, "Content-Type": LINES})
            await response.prepare(request)
            try:
                while item is not _END and not _is_gone(request):
                    async with asyncio.timeout(guard.STREAM_STALL_SECONDS):
                        await response.write(_line(item))
                    item = await anext(items, _END)
            except (
                FerruleError,
                OSError,
            ) as error:  # a stalled reader's TimeoutError is an OSError
                _log.info("api.stream_cut", reason=str(error) or type(error).__name__)
                if request.transport is not None:
                    request.transport.abort()
            return response
        finally:
            self._streams.leave(login)
            await items.aclose()


_END = object()
_NOT_LOGGED_IN = "not logged in, or the login has ended"


def problem_response(error: ApiError) -> web.Response:
    """The problem document of `error`."""
    headers = dict(HEADERS)
    if error.retry_after:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    body = msgspec.json.encode(error.document())
    response = web.Response(
        status=error.status, body=body, content_type=MEDIA_TYPE, headers=headers
    )
    if error.close:
        response.force_close()
    return response


def _reply(answer: object) -> web.Response:
    if answer is None:
        return web.Response(status=204, headers=HEADERS)
    body = answer if isinstance(answer, bytes) else msgspec.json.encode(answer)
    return web.Response(body=body, content_type=JSON, headers=HEADERS)


def _line(item: object) -> bytes:
    """A stream's item on the wire: bytes are complete lines already."""
    if item is None:
        return b"\n"
    return item if isinstance(item, bytes) else msgspec.json.encode(item) + b"\n"


def _check_head(request: web.BaseRequest, limit: int) -> None:
    """Refuse by what the head says, before a byte of the body is looked at."""
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        text = "the body must be plain JSON, without Content-Encoding"
        raise ApiError(ProblemCode.MEDIA_TYPE, text, close=True)


def _bearer(request: web.BaseRequest) -> str:
    """The token of `Authorization: Bearer TOKEN`, "" when there is not exactly one such header."""
    values = request.headers.getall("Authorization", [])
    if len(values) != 1:
        return ""
    scheme, _, token = values[0].partition(" ")
    token = token.strip()
    return token if scheme.lower() == "bearer" and 0 < len(token) <= MAX_TOKEN else ""


def _digest(token: str) -> str:
    """Under what a login is counted: its token is not kept."""
    return hashlib.blake2b(token.encode(errors="replace"), digest_size=16).hexdigest()


def _too_large(limit: int) -> ApiError:
    text = f"the body is larger than the {limit} bytes that this path takes"
    return ApiError(ProblemCode.TOO_LARGE, text, close=True)


def _slow_down(wait: float) -> ApiError:
    text = f"too many requests from here: wait {math.ceil(wait)} s"
    return ApiError(ProblemCode.TOO_MANY, text, retry_after=wait, close=True)


def _is_gone(request: web.BaseRequest) -> bool:
    return request.transport is None or request.transport.is_closing()


def _now() -> float:
    return asyncio.get_running_loop().time()
