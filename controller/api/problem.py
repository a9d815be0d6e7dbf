"""Problem documents (RFC 9457): what the API answers when it does not do what it was asked."""

from enum import StrEnum
from http import HTTPStatus

import msgspec

from controller.actions import errors
from overlay.errors import FerruleError, InputError

MEDIA_TYPE = "application/problem+json"
TYPE = "urn:ferrule:problem:"
MAX_DETAIL = 600


class ProblemCode(StrEnum):
    """Stable: programs may compare it. The detail beside it is for people."""

    BAD_REQUEST = "bad-request"
    INVALID = "invalid"
    NOT_LOGGED_IN = "not-logged-in"
    LOGIN_REFUSED = "login-refused"
    LOGIN_LOCKED = "login-locked"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    NO_ROUTE = "no-route"
    METHOD = "method-not-allowed"
    CONFLICT = "conflict"
    REFUSED = "refused"
    TOO_LARGE = "too-large"
    MEDIA_TYPE = "not-json"
    TOO_SLOW = "too-slow"
    TOO_MANY = "too-many-requests"
    NOT_AVAILABLE = "not-available"
    UNAVAILABLE = "unavailable"
    INTERNAL = "internal"


STATUS: dict[ProblemCode, HTTPStatus] = {
    ProblemCode.BAD_REQUEST: HTTPStatus.BAD_REQUEST,
    ProblemCode.INVALID: HTTPStatus.UNPROCESSABLE_ENTITY,
    ProblemCode.NOT_LOGGED_IN: HTTPStatus.UNAUTHORIZED,
    ProblemCode.LOGIN_REFUSED: HTTPStatus.UNAUTHORIZED,
    ProblemCode.LOGIN_LOCKED: HTTPStatus.TOO_MANY_REQUESTS,
    ProblemCode.FORBIDDEN: HTTPStatus.FORBIDDEN,
    ProblemCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    ProblemCode.NO_ROUTE: HTTPStatus.NOT_FOUND,
    ProblemCode.METHOD: HTTPStatus.METHOD_NOT_ALLOWED,
    ProblemCode.CONFLICT: HTTPStatus.CONFLICT,
    ProblemCode.REFUSED: HTTPStatus.CONFLICT,
    ProblemCode.TOO_LARGE: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    ProblemCode.MEDIA_TYPE: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    ProblemCode.TOO_SLOW: HTTPStatus.REQUEST_TIMEOUT,
    ProblemCode.TOO_MANY: HTTPStatus.TOO_MANY_REQUESTS,
    ProblemCode.NOT_AVAILABLE: HTTPStatus.NOT_IMPLEMENTED,
    ProblemCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    ProblemCode.INTERNAL: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class Problem(msgspec.Struct, frozen=True):
    """The document. `type` is `urn:ferrule:problem:` and the code; `title` is HTTP's own word for the status."""

    type: str
    title: str
    status: int
    code: ProblemCode
    detail: str


class ApiError(FerruleError):
    """A refusal by the API. `close`: end the connection, because what follows in it is not to be read."""

    def __init__(
        self, code: ProblemCode, detail: str, *, retry_after: float = 0.0, close: bool = False
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        self.close = close

    @property
    def status(self) -> HTTPStatus:
        """The HTTP status of its code."""
        return STATUS[self.code]

    def document(self) -> Problem:
        """What the caller gets."""
        return Problem(
            type=TYPE + self.code.value,
            title=self.status.phrase,
            status=self.status.value,
            code=self.code,
            detail=self.detail[:MAX_DETAIL],
        )


_OF_ACTION: tuple[tuple[type[FerruleError], ProblemCode], ...] = (
    (errors.Invalid, ProblemCode.INVALID),
    (InputError, ProblemCode.INVALID),
    (errors.Unsupported, ProblemCode.NOT_AVAILABLE),
    (errors.NotAuthenticated, ProblemCode.NOT_LOGGED_IN),
    (errors.NotAllowed, ProblemCode.FORBIDDEN),
    (errors.NotFound, ProblemCode.NOT_FOUND),
    (errors.Conflict, ProblemCode.CONFLICT),
    (errors.TooMany, ProblemCode.TOO_MANY),
    (errors.Unavailable, ProblemCode.UNAVAILABLE),
)


def of_error(error: FerruleError) -> ApiError:
    """What an action's refusal is to the caller; its text is kept."""
    if isinstance(error, ApiError):
        return error
    for kind, code in _OF_ACTION:
        if isinstance(error, kind):
            return ApiError(code, str(error))
    return ApiError(ProblemCode.REFUSED, str(error))
