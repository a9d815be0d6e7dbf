"""CLOSE: what is said is cut to its bound, and what is longer is not taken (C-41)."""

import pytest

from overlay.circuit.frames import MAX_REASON, decode_close, encode_close
from overlay.crypto.checkpoint import Checkpoint
from overlay.errors import Code, DecodeError

EMPTY = Checkpoint(0, 0, bytes(32), bytes(64))


@pytest.mark.parametrize("letter", ["x", "\u00e9", "\U0001f527"])
def test_a_reason_that_is_too_long_is_cut_between_letters(letter: str):
    raw = encode_close(EMPTY, 0, Code.BUSY, letter * 4 * MAX_REASON)
    closing = decode_close(raw)
    assert closing.code is Code.BUSY
    assert closing.reason == letter * (MAX_REASON // len(letter.encode()))


def test_a_longer_reason_is_no_close():
    longest = encode_close(EMPTY, 0, Code.NORMAL, "x" * MAX_REASON)
    assert decode_close(longest).reason == "x" * MAX_REASON
    with pytest.raises(DecodeError, match="does not have"):
        decode_close(longest + b"x")
