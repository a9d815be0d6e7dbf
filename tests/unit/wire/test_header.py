"""The frame header against its vectors, and every header that is none (L-10)."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.errors import DecodeError
from overlay.wire.header import (
    CLEAR_KINDS,
    HEADER_SIZE,
    Flag,
    Header,
    Kind,
    decode_header,
    end_to_end_fields,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/header.json").read_text())


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda one: one["name"])
def test_headers_are_written_and_read_as_drawn(vector):
    header = Header(
        Kind[vector["name"]],
        vector["flags"],
        vector["length"],
        vector["circuit"],
        vector["sequence"],
    )
    raw = bytes.fromhex(vector["bytes"])
    assert header.kind == vector["kind"]
    assert header.encode() == raw
    assert decode_header(raw) == header
    assert header.end_to_end().hex() == vector["end_to_end"]


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda one: one["why"])
def test_what_is_no_header_is_refused(vector):
    with pytest.raises(DecodeError):
        decode_header(bytes.fromhex(vector["bytes"]))


def test_the_vectors_show_every_kind():
    assert {one["kind"] for one in VECTORS["valid"]} == set(Kind)


@pytest.mark.parametrize("kind", Kind)
def test_every_kind_has_a_limit_that_holds(kind):
    limit = limits.MAX_PAYLOAD[kind]
    assert decode_header(Header(kind, 0, limit, 1, 0).encode()).length == limit
    with pytest.raises(DecodeError, match="above the limit"):
        decode_header(Header(kind, 0, limit + 1, 1, 0).encode())


@pytest.mark.parametrize("flag", [1 << bit for bit in range(8)])
@pytest.mark.parametrize("kind", Kind)
def test_a_kind_has_its_own_flags_and_no_others(kind, flag):
    own = {
        Kind.CREDIT: Flag.FLIGHT | Flag.GRANT | Flag.LAST,
        Kind.CLOSE: Flag.LAST,
        Kind.REFUSE: Flag.SEALED,
        Kind.DATA: Flag.SIGNED,
        Kind.DATAGRAM: Flag.SIGNED,
    }.get(kind, Flag.NONE)
    raw = Header(kind, flag, 0, 1, 0).encode()
    if own & flag:
        assert decode_header(raw).flags == flag
    else:
        with pytest.raises(DecodeError, match="foreign flags"):
            decode_header(raw)


def test_only_what_is_sealed_end_to_end_travels_without_the_links_seal():
    assert {Kind.DATA, Kind.DATAGRAM} == CLEAR_KINDS


def test_end_to_end_fields_leave_out_what_belongs_to_the_link():
    credit = Header(Kind.CREDIT, Flag.FLIGHT | Flag.GRANT, 10, 7, 3)
    assert credit.end_to_end() == credit._replace(circuit=8, flags=Flag.GRANT).end_to_end()
    assert credit.end_to_end() == end_to_end_fields(Kind.CREDIT, Flag.GRANT, 10, 3)
    assert credit.end_to_end() != credit._replace(sequence=4).end_to_end()
    assert credit.end_to_end() != credit._replace(length=11).end_to_end()
    assert credit.end_to_end() != credit._replace(flags=Flag.FLIGHT).end_to_end()


@given(st.binary(max_size=30))
def test_any_bytes_are_a_header_or_one_error(raw):
    with suppress(DecodeError):
        assert decode_header(raw).encode() == raw


@given(
    st.integers(0, 255), st.integers(0, 255), st.integers(0, 300_000),
    st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1),
)  # fmt: skip
def test_what_is_read_is_what_was_written(kind, flags, length, circuit, sequence):
    raw = (
        bytes([kind, flags, 0, 0]) + length.to_bytes(4, "big")
        + circuit.to_bytes(8, "big") + sequence.to_bytes(8, "big")
    )  # fmt: skip
    with suppress(DecodeError):
        assert decode_header(raw) == (kind, flags, length, circuit, sequence)


@given(st.integers(0, HEADER_SIZE - 1), st.binary(max_size=3))
def test_parts_of_a_header_and_what_follows_it_are_never_a_header(cut, more):
    """A reader waits for all 24 bytes; whatever it hands over otherwise is refused."""
    raw = Header(Kind.DATA, 0, 5, 1, 2).encode()
    with pytest.raises(DecodeError):
        decode_header(raw[:cut])
    if more:
        with pytest.raises(DecodeError):
            decode_header(raw + more)
    for kind in (bytearray, memoryview):
        assert decode_header(kind(raw)) == decode_header(raw)
