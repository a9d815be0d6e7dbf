"""Receipts: made of checkpoints, verified against each edge's own key."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from overlay.audit.receipt import (
    Receipt,
    make_receipt,
    receipt_of,
    verify_receipt,
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


def detail(receipt: object) -> str:
    return msgspec.json.encode({"bytes_in": 1, "receipt": receipt}).decode()


def test_a_receipt_goes_into_an_event_and_back():
    assert receipt_of(detail(RECEIPT)) == RECEIPT
    assert receipt_of(detail(Receipt(None, None))) == Receipt(None, None)
    assert receipt_of('{"omitted":"too long"}') is None


def test_each_side_is_checked_against_all_keys_of_its_edge():
    old = SigningKey.generate(b"\4" * 32).public
    callers, hosts = [old, CALLER_KEY.public], [HOST_KEY.public, old]
    verify_receipt(RECEIPT, CIRCUIT, callers, hosts, PLANT)
    verify_receipt(Receipt(None, RECEIPT.host), CIRCUIT, [], hosts, PLANT)
    for wrong, who in (
        ((RECEIPT, CIRCUIT, [old], hosts, PLANT), "caller"),
        ((RECEIPT, CIRCUIT, [], hosts, PLANT), "caller"),
        ((RECEIPT, CIRCUIT, callers, [CALLER_KEY.public], PLANT), "host"),
        ((Receipt(RECEIPT.host, RECEIPT.caller), CIRCUIT, callers, hosts, PLANT), "caller"),
    ):
        with pytest.raises(TrustError, match=f"not signed by the {who}'s edge"):
            verify_receipt(*wrong)


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


@given(st.one_of(st.text(max_size=200), st.binary(max_size=100).map(lambda b: b.decode("latin1"))))
def test_any_text_is_a_detail_with_or_without_a_receipt(text):
    receipt_of(text)
    assert receipt_of(detail(text)) is None
    receipt_of(detail(RECEIPT)[: len(text)] + text)
