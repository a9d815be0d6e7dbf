"""Messages in the control stream: K-01, E-03."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.control.messages import (
    Answer,
    Ask,
    Assignments,
    ControllerMessage,
    Current,
    Enrol,
    Events,
    Failed,
    GrantUpdate,
    HostedEntry,
    Issued,
    ListenerEntry,
    Live,
    NodeMessage,
    Recorded,
    Renew,
    Start,
)
from overlay.control.stream import encode_message, from_controller, from_node
from overlay.errors import DecodeError, LimitError
from overlay.wire.codec import encode

TO_CONTROLLER: list[NodeMessage] = [
    Start("0.1.0", 3, 17), Ask(b"n" * 16, 4), Enrol(1, b"t" * 16, b"csr", b"p" * 32), Renew(2, b"csr"),
    Events(3, 1, (b"one", b"two"), (b"leaf",)), Live(((b"c" * 16, 1, 2),)),
]  # fmt: skip
TO_NODE: list[ControllerMessage] = [
    Answer(b"n" * 16, 5, 6), Issued(1, (b"leaf", b"ca")), Recorded(3, 1, b"head", ((0, b"leaf", (b"h" * 32,)),)),
    Failed(1, 14, "no"),
    Assignments(1, b"map", (ListenerEntry("plc.modbus", "127.0.0.1:5020", "hmi", 0),),
                (HostedEntry("plc.modbus", "plc", "10.0.0.1", 502, 502, 0),)),
    GrantUpdate(True, (b"grant",), (b"g" * 16,)), Current(b"signed"),
]  # fmt: skip


@given(st.lists(st.integers(1, 40)))
def test_messages_survive_any_cutting(sizes):
    for reader, messages in ((from_node(), TO_CONTROLLER), (from_controller(), TO_NODE)):
        stream = b"".join(encode_message(message) for message in messages)
        got: list[object] = []
        for size in [*sizes, len(stream)]:
            got += reader.feed(stream[:size])
            stream = stream[size:]
        assert got == messages


@pytest.mark.parametrize("message", TO_NODE)
def test_the_controller_takes_no_message_of_a_controller(message):
    with pytest.raises(DecodeError):
        from_node().feed(encode_message(message))


@pytest.mark.parametrize("message", TO_CONTROLLER)
def test_a_node_takes_no_message_of_a_node(message):
    with pytest.raises(DecodeError):
        from_controller().feed(encode_message(message))


@pytest.mark.parametrize("reader", [from_node, from_controller])
@pytest.mark.parametrize("length", [0, limits.CONTROL_MESSAGE + 1, 0xFFFFFFFF])
def test_a_length_out_of_bounds_is_refused_before_anything_is_held(length, reader):
    with pytest.raises(DecodeError, match="allowed"):
        reader().feed(length.to_bytes(4, "big"))


def test_nothing_is_said_that_the_other_side_would_refuse():
    grants = (bytes(limits.MAX_GRANT),) * (limits.CONTROL_MESSAGE // (limits.MAX_GRANT + 3))

    def update(last: int) -> GrantUpdate:
        return GrantUpdate(full=True, put=(*grants, bytes(last)))

    last = 300 + limits.CONTROL_MESSAGE - len(encode(update(300)))
    assert from_controller().feed(encode_message(update(last))) == [update(last)]
    with pytest.raises(LimitError, match="above the limit"):
        encode_message(update(last + 1))


def test_a_newcomer_may_send_less():
    start = (limits.ENROL_BYTES + 1).to_bytes(4, "big")
    assert from_node().feed(start) == []
    with pytest.raises(DecodeError):
        from_node(newcomer=True).feed(start)


def test_after_an_error_a_stream_is_dead():
    reader = from_node()
    with pytest.raises(DecodeError):
        reader.feed(b"\0\0\0\x01\xc0")
    with pytest.raises(DecodeError):
        reader.feed(encode_message(Ask(b"n" * 16)))


def test_a_field_that_a_later_version_adds_is_ignored():
    assert from_node().feed(b"\0\0\0\x16\x94\x02\xc4\x10" + b"n" * 16 + b"\x07\xa0") == [
        Ask(b"n" * 16, 7)
    ]
    assert from_node().feed(b"\0\0\0\x14\x92\x02\xc4\x10" + b"n" * 16) == [Ask(b"n" * 16)]


def test_a_message_of_a_later_version_is_skipped_and_counted():
    reader = from_node()
    ask = encode_message(Ask(b"n" * 16))
    assert reader.feed(b"\0\0\0\x04\x92\x63\xa1x" + ask) == [Ask(b"n" * 16)]
    assert reader.unknown == 1
    with pytest.raises(DecodeError):
        reader.feed(b"\0\0\0\x03\x91\xa1x")


@given(st.binary(max_size=300))
def test_rubbish_raises_only_the_documented_error(data):
    for reader in (from_node(), from_controller()):
        with contextlib.suppress(DecodeError):
            reader.feed(len(data).to_bytes(4, "big") + data)


@given(st.sampled_from(TO_CONTROLLER + TO_NODE), st.integers(min_value=0), st.integers(1, 255))
def test_mutated_messages_raise_only_the_documented_error(message, place, change):
    data = bytearray(encode_message(message))
    data[place % len(data)] ^= change
    for reader in (from_node(), from_controller()):
        with contextlib.suppress(DecodeError):
            reader.feed(data)
