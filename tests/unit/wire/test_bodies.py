"""Every body of the protocol: vectors, bounds, and whatever a stranger may send instead of it (P-10, P-11)."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.audit import event
from overlay.control import messages
from overlay.control.messages import ControllerMessage, NodeMessage
from overlay.errors import DecodeError
from overlay.fabric import authority
from overlay.policy import grant
from overlay.wire import bodies, codec
from overlay.wire.bodies import LinkControl
from overlay.wire.codec import Body, decode, encode
from tests.support.bodies import EXAMPLES, VECTORS, unplain

MODULES = (codec, bodies, messages, authority, grant, event)
UNIONS = (LinkControl, NodeMessage, ControllerMessage)
BY_NAME = {type(example).__name__: example for example in EXAMPLES}
ENTRIES = json.loads(VECTORS.read_text())


def declared() -> Iterator[type[Body]]:
    """Every body class that the modules of the wire define."""
    for module in MODULES:
        for thing in vars(module).values():
            is_body = isinstance(thing, type) and issubclass(thing, Body) and thing is not Body
            if is_body and thing.__module__ == module.__name__:
                yield thing


def test_every_body_has_an_example_and_a_vector():
    names = {kind.__name__ for kind in declared()}
    assert len(names) > 30
    assert names == set(BY_NAME)
    assert names == {entry["body"] for entry in ENTRIES}


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["body"])
def test_bodies_are_written_and_read_as_in_the_vectors(entry):
    example, raw = BY_NAME[entry["body"]], bytes.fromhex(entry["msgpack"])
    assert encode(example) == raw
    assert decode(type(example), raw) == example
    assert msgpack.unpackb(raw) == unplain(entry["array"])


def test_tags_are_unique_within_each_stream():
    for union in UNIONS:
        tags = [kind.__struct_config__.tag for kind in union.__args__]
        assert len(set(tags)) == len(tags)
        assert None not in tags
    assert not {kind.__struct_config__.tag for kind in NodeMessage.__args__} & {
        kind.__struct_config__.tag for kind in ControllerMessage.__args__
    }


@pytest.mark.parametrize("union", UNIONS, ids=["link control", "node", "controller"])
def test_a_union_reads_each_of_its_kinds_and_no_other(union):
    for example in EXAMPLES:
        if type(example) in union.__args__:
            assert decode(union, encode(example)) == example
        elif example.__struct_config__.tag is not None:
            with pytest.raises(DecodeError):
                decode(union, encode(example))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: type(one).__name__)
def test_a_body_without_its_last_required_field_is_refused(example):
    fields = msgpack.unpackb(encode(example))
    required = [one for one in msgspec.structs.fields(example) if one.required]
    short = fields[: len(fields) - len(msgspec.structs.fields(example)) + len(required) - 1]
    with pytest.raises(DecodeError):
        decode(type(example), msgpack.packb(short))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: type(one).__name__)
def test_no_field_takes_another_type(example):
    """Each field in turn becomes a map, which no body has anywhere."""
    kind, fields = type(example), msgpack.unpackb(encode(example))
    for number in range(len(fields)):
        wrong = [*fields]
        wrong[number] = {"a": 1}
        with pytest.raises(DecodeError):
            decode(kind, msgpack.packb(wrong))


LONG = "x" * 64


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("OpenIntent", "circuit", b"\0" * 15),
        ("OpenIntent", "association", b"\0" * 17),
        ("OpenIntent", "number", -1),
        ("OpenIntent", "number", 1 << 63),
        ("OpenIntent", "service", ""),
        ("OpenIntent", "service", "x" * 128),
        ("OpenIntent", "integrity", 2),
        ("OpenIntent", "transport", 2),
        ("OpenIntent", "random", b"\0" * 31),
        ("OpenIntent", "grant", b"\0" * (limits.MAX_GRANT + 1)),
        ("OpenIntent", "host", LONG),
        ("OpenIntent", "port", 65_536),
        ("Open", "flight", b"\0" * (limits.MAX_FLIGHT + 1)),
        ("Open", "early", b"\0" * (limits.MAX_EARLY_DATA + limits.TAG_SIZE + 1)),
        ("Open", "route", ["r"] * (limits.MAX_ROUTE + 2)),
        ("Open", "path", [""]),
        ("Open", "path", [LONG]),
        ("Accept", "flight", b"\0" * (limits.MAX_FLIGHT + 1)),
        ("Refusal", "code", 256),
        ("Refusal", "reason", "x" * 201),
        ("Resume", "sealed", b"\0" * 257),
        ("ResumeState", "generation", -1),
        ("Hello", "lane", limits.BULK_LANES + 1),
        ("Hello", "bulk_lanes", limits.BULK_LANES + 1),
        ("Hello", "version", "x" * 33),
        ("Attach", "attachments", [b""] * (limits.ATTACHMENTS_PER_FRAME + 1)),
        ("Publish", "signed", b"\0" * limits.MAX_CONTROL),
        ("Load", "level", limits.LOAD_MOST + 1),
        ("Load", "level", -1),
        ("Heads", "heads", [b""] * (limits.HEADS_AT_ONCE + 1)),
        ("Heads", "heads", [b"\0" * (limits.MAX_HEAD + 1)]),
        ("Attachment", "node", LONG),
        ("Attachment", "down", ["a"] * 1025),
        ("Attachment", "until", -1),
        ("TreeHead", "root", b"\0" * 31),
        ("Grant", "caller_key", b"\0" * 31),
        ("Grant", "hosts", ["e"] * 17),
        ("Grant", "who_zones", ["z"] * 17),
        ("Grant", "end", -1),
        ("Kill", "level", "everything"),
        ("Authority", "kills", [msgpack.unpackb(encode(BY_NAME["Kill"]))] * (limits.KILLS + 1)),
        ("FabricMap", "routers", [["r", "a:1", []]] * 1025),
        ("Event", "number", 0),
        ("Event", "event", "circuit.shut"),
        ("Event", "outcome", "maybe"),
        ("Event", "detail", "x" * 4097),
        ("Event", "count", 0),
        ("Enrol", "proof", b"\0" * 31),
        ("Enrol", "csr", b"\0" * 4097),
        ("Events", "events", [b""] * (limits.EVENTS_PER_BATCH + 1)),
        ("Live", "circuits", [[b"\0" * 16, 0, 0]] * 65_537),
        ("Prove", "sizes", [1] * (limits.HEADS_PER_QUESTION + 1)),
        ("Prove", "sizes", [-1]),
        ("Proofs", "proofs", [[]] * (limits.HEADS_PER_QUESTION + 1)),
        ("Proofs", "proofs", [[b"\0" * 32] * 65]),
        ("Proofs", "proofs", [[b"\0" * 31]]),
        ("Measure", "routers", ["r"] * (messages.NEIGHBOURS + 1)),
        ("Measured", "trips", [1] * (messages.NEIGHBOURS + 1)),
        ("Measured", "trips", [1 << 32]),
        ("Issued", "chain", []),
        ("Issued", "chain", [b""] * 5),
        ("Recorded", "records", [[0, b"", []]] * (limits.EVENTS_PER_BATCH + 1)),
        ("HostedEntry", "port", 0),
        ("HostedEntry", "port_end", 65_536),
        ("ListenerEntry", "transport", 2),
        ("GrantUpdate", "put", [b""] * 16_385),
    ],
)
def test_every_bound_holds(kind, field, value):
    example = BY_NAME[kind]
    fields = msgpack.unpackb(encode(example))
    tagged = len(fields) - len(msgspec.structs.fields(example))
    fields[tagged + [one.name for one in msgspec.structs.fields(example)].index(field)] = value
    with pytest.raises(DecodeError):
        decode(type(example), msgpack.packb(fields))


@st.composite
def mutated(draw):
    """The bytes of some body, with a few of them changed, lost, doubled or cut off."""
    data = bytearray(encode(draw(st.sampled_from(EXAMPLES))))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@st.composite
def rearranged(draw):
    """Another body's fields, or this body's with one of them replaced by anything."""
    fields = msgpack.unpackb(encode(draw(st.sampled_from(EXAMPLES))))
    fields[draw(st.integers(0, len(fields) - 1))] = draw(
        st.one_of(
            st.none(), st.booleans(), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(),
            st.text(max_size=300), st.binary(max_size=80),
            st.lists(st.one_of(st.integers(0, 9), st.text(max_size=3), st.binary(max_size=16))),
        )
    )  # fmt: skip
    return msgpack.packb(fields)


@given(st.one_of(st.binary(max_size=100), mutated(), rearranged()))
def test_any_bytes_are_a_body_or_one_error(data):
    kinds: list[Any] = [*(type(example) for example in EXAMPLES), *UNIONS]
    for kind in kinds:
        with suppress(DecodeError):
            body = decode(kind, data)
            assert decode(kind, encode(body)) == body
