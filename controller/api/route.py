"""What a route is, and how a path finds its route. The table of all routes is `controller/api/routes.py`."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import msgspec

from controller.actions.actions import Actions
from controller.actions.requests import Request
from controller.actions.types import Actor
from controller.api.guard import ANSWER_SECONDS
from controller.api.problem import ApiError, ProblemCode

PREFIX = "/api/v1"

NOBODY = Actor(name="", role="auditor")
"""Stands for the caller of a route that needs no login; no action accepts it as somebody."""


class NoQuery(Request):
    """A route without query parameters: any is an error."""


@dataclass(frozen=True)
class Call:
    """One request, after all checks: who asks, from where, and the decoded parts."""

    actions: Actions
    actor: Actor
    token: str
    source: str
    path: Mapping[str, str]
    gone: Callable[[], bool]
    """Whether the caller has hung up."""


Handler = Callable[[Call, Any, Any], Awaitable[Any]]
"""(call, query, body) to the answer: a `Result`, a list of them, None for no content, or an async generator of lines.

Its docstring is the route's summary in the OpenAPI document.
"""


@dataclass(frozen=True)
class Route:
    """One method on one path. `path` has `{name}` for parts that are handed on; `answer` None: 204."""

    method: str
    path: str
    name: str
    handler: Handler
    answer: Any = None
    body: type[Request] | None = None
    query: type[Request] = NoQuery
    lines: bool = False
    """The answer is JSON lines of `answer`, as they come."""
    open: bool = False
    """Needs no login."""
    seconds: float = ANSWER_SECONDS
    about: str = ""
    """Summary, where one handler serves several routes."""
    parts: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.path.strip("/").split("/")))

    @property
    def summary(self) -> str:
        """One line that says what it does."""
        return self.about or (self.handler.__doc__ or "").strip().removesuffix(".")


class Table:
    """All routes. Fixed parts win over `{name}` parts, whatever the order."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.routes = tuple(routes)
        self._by_length: dict[int, list[Route]] = {}
        for route in sorted(routes, key=lambda route: [part[0] == "{" for part in route.parts]):
            self._by_length.setdefault(len(route.parts), []).append(route)

    def find(self, method: str, raw_path: str) -> tuple[Route, dict[str, str]]:
        """The route of a request and what its `{name}` parts are.

        Raises:
            ApiError: no such path (NO_ROUTE), not with this method (METHOD), or no proper path (BAD_REQUEST).
        """
        parts = self._parts(raw_path)
        allowed: set[str] = set()
        for route in self._by_length.get(len(parts), []):
            found = _match(route.parts, parts)
            if found is None:
                continue
            if route.method == method:
                return route, found
            allowed.add(route.method)
        if allowed:
            words = " or ".join(sorted(allowed))
            raise ApiError(ProblemCode.METHOD, f"this path takes {words}, not {method[:16]}")
        raise ApiError(ProblemCode.NO_ROUTE, "the API has no such path: see openapi.json")

    def find_open(self, method: str, raw_path: str) -> Route | None:
        """The route when it needs no login."""
        for route in self.routes:
            if route.open and route.method == method and raw_path == PREFIX + route.path:
                return route
        return None

    def _parts(self, raw_path: str) -> tuple[str, ...]:
        if not raw_path.startswith(PREFIX + "/"):
            raise ApiError(ProblemCode.NO_ROUTE, f"every path of the API begins with {PREFIX}/")
        raw = raw_path.removeprefix(PREFIX + "/").split("/")
        try:
            return tuple(unquote(part, errors="strict") for part in raw)
        except UnicodeDecodeError:
            raise ApiError(ProblemCode.BAD_REQUEST, "the path is no UTF-8 text") from None


def _match(pattern: tuple[str, ...], parts: tuple[str, ...]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for wanted, part in zip(pattern, parts, strict=True):
        if wanted[0] == "{":
            if not part:
                return None
            found[wanted[1:-1]] = part
        elif wanted != part:
            return None
    return found


def decode_query(kind: type[Request], pairs: Sequence[tuple[str, str]]) -> Request:
    """Query parameters as `kind`.

    Raises:
        ApiError: one is unknown, given twice, or not what it must be.
    """
    given = dict(pairs)
    if len(given) != len(pairs):
        raise ApiError(ProblemCode.BAD_REQUEST, "a query parameter is given twice")
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise ApiError(ProblemCode.BAD_REQUEST, f"query: {_plain(error)}") from None


def decode_body(kind: type[Request], raw: bytes) -> Request:
    """A JSON body as `kind`.

    Raises:
        ApiError: it is not JSON, or not what the route takes.
    """
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        raise ApiError(ProblemCode.BAD_REQUEST, f"body: {_plain(error)}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ApiError(ProblemCode.BAD_REQUEST, "the body is not proper JSON") from None


def _plain(error: msgspec.ValidationError) -> str:
    """The library's words without its notation for "the whole"."""
    text = str(error).replace(" - at `$.", " at `").removesuffix(" - at `$`").replace("`", "")
    return text[:1].lower() + text[1:]
