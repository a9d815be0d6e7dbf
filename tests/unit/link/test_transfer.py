"""A payload between socket and pipe: whatever the kernel does, each byte is in one place, in order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.link.transfer import Transfer

SIZES = st.integers(1, 5000)


def put_together(transfer: Transfer, piped: bytes) -> bytes:
    assert len(piped) == transfer.piped
    return transfer.before + piped + bytes(transfer.after)


@given(
    payload=st.binary(min_size=1, max_size=20_000),
    begun=st.integers(0, 20_000),
    steps=st.lists(st.tuples(st.sampled_from(["splice", "empty", "full", "slow"]), SIZES)),
)
def test_every_byte_is_somewhere_and_in_order(payload, begun, steps):
    begun = min(begun, len(payload))
    transfer = Transfer(len(payload), payload[:begun], 0.0)
    place, piped = begun, b""
    for what, count in [*steps, *[("splice", 5000)] * 5]:
        count = min(count, transfer.left)
        assert transfer.left == len(payload) - place
        if what == "full":
            transfer.refused()
        elif what == "slow" and transfer.piped:
            transfer.unpiped(piped)
            piped = b""
        elif what == "splice" and count:
            part = payload[place : place + count]
            if transfer.buffering:
                transfer.came(memoryview(part))
            else:
                transfer.moved(count)
                piped += part
            place += count
    if place == len(payload):
        assert not transfer.left
    assert put_together(transfer, piped) == payload[:place]


def test_what_was_not_asked_for_is_refused():
    with pytest.raises(ValueError):
        Transfer(3, b"abcd", 0.0)
    transfer = Transfer(10, b"abc", 0.0)
    for count in (0, 8):
        with pytest.raises(ValueError):
            transfer.moved(count)
    with pytest.raises(ValueError):
        transfer.came(memoryview(b"defg"))
    transfer.moved(2)
    with pytest.raises(ValueError):
        transfer.unpiped(b"d")
    transfer.refused()
    with pytest.raises(ValueError):
        transfer.moved(1)
    with pytest.raises(ValueError):
        transfer.came(memoryview(b"123456"))
