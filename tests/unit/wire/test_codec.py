"""Bodies and envelopes in MessagePack: append-only, strict, and what a signature covers (P-10 to P-12)."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from overlay.errors import DecodeError
from overlay.wire.codec import Body, Signed, decode, encode, signing_input

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/signing_input.json").read_text())


class Old(Body, frozen=True):
    name: Annotated[str, Meta(max_length=5)]
    number: Annotated[int, Meta(ge=0, le=9)]


class New(Body, frozen=True):
    name: Annotated[str, Meta(max_length=5)]
    number: Annotated[int, Meta(ge=0, le=9)]
    added: bytes = b"none"


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda one: one["type"])
def test_what_a_signature_covers(vector):
    plant, body = bytes.fromhex(vector["plant"]), bytes.fromhex(vector["body"])
    assert signing_input(vector["type"], plant, body).hex() == vector["input"]


def test_no_two_types_plants_or_bodies_share_a_signing_input():
    plants = (b"\1" * 32, b"\2" * 32)
    inputs = {
        signing_input(kind, plant, body)
        for kind in ("grant", "map", "frame")
        for plant in plants
        for body in (b"", b"\0", b"x")
    }
    assert len(inputs) == 18


def test_fields_are_only_ever_added_at_the_end():
    assert decode(Old, encode(New("a", 1, b"later"))) == Old("a", 1)
    assert decode(New, encode(Old("a", 1))) == New("a", 1, b"none")


@pytest.mark.parametrize(
    "value",
    [
        [], ["a"], ["a", -1], ["a", 10], ["a", 1.5], ["a", "1"], [1, 1], [b"a", 1], [None, 1],
        ["abcdef", 1], {"name": "a", "number": 1}, "a", None, 1 << 63,
    ],
)  # fmt: skip
def test_what_does_not_fit_a_body_is_refused_with_one_error(value):
    with pytest.raises(DecodeError, match="not a valid Old"):
        decode(Old, msgpack.packb(value))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x92",
        b"\x92\xa1a\x01\x00",  # something follows
        b"\x92\xa1\xff\x01",  # not UTF-8
        b"\xc1",
        b"\xdd\xff\xff\xff\xff",  # an array of 4 Gi elements that are not there
        b"\xdb\xff\xff\xff\xff",
        b"\x91" * 100_000,
        b"\x92\xa1a\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x92\xa1a\xc7\x01\x05\x00",  # an extension
        b"\x92\xa1a\xd6\xff\x00\x00\x00\x00",  # a timestamp
    ],
)
def test_broken_messagepack_is_refused_with_one_error(data):
    for kind in (bytes, bytearray, memoryview):
        with pytest.raises(DecodeError):
            decode(Old, kind(data))


def test_an_extra_field_of_any_depth_is_skipped_or_refused():
    """P-10 lets a later version append; what is appended must not be able to break the reader."""
    assert decode(Old, msgpack.packb(["a", 1, {"x": [1, [2]]}])) == Old("a", 1)
    with suppress(DecodeError):
        decode(Old, b"\x93\xa1a\x01" + b"\x91" * 100_000 + b"\x00")


def test_an_envelope_is_what_another_implementation_reads():
    signed = Signed("grant", b"body", b"s" * 32, b"g" * 64, (b"leaf",))
    assert msgpack.unpackb(encode(signed)) == [
        "grant", b"body", b"s" * 32, b"g" * 64, [b"leaf"],
    ]  # fmt: skip
    assert decode(Signed, msgpack.packb(["grant", b"body", b"s", b"g"])).chain == ()


MESSAGEPACK = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats()
    | st.text(max_size=6) | st.binary(max_size=6),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip


@given(st.one_of(st.binary(max_size=64), MESSAGEPACK.map(msgpack.packb)))
def test_any_bytes_are_a_body_or_one_error(data):
    for kind in (Old, New, Signed):
        with suppress(DecodeError):
            assert isinstance(decode(kind, data), kind)
