"""Bytes from others: random and mutated frames, openings and answers raise the documented errors and nothing else."""

import contextlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from overlay.circuit.caller import RANDOM_SIZE, CallerOpening, Wish
from overlay.circuit.circuit import Circuit
from overlay.circuit.frames import decode_close, decode_credit
from overlay.circuit.host import HostHandshake
from overlay.errors import (
    DecodeError,
    FerruleError,
    LimitError,
    ProtocolError,
    TamperError,
    TrustError,
)
from overlay.wire.bodies import Accept, Open, OpenIntent, Resume
from overlay.wire.codec import decode, encode
from overlay.wire.header import Header, Kind
from tests.support.circuit_pair import Pair
from tests.support.pki import NOW, Pki

PKI = Pki()
A, B = PKI.edge("edge-a"), PKI.edge("edge-b")
CIRCUIT_KINDS = [
    Kind.READY, Kind.REFUSE, Kind.DATA, Kind.DATAGRAM, Kind.CREDIT, Kind.CHECKPOINT, Kind.CLOSE,
    Kind.RESUME, Kind.ACCEPT,
]  # fmt: skip


@st.composite
def mutated(draw, genuine: bytes) -> bytes:
    """Some bytes changed, some cut off, some added."""
    data = bytearray(genuine)
    for place in draw(st.lists(st.integers(0, max(0, len(data) - 1)), max_size=4)):
        data[place] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(data)))
    return bytes(data[:cut] if draw(st.booleans()) else data) + draw(st.binary(max_size=8))


@given(
    side=st.sampled_from([0, 1]),
    kind=st.sampled_from(CIRCUIT_KINDS),
    flags=st.sampled_from([0, 1, 0x10, 0x20, 0x40, 0x21]),
    sequence=st.one_of(st.integers(0, 3), st.integers(0, (1 << 64) - 1)),
    payload=st.binary(max_size=300),
    integrity=st.sampled_from([0, 1]),
    transport=st.sampled_from([0, 1]),
)
@example(0, Kind.DATAGRAM, 0, 6_442_516_480, bytes(17), 0, 1)
def test_a_random_frame_raises_tamper_or_protocol_error(
    side: int, kind: Kind, flags: int, sequence: int, payload: bytes, integrity: int, transport: int
):
    pair = Pair(integrity=integrity, transport=transport)
    end = pair.ends[side]
    header = Header(kind, flags, len(payload), 0, sequence)
    try:
        events = end.core.receive(header, memoryview(payload), 0.0)
    except (TamperError, ProtocolError):
        pass
    else:  # a datagram far ahead is dropped without a key being made for it (C-23)
        assert kind is Kind.DATAGRAM
        assert sequence >> 20 > 1
        assert (events, end.core.datagrams.dropped) == ([], 1)
    assert end.got == b""


@given(data=st.data())
def test_a_mutated_frame_raises_tamper_or_protocol_error(data):
    pair = Pair()
    pair.caller.send(b"poll")
    header, payload = pair.caller.wire[0]
    other = data.draw(mutated(payload))
    if other == payload:
        return
    with pytest.raises((TamperError, ProtocolError)):
        pair.host.core.receive(header._replace(length=len(other)), memoryview(other), 0.0)


@given(data=st.data())
def test_a_mutated_resume_raises_tamper_or_protocol_error(data):
    pair = Pair()
    pair.cut()
    header, payload = pair.ask_to_resume()
    other = data.draw(mutated(payload))
    try:
        body = decode(Resume, other)
    except DecodeError:
        return
    if (body.intent, body.sealed) == tuple(
        getattr(decode(Resume, payload), k) for k in ("intent", "sealed")
    ):
        return
    with pytest.raises((TamperError, ProtocolError)):
        pair.host.core.resumed(header._replace(length=len(other)), body, 0.0)


@given(st.binary(max_size=400))
def test_what_is_sealed_but_not_a_body_raises_decode_error(raw: bytes):
    for read in (decode_close, decode_credit):
        with contextlib.suppress(DecodeError):
            read(raw)


def opening() -> CallerOpening:
    wish = Wish("plc-b.modbus", b"grant", ("edge-b",), 0, 0)
    return CallerOpening(wish, A, bytes(range(RANDOM_SIZE)), plant_now=NOW, admit=lambda peer: None)


def answered(first: CallerOpening) -> HostHandshake:
    body = decode(Open, first.payload((), ("edge-a",)))
    intent = decode(OpenIntent, body.intent)
    return HostHandshake(B, body, intent, None, bytes(32), plant_now=NOW, admit=lambda peer: None)


@settings(max_examples=25)
@given(data=st.data())
def test_a_mutated_accept_raises_one_of_its_errors(data):
    first = opening()
    genuine = answered(first).accept
    other = data.draw(mutated(genuine))
    try:
        body = decode(Accept, other)
    except DecodeError:
        body = None
    if body is not None and body.flight == decode(Accept, genuine).flight:
        return  # another random: found by the first sealed frame
    with pytest.raises((DecodeError, TrustError, TamperError, LimitError)):
        first.accept(other, 0.0)


@settings(max_examples=25)
@given(data=st.data())
def test_a_mutated_open_raises_one_of_its_errors(data):
    genuine = opening().payload((), ("edge-a",))
    other = data.draw(mutated(genuine))
    try:
        body = decode(Open, other)
        intent = decode(OpenIntent, body.intent)
        HostHandshake(B, body, intent, None, bytes(32), plant_now=NOW, admit=lambda peer: None)
    except (DecodeError, TrustError):
        pass


@settings(max_examples=25)
@given(data=st.data())
def test_a_mutated_last_flight_makes_no_circuit(data):
    first = opening()
    handshake = answered(first)
    core, _, _ = first.accept(handshake.accept, 0.0)
    frame = core.take()[0]
    other = data.draw(mutated(bytes(frame.payload)))
    if other.startswith(frame.payload):
        return  # what follows the handshake is discarded
    header = Header(frame.kind, frame.flags, len(other), 0, frame.sequence)
    with pytest.raises(FerruleError):
        handshake.complete(header, memoryview(other), 0.0)


def test_a_genuine_last_flight_makes_one():
    first = opening()
    handshake = answered(first)
    core, association, _ = first.accept(handshake.accept, 0.0)
    frame = core.take()[0]
    header = Header(frame.kind, frame.flags, len(frame.payload), 0, frame.sequence)
    circuit, hosted, _ = handshake.complete(header, memoryview(bytes(frame.payload)), 0.0)
    assert isinstance(circuit, Circuit)
    assert hosted.secret == association.secret
    assert hosted.caller == A.leaf
    assert encode(circuit.names) == encode(core.names)
