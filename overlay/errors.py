"""The exceptions that all programs share, and the codes that travel in REFUSE, CLOSE, RESET and GOAWAY."""

from enum import IntEnum


class FerruleError(Exception):
    """Base of every error that Ferrule raises on purpose; its text is one sentence for people."""


class InputError(FerruleError):
    """What a person typed cannot be understood or done; the text says what to type instead (exit code 2)."""


class DecodeError(FerruleError):
    """Bytes from someone else that are not what the protocol says."""


class TrustError(FerruleError):
    """A certificate, signature or proof that does not hold; the text says which rule failed."""


class ClockError(TrustError):
    """What somebody signed is of a time that cannot be now: their clock is wrong, or ours."""


class TamperError(FerruleError):
    """An authenticated record or frame that fails, repeats or skips: link or circuit ends (security event)."""


class LateError(TamperError):
    """A frame that its sender did say, but its number was used up when it came: a path that was given up delivered it
    late. Where a path may begin that is no attack (C-15, C-61); on a path that runs nothing comes late, so there it is
    `TamperError` as any other.
    """


class ProtocolError(FerruleError):
    """A well-formed message that the peer may not send now; `code` is what it is told."""

    def __init__(self, text: str, code: "Code | None" = None) -> None:
        super().__init__(text)
        self.code = Code.PROTOCOL if code is None else code


class LimitError(ProtocolError):
    """A peer wants more than a named limit allows."""

    def __init__(self, text: str) -> None:
        super().__init__(text, Code.BUSY)


class Code(IntEnum):
    """Why something was refused or ended (docs/protocol/errors.md). Append-only."""

    NORMAL = 0
    PROTOCOL = 1
    TAMPER = 2
    BUSY = 3
    NO_GRANT = 4
    BAD_GRANT = 5
    EXPIRED = 6
    KILLED = 7
    REVOKED = 8
    WITHDRAWN = 9
    NO_ROUTE = 10
    UNKNOWN_ASSOCIATION = 11
    UNKNOWN_CIRCUIT = 12
    UNREACHABLE = 13
    NOT_TRUSTED = 14
    PATH_LOST = 15
    GOING_AWAY = 16
    LOCAL_KILL = 17
    MAX_SESSION = 18
    STALE = 19
    RESTARTED = 20
    APPLICATION_RESET = 21
    IDLE = 22


def known_code(number: int) -> Code:
    """A code from the wire; one that this version does not know is a protocol error of its sender."""
    try:
        return Code(number)
    except ValueError:
        return Code.PROTOCOL


NO_DECISION = frozenset({Code.NO_ROUTE, Code.GOING_AWAY, Code.BUSY})
"""Codes by which a router refuses without deciding anything: the caller's edge records the attempt (U-06)."""
SECURITY_CODES = frozenset({Code.PROTOCOL, Code.TAMPER, Code.BAD_GRANT, Code.NOT_TRUSTED})
"""Ends that are security events, not policy results."""
