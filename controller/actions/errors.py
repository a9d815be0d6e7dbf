"""Why an action was refused. The API turns each into a status, the command line into an exit code."""

from overlay.errors import FerruleError, InputError


class ActionError(FerruleError):
    """Base. `status` is the HTTP status of the answer, `exit_code` what `ferrule` ends with."""

    status = 400
    exit_code = 1


class Invalid(ActionError, InputError):
    """What was asked for is not well-formed: a bad name, duration, port, option or sentence."""

    status = 422
    exit_code = 2


class Unsupported(ActionError):
    """Well-formed, but this build does not do it yet."""

    status = 501
    exit_code = 2


class NotAuthenticated(ActionError):
    """No session, an ended session, or wrong name or password."""

    status = 401


class NotAllowed(ActionError):
    """The role of who asks does not permit this."""

    status = 403


class NotFound(ActionError):
    """Nothing has this name or id."""

    status = 404


class Conflict(ActionError):
    """It would contradict what exists: a name in use, an object that others depend on, a revoked identity."""

    status = 409


class TooMany(ActionError):
    """A named limit is reached, or too many attempts; the text says when to try again."""

    status = 429


class Unavailable(ActionError):
    """The store cannot be written or read now (full disk, database away)."""

    status = 503
