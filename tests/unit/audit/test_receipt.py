"""Receipts: made of checkpoints, verified against each edge's own key."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from overlay.audit.receipt import (
    MAX_RECEIPT,
    Receipt,
    decode_receipt,
    encode_receipt,
    make_receipt,
    verify_side,
)
from overlay.crypto.checkpoint import CALLER, HOST, Checkpoint
from overlay.errors import DecodeError, TrustError
from overlay.identity.keys import SigningKey
from overlay.wire.codec import signing_input

PLANT = b"\7" * 32
CIRCUIT = b"\3" * 16
CALLER_KEY, HOST_KEY = SigningKey.generate(b"\1" * 32), SigningKey.generate(b"\2" * 32)


def signed(key: SigningKey, direction: int, *, frames: int = 5, size: int = 60) -> Checkpoint:
    """As C-40 says: circuit id 16, direction 1, frames 8, bytes 8, hash 32."""
    digest = bytes(range(32))
    statement = (
        CIRCUIT + bytes([direction]) + frames.to_bytes(8, "big") + size.to_bytes(8, "big") + digest
    )
    return Checkpoint(frames, size, digest, key.sign(signing_input("checkpoint", PLANT, statement)))


RECEIPT = make_receipt(signed(CALLER_KEY, CALLER), signed(HOST_KEY, HOST))


def test_a_receipt_goes_into_an_event_and_back():
    text = encode_receipt(RECEIPT)
    assert len(text) < 1024
    assert decode_receipt(text) == RECEIPT
    assert decode_receipt(encode_receipt(Receipt(None, None))) == Receipt(None, None)


def test_both_sides_verify():
    assert RECEIPT.caller is not None
    assert RECEIPT.host is not None
    verify_side(RECEIPT.caller, CALLER, CIRCUIT, CALLER_KEY.public, PLANT)
    verify_side(RECEIPT.host, HOST, CIRCUIT, HOST_KEY.public, PLANT)


def test_nothing_in_it_can_be_changed_or_swapped():
    side, other = RECEIPT.caller, RECEIPT.host
    assert side is not None
    assert other is not None
    good = (side, CALLER, CIRCUIT, CALLER_KEY.public, PLANT)
    for forged in (
        (replace(side, frames=4), *good[1:]),
        (replace(side, bytes=61), *good[1:]),
        (replace(side, hash="00" * 32), *good[1:]),
        (other, *good[1:]),
        (side, HOST, *good[2:]),
        (side, CALLER, b"\4" * 16, *good[3:]),
        (side, CALLER, CIRCUIT, HOST_KEY.public, PLANT),
        (side, CALLER, CIRCUIT, CALLER_KEY.public, b"\6" * 32),
    ):
        with pytest.raises(TrustError, match="not signed by the"):
            verify_side(*forged)


@pytest.mark.parametrize(
    "change", [{"hash": "zz"}, {"hash": "00"}, {"signature": "!"}, {"signature": ""}]
)
def test_what_has_not_the_form_of_a_receipt_is_refused(change):
    assert RECEIPT.caller is not None
    with pytest.raises(DecodeError):
        verify_side(replace(RECEIPT.caller, **change), CALLER, CIRCUIT, CALLER_KEY.public, PLANT)


def test_a_receipt_is_bounded():
    with pytest.raises(DecodeError, match="at most"):
        decode_receipt(" " * (MAX_RECEIPT + 1))


@given(st.one_of(st.text(max_size=200), st.binary(max_size=100).map(lambda b: b.decode("latin1"))))
def test_any_text_is_a_receipt_or_one_error(text):
    with suppress(DecodeError):
        decode_receipt(text)
    with suppress(DecodeError):
        decode_receipt(encode_receipt(RECEIPT)[: len(text)] + text)
