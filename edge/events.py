"""What an edge puts in the audit about circuits: one `circuit.open` per attempt, `circuit.close` with the
receipt (U-06, U-07).
"""

from typing import Protocol

import msgspec

from edge.host.health import Change
from overlay import limits
from overlay.aio.circuit_driver import CircuitDriver
from overlay.aio.circuit_roles import CircuitEnd
from overlay.aio.incoming import Declined, Incoming
from overlay.audit.event import EventName, Outcome, security_event
from overlay.audit.receipt import make_receipt
from overlay.errors import Code
from overlay.policy.grant import Grant
from overlay.wire.bodies import DATAGRAMS, ECHO_SERVICE, STRICT

_encoder = msgspec.json.Encoder(order="sorted")


class Recorder(Protocol):
    """`overlay.aio.node.NodeAgent`, as far as it is needed here."""

    def record(self, event: EventName, outcome: Outcome, **fields: str | int) -> None:
        """Never blocks, never fails; repeated denials are merged with a count."""
        ...


class Events:
    """Writes them; `name` of this edge may change from empty once, at enrolment."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self.attempts = dict.fromkeys((Outcome.ALLOWED, Outcome.DENIED, Outcome.FAILED), 0)
        """Since the start: circuits that were hosted, denied or failed here; each counts, however they are merged."""

    def unanswered(
        self,
        who: str,
        via: str,
        service: str,
        reason: str,
        asset: str = "",
        outcome: Outcome = Outcome.DENIED,
    ) -> None:
        """The caller's edge denied by itself: it holds no grant, or the switch is pulled. FAILED: nobody said no."""
        named = {"who": who, "via": via, "service": service} | ({"asset": asset} if asset else {})
        self._put(EventName.CIRCUIT_OPEN, outcome, reason, **named)

    def turned_away(self, via: str, target: str, reason: str) -> None:
        """Traffic that the caller's edge caught of nobody that it knows, or to an address where nothing is."""
        self._put(EventName.CIRCUIT_OPEN, Outcome.DENIED, reason, via=via, address=target)

    def failed(self, stream: CircuitDriver, reason: str) -> None:
        """The caller's edge had a grant and found no way to the host, or no room on it."""
        self._put(
            EventName.CIRCUIT_OPEN, Outcome.FAILED, reason, **_named(stream.grant, stream.service)
        )

    def declined(self, declined: Declined) -> None:
        """The endpoint refused before a program was asked; where there is no way, nobody said no."""
        fields = _named(declined.grant, declined.service) | {
            "via": declined.via, "circuit": declined.circuit_id.hex()
        }  # fmt: skip
        if declined.grant is None:
            fields["who"] = declined.via
        if not declined.service.startswith("_"):
            fields["service"] = declined.service  # what was asked for, whatever the grant is for
        outcome = Outcome.FAILED if declined.code is Code.NO_ROUTE else Outcome.DENIED
        self._put(EventName.CIRCUIT_OPEN, outcome, declined.reason, **fields)

    def refused(self, incoming: Incoming, outcome: Outcome, address: str, reason: str) -> None:
        """The hosting edge refused (DENIED), or could not reach the asset (FAILED)."""
        fields = _named(incoming.grant, incoming.service)
        fields["circuit"] = incoming.circuit_id.hex()
        self._put(EventName.CIRCUIT_OPEN, outcome, reason, address=address, **fields)

    def opened(self, stream: CircuitDriver, address: str) -> None:
        """The hosting edge carries it."""
        detail = {
            "path": list(stream.path),
            "key_exchange": stream.key_exchange,
            "integrity": "strict" if stream.integrity == STRICT else "normal",
        }
        self._put(
            EventName.CIRCUIT_OPEN, Outcome.ALLOWED, "", address=address,
            circuit=stream.circuit_id.hex(), detail=_encoder.encode(detail).decode(),
            **_named(stream.grant, stream.service),
        )  # fmt: skip

    def moved(self, stream: CircuitDriver, address: str) -> None:
        """The hosting edge carries it under another conduit, or on another path, from now on."""
        self._put(
            EventName.CIRCUIT_MOVE, Outcome.DONE, "", address=address,
            circuit=stream.circuit_id.hex(), detail=_encoder.encode({"path": list(stream.path)}).decode(),
            **_named(stream.grant, stream.service),
        )  # fmt: skip

    def closed(self, stream: CircuitDriver, address: str, end: CircuitEnd) -> None:
        """The hosting edge's last word about a circuit."""
        receipt = make_receipt(end.receipt.caller, end.receipt.host)
        core = stream.core
        detail = {
            "bytes_in": end.bytes_in,
            "bytes_out": end.bytes_out,
            "code": end.code.name.lower(),
            "receipt": receipt,
            "moves": 0 if core is None else core.resumes,
            "path": list(stream.path),
            "started": stream.started,
        }
        if stream.transport == DATAGRAMS:
            detail["datagrams_dropped"] = stream.datagrams_dropped
        reason = end.reason or ("closed" if end.code is Code.NORMAL else end.code.name.lower())
        self._put(
            EventName.CIRCUIT_CLOSE, Outcome.DONE, reason, address=address,
            circuit=stream.circuit_id.hex(), detail=_encoder.encode(detail).decode(),
            **_named(stream.grant, stream.service),
        )  # fmt: skip

    def security(self, code: Code, reason: str, grant: Grant | None, circuit_id: bytes) -> None:
        """Something came that must not have come."""
        fields = {} if grant is None else _named(grant, grant.service)
        event, outcome = security_event(code)
        self._put(event, outcome, reason, circuit=circuit_id.hex(), **fields)

    def link_fault(self, router: str, code: Code, reason: str) -> None:
        """This end found that something came over a router's link that must not have come (L-15)."""
        self._put(*security_event(code), reason, who=router, via=router)

    def health(self, change: Change) -> None:
        """An asset that is checked does not answer any more, or again."""
        event, outcome = EventName.ASSET_UP, Outcome.DONE
        if not change.up:
            event, outcome = EventName.ASSET_DOWN, Outcome.FAILED
        self._put(
            event, outcome, change.reason or "it answers again",
            asset=change.asset, service=change.service, address=change.address,
        )  # fmt: skip

    def switch(self, *, pulled: bool, reason: str) -> None:
        """The local kill switch."""
        event = EventName.LOCAL_KILL if pulled else EventName.LOCAL_RESTORE
        self._put(event, Outcome.DONE, reason)

    def _put(self, event: EventName, outcome: Outcome, reason: str, **fields: str) -> None:
        if event is EventName.CIRCUIT_OPEN:
            self.attempts[outcome] += 1
        self._recorder.record(event, outcome, reason=reason[: limits.MAX_REASON], **fields)


def _named(grant: Grant | None, service: str) -> dict[str, str]:
    if grant is None:
        return {"service": service}
    return {
        "who": grant.who,
        "via": grant.via,
        "asset": grant.asset,
        "service": service if service == ECHO_SERVICE else grant.service,
        "conduit": grant.conduit,
    }
