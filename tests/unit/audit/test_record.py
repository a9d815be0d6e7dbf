"""Records: canonical bytes, hashes, and that they say what the node said."""

import base64
import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from overlay.audit.event import Event, EventName, Outcome
from overlay.audit.merkle import leaf_hash
from overlay.audit.record import (
    Record,
    check_event,
    make_record,
    read_leaf,
    with_hash,
    without_hash,
)
from overlay.errors import DecodeError, TrustError
from overlay.limits import MAX_RECORD
from overlay.wire.codec import Signed, encode
from tests.support.log import Log
from tests.support.pki import Pki

LOG = Log(Pki(), 3)
RECORD = LOG.records[1]
LEAF = LOG.leaves[1]


def test_a_leaf_is_sorted_json_without_spaces_in_utf8():
    assert json.dumps(
        json.loads(LEAF), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode() == LEAF  # fmt: skip
    assert "größer".encode() in LEAF
    assert b'"hash"' not in LEAF
    assert read_leaf(LEAF) == RECORD
    assert RECORD.hash() == leaf_hash(LEAF)
    assert RECORD.index == 1


def test_a_record_has_all_that_operators_are_promised():
    shown = json.loads(with_hash(LEAF))
    assert set(shown) >= {
        "seq", "time", "event", "outcome", "who", "via", "asset", "service", "address", "conduit",
        "reason", "node", "count", "hash",
    }  # fmt: skip
    assert shown["hash"] == RECORD.hash().hex()
    assert shown["time"] == "2027-01-15T08:00:02.000000Z"
    assert (shown["event"], shown["outcome"]) == ("circuit.open", "denied")


def test_a_line_gives_its_leaf_back():
    assert without_hash(with_hash(LEAF)) == LEAF


def test_the_nodes_event_is_in_the_record_bit_for_bit():
    assert check_event(RECORD, LOG.signed[1]) == LOG.events[1]
    with pytest.raises(TrustError, match="does not hold the event as it was sent"):
        check_event(RECORD, LOG.signed[2])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("event", EventName.CIRCUIT_CLOSE),
        ("outcome", Outcome.ALLOWED),
        ("who", "hmi-b"),
        ("via", ""),
        ("service", "plc-b.s7"),
        ("conduit", "c1"),
        ("reason", ""),
        ("node", "edge-b"),
        ("number", 7),
        ("generation", 2),
        ("circuit", "00"),
        ("count", 2),
        ("detail", "{}"),
        ("time", "2027-01-15T08:00:02.000001Z"),
    ],
)
def test_a_record_cannot_say_something_else_than_its_node(field, value):
    with pytest.raises(TrustError, match=f"'{field}'"):
        check_event(replace(RECORD, **{field: value}))


def test_every_field_of_an_event_is_compared():
    fields = {one.name for one in msgspec.structs.fields(Event)}
    assert fields == {one.name for one in msgspec.structs.fields(Record)} - {"seq", "signed"}


def test_what_the_node_left_empty_the_controller_may_fill_in_and_nothing_else():
    assert (RECORD.asset, RECORD.address) == ("plc-b", "10.0.0.5:502")
    said = replace(LOG.events[1], asset="plc-c", address="10.0.0.9:502")
    signed = encode(Signed("event", encode(said), b"", b""))
    record = make_record(2, signed, asset="plc-b", address="10.0.0.5:502")
    assert (record.asset, record.address) == ("plc-c", "10.0.0.9:502")
    check_event(record)
    for forged in (replace(record, asset="plc-b"), replace(record, address="")):
        with pytest.raises(TrustError):
            check_event(forged)


@pytest.mark.parametrize(
    "signed",
    [
        b"",
        encode(Signed("grant", encode(LOG.events[0]), b"", b"")),
        encode(Signed("event", b"\x90", b"", b"")),
        encode(Signed("event", encode(replace(LOG.events[0], number=0)), b"", b"")),
    ],
)
def test_what_is_no_event_makes_no_record(signed):
    with pytest.raises(DecodeError):
        make_record(1, signed)
    text = base64.b64encode(signed).decode()
    with pytest.raises(DecodeError):
        check_event(replace(RECORD, signed=text))
    with pytest.raises(DecodeError):
        check_event(replace(RECORD, signed=text + "!"))


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace(b"hmi-a", b"hmi-b"),
        lambda line: line.replace(b'"seq":2', b'"seq":3'),
        lambda line: line.replace(b'"seq":2', b'"seq": 2'),
        lambda line: line.replace(b'"seq":2', b'"seq":2,"seq":2'),
        lambda line: line.replace(b'"seq":2', b'"seq":2.0'),
        lambda line: line.replace(b'"who":"hmi-a"', b'"who":"hm\\u0069-a"'),
        lambda line: line.replace(b'"hash":"', b'"hash":"0'),
        lambda line: line + b" ",
        lambda line: line[:-1],
        lambda line: b"[" + line + b"]",
        lambda line: LEAF,
        lambda line: line.replace(b'"hash":"', b'"hash":"x","hash":"'),
        lambda line: b"[" * 100_000,
        lambda line: b" " * (MAX_RECORD + 1),
        lambda line: line.replace(b"hmi", b"\xff\xfe"),
    ],
)
def test_a_changed_line_is_found(change):
    line = with_hash(LEAF)
    changed = change(line)
    assert changed != line
    with pytest.raises(DecodeError):
        without_hash(changed)


def test_fields_of_later_versions_are_hashed_too():
    later = json.loads(LEAF) | {"zone": "cell-1", "extra": {"b": 1, "a": [1, None, "ü"]}}
    leaf = json.dumps(later, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    line = with_hash(leaf)
    assert without_hash(line) == leaf
    assert read_leaf(leaf) == RECORD
    with pytest.raises(DecodeError):
        without_hash(line.replace(b"cell-1", b"cell-2"))


@pytest.mark.parametrize(
    "leaf",
    [
        LEAF + b" ",
        LEAF.replace(b'"seq":2', b'"seq":0'),
        LEAF.replace(b'"seq":2', b'"seq":"2"'),
        LEAF.replace(b"circuit.open", b"circuit.shut"),
        LEAF.replace(b"08:00:02.000000Z", b"08:00:02Z"),
        LEAF.replace(b"08:00:02.000000Z", b"99:00:02.000000Z"),
        LEAF.replace(b'"who":"hmi-a"', b'"who":"' + b"x" * 300 + b'"'),
        LEAF.replace(b',"who":"hmi-a"', b""),
        with_hash(LEAF),
        b"{}",
        b"null",
        b"",
        b"x" * (MAX_RECORD + 1),
    ],
)
def test_what_is_no_record_is_refused(leaf):
    with pytest.raises(DecodeError):
        read_leaf(leaf)


@st.composite
def mutated(draw, data: bytes):
    """The bytes with a few of them changed, lost or doubled."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        changed[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(changed)


@given(st.one_of(st.binary(max_size=200), mutated(LEAF), mutated(with_hash(LEAF))))
def test_any_bytes_are_read_or_refused_with_one_error(data):
    with suppress(DecodeError):
        assert read_leaf(data).seq >= 1
    with suppress(DecodeError):
        assert with_hash(without_hash(data)) == data
    with suppress(DecodeError):
        with_hash(data)
    with suppress(DecodeError):
        make_record(1, data)


@given(st.builds(Event, node=st.text(max_size=9), number=st.integers(1, 1 << 40),
                 time=st.integers(0, 1 << 50), event=st.sampled_from(EventName),
                 outcome=st.sampled_from(Outcome), who=st.text(max_size=20),
                 reason=st.text(max_size=20), detail=st.text(max_size=50)))  # fmt: skip
def test_every_event_makes_a_record_that_is_read_back(event):
    record = make_record(9, encode(Signed("event", encode(event), b"", b"")))
    assert read_leaf(record.leaf()) == record
    assert check_event(record) == event
    assert without_hash(with_hash(record.leaf())) == record.leaf()


@pytest.mark.parametrize("read", [read_leaf, without_hash])
def test_a_record_that_is_too_large_is_not_even_read(read):
    with pytest.raises(DecodeError, match="a record has at most"):
        read(b"x" * (MAX_RECORD + 1))
    with pytest.raises(DecodeError, match="not a record"):
        read(b"x" * MAX_RECORD)
