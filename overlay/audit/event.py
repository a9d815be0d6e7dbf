"""Audit events as nodes sign them, and their catalogue (docs/protocol/audit.md, U-01 to U-08)."""

from enum import StrEnum
from typing import Annotated, ClassVar

from msgspec import Meta

from overlay import limits
from overlay.errors import Code
from overlay.wire.bodies import Micros, Reason
from overlay.wire.codec import Body

MAX_TEXT = 255
MAX_DETAIL = 4096
Text = Annotated[str, Meta(max_length=MAX_TEXT)]


class Outcome(StrEnum):
    """How it came out."""

    ALLOWED = "allowed"
    DENIED = "denied"
    DONE = "done"
    FAILED = "failed"


class EventName(StrEnum):
    """Everything that is recorded; `subject.verb`. Append-only."""

    CIRCUIT_OPEN = "circuit.open"
    CIRCUIT_MOVE = "circuit.move"
    CIRCUIT_CLOSE = "circuit.close"
    SECURITY_TAMPER = "security.tamper"
    SECURITY_REFUSED = "security.refused"
    SECURITY_FORK = "security.fork"
    SECURITY_CLOCK = "security.clock"
    LINK_UP = "link.up"
    LINK_DOWN = "link.down"
    NODE_START = "node.start"
    NODE_STOP = "node.stop"
    NODE_ENROL = "node.enrol"
    NODE_RENEW = "node.renew"
    NODE_REVOKE = "node.revoke"
    LOCAL_KILL = "kill.local"
    LOCAL_RESTORE = "restore.local"
    KILL = "kill.set"
    RESTORE = "kill.restore"
    CONDUIT_ALLOW = "conduit.allow"
    CONDUIT_DENY = "conduit.deny"
    CONDUIT_EXPIRE = "conduit.expire"
    OBJECT_ADD = "object.add"
    OBJECT_SET = "object.set"
    OBJECT_REMOVE = "object.remove"
    TOKEN_MAKE = "token.make"  # noqa: S105 - the name of an event
    LOGIN = "user.login"
    AUDIT_EXPORT = "audit.export"
    SPOOL_FULL = "audit.spool"
    ASSET_DOWN = "asset.down"
    ASSET_UP = "asset.up"


def security_event(code: Code) -> tuple[EventName, Outcome]:
    """How it is recorded that something came which must not have come: found out by its seal, or turned away."""
    if code is Code.TAMPER:
        return EventName.SECURITY_TAMPER, Outcome.FAILED
    return EventName.SECURITY_REFUSED, Outcome.DENIED


class Event(Body, frozen=True):
    """One event of one node: `number` is gapless per node and starts at 1.

    `who`, `via`, `asset`, `service`, `address`, `conduit` and `circuit` (hex) are empty where they do not apply.
    `detail` is a JSON document for what only this kind of event has: receipt, path, key_exchange, integrity, bytes.
    """

    TYPE: ClassVar[str] = "event"

    node: Text
    number: Annotated[int, Meta(ge=1)]
    time: Micros
    event: EventName
    outcome: Outcome
    who: Text = ""
    via: Text = ""
    asset: Text = ""
    service: Text = ""
    address: Text = ""
    conduit: Text = ""
    reason: Reason = ""
    circuit: Text = ""
    count: Annotated[int, Meta(ge=1)] = 1
    detail: Annotated[str, Meta(max_length=MAX_DETAIL)] = ""
    generation: Annotated[int, Meta(ge=0)] = 0


def clipped(fields: dict[str, str | int]) -> dict[str, str | int]:
    """Fields within the bounds of `Event`, so that one long text does not cost an event."""
    kept: dict[str, str | int] = {}
    for name, value in fields.items():
        if isinstance(value, str):
            if name == "detail" and len(value) > MAX_DETAIL:
                value = '{"omitted":"too long"}'
            value = value[: {"reason": limits.MAX_REASON, "detail": MAX_DETAIL}.get(name, MAX_TEXT)]
        kept[name] = value
    return kept
