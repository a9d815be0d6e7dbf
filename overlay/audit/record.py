"""Records: what the audit log holds, and their canonical form (docs/protocol/audit.md, U-03).

A record's leaf bytes are its JSON without `hash`: keys sorted, no spaces, UTF-8. `hash` is the leaf hash in hex and is
added where records are shown and exported. Fields are append-only; a verifier hashes fields that it does not know, too.
"""

import base64
import binascii
from typing import Annotated, cast

import msgspec
from msgspec import Meta

from overlay.audit.event import Event, EventName, Outcome, Text
from overlay.audit.merkle import leaf_hash
from overlay.errors import DecodeError, TrustError
from overlay.limits import MAX_RECORD
from overlay.wire.bodies import Reason
from overlay.wire.codec import Signed, decode
from overlay.wire.timestamps import format_time, read_time

FORM = 1
"""Of `Record`: it grows by one with each field that is added, since a node of before would make another record."""
_encoder = msgspec.json.Encoder(order="sorted")


class Record(msgspec.Struct, frozen=True):
    """One record. `seq` starts at 1, its leaf has the index `seq - 1`; `time` is RFC 3339.

    `node`, `number` and `generation` are those of the node's own event, `signed` is that event as it was signed, in
    base64. `asset` and `address` may have been filled in by the controller where the event left them empty. `detail` is
    the JSON text of the event.
    """

    seq: Annotated[int, Meta(ge=1)]
    time: str
    event: EventName
    outcome: Outcome
    who: Text
    via: Text
    asset: Text
    service: Text
    address: Text
    conduit: Text
    reason: Reason
    node: Text
    number: Annotated[int, Meta(ge=1)]
    generation: Annotated[int, Meta(ge=0)]
    circuit: Text
    count: Annotated[int, Meta(ge=1)]
    detail: Annotated[str, Meta(max_length=4096)]
    signed: str

    @property
    def index(self) -> int:
        """Number of its leaf, from 0."""
        return self.seq - 1

    def leaf(self) -> bytes:
        """The leaf's bytes."""
        return _encoder.encode(self)

    def hash(self) -> bytes:
        """The leaf hash."""
        return leaf_hash(self.leaf())


_decoder = msgspec.json.Decoder(Record)
_generic = msgspec.json.Decoder(dict[str, msgspec.Raw])


def make_record(seq: int, signed: bytes, *, asset: str = "", address: str = "") -> Record:
    """The record of a node's signed event, whose signature was verified before.

    `asset` and `address` are what the controller knows; they count only where the event itself says nothing.

    Raises:
        DecodeError: `signed` holds no event.
    """
    return record_of(seq, signed, event_of(signed), asset=asset, address=address)


def record_of(
    seq: int, signed: bytes, event: Event, *, asset: str = "", address: str = ""
) -> Record:
    """As `make_record`, where the event in `signed` was read already."""
    return Record(
        seq=seq,
        time=format_time(event.time),
        event=event.event,
        outcome=event.outcome,
        who=event.who,
        via=event.via,
        asset=event.asset or asset,
        service=event.service,
        address=event.address or address,
        conduit=event.conduit,
        reason=event.reason,
        node=event.node,
        number=event.number,
        generation=event.generation,
        circuit=event.circuit,
        count=event.count,
        detail=event.detail,
        signed=base64.b64encode(signed).decode(),
    )


def event_of(signed: bytes) -> Event:
    """The event in a `Signed` envelope, signature not checked.

    Raises:
        DecodeError: something else.
    """
    envelope = decode(Signed, signed)
    if envelope.type != Event.TYPE:
        raise DecodeError(f"signed as {envelope.type!r}, not as an event")
    return decode(Event, envelope.body)


def read_leaf(leaf: bytes) -> Record:
    """A record from its leaf bytes, which must be canonical.

    Raises:
        DecodeError: not a record, larger than `MAX_RECORD`, not canonical, or with a time that is none.
    """
    if len(leaf) > MAX_RECORD:
        raise DecodeError(f"a record has at most {MAX_RECORD} bytes")
    try:
        record = _decoder.decode(leaf)
        canonical = _canonical(leaf)
        hashed = "hash" in _generic.decode(leaf)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise DecodeError(f"not a record: {error}") from None
    if hashed:
        raise DecodeError("the leaf of a record does not contain its own hash")
    if canonical != leaf:
        raise DecodeError("not a record in canonical form: keys sorted, no spaces, UTF-8")
    read_time(record.time)
    return record


def _canonical(text: bytes) -> bytes:
    """Any JSON object in canonical form, with fields that this version does not know."""
    return _encoder.encode(msgspec.json.decode(text))


def signed_event(record: Record) -> bytes:
    """The node's own signed event in a record.

    Raises:
        DecodeError: `signed` is not base64.
    """
    try:
        return base64.b64decode(record.signed, validate=True)
    except (binascii.Error, ValueError):
        raise DecodeError("the signed event is not base64") from None


_COPIED = (
    "event", "outcome", "who", "via", "service", "conduit", "reason", "node", "number", "generation", "circuit",
    "count", "detail",
)  # fmt: skip
_FILLED_IN = ("asset", "address")


def check_event(record: Record, sent: bytes | None = None) -> Event:
    """Check that a record says exactly what the node's event in it says (U-10); returns the event.

    `sent`: the signed event that must be in it bit for bit (U-05).

    Raises:
        DecodeError: it holds no event.
        TrustError: it says something else than its event; the text names the field.
    """
    signed = signed_event(record)
    if sent is not None and signed != sent:
        raise TrustError("the record does not hold the event as it was sent")
    event = event_of(signed)
    for field in _COPIED:
        if getattr(record, field) != getattr(event, field):
            raise TrustError(f"the record contradicts the node's signed event in {field!r}")
    for field in _FILLED_IN:
        said = cast(str, getattr(event, field))
        if said and getattr(record, field) != said:
            raise TrustError(f"the record contradicts the node's signed event in {field!r}")
    if record.time != format_time(event.time):
        raise TrustError("the record contradicts the node's signed event in 'time'")
    return event


def with_hash(leaf: bytes) -> bytes:
    """A leaf as a line of an export or an answer of the API: the same JSON with `hash`.

    Raises:
        DecodeError: the leaf is no JSON object.
    """
    try:
        fields = _generic.decode(leaf)
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise DecodeError(f"not a record: {error}") from None
    fields["hash"] = msgspec.Raw(_encoder.encode(leaf_hash(leaf).hex()))
    return _encoder.encode(fields)


def without_hash(line: bytes) -> bytes:
    """The leaf of a line that `with_hash` made; the line must be canonical and its hash right.

    Raises:
        DecodeError: it is neither, or larger than `MAX_RECORD`.
    """
    if len(line) > MAX_RECORD:
        raise DecodeError(f"a record has at most {MAX_RECORD} bytes")
    try:
        fields = _generic.decode(line)
        said = msgspec.json.decode(fields.pop("hash", msgspec.Raw(b'""')), type=str)
        leaf = _encoder.encode(fields)
        canonical = _canonical(leaf) == leaf
    except (msgspec.MsgspecError, RecursionError, UnicodeError) as error:
        raise DecodeError(f"not a record: {error}") from None
    if not canonical or with_hash(leaf) != line:
        raise DecodeError("the record or its hash was changed")
    if said != leaf_hash(leaf).hex():
        raise DecodeError("the record or its hash was changed")
    return leaf
