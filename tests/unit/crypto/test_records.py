"""Sealed frames of a link in its three modes (L-10 to L-16)."""

import contextlib
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.crypto import records as module
from overlay.crypto.handshake import TLS, Tls
from overlay.crypto.records import FullRecords, HeaderRecords, Records, TlsRecords
from overlay.errors import LimitError, TamperError
from overlay.wire.header import Flag, Header, Kind
from tests.support.pki import NOW, Pki

Buffer = bytes | bytearray | memoryview
PKI = Pki()
EDGE, ROUTER = PKI.edge(), PKI.router()
MODES = ["header", "full", "tls"]


def pair(mode: str) -> tuple[Records, Records]:
    """A dialer's and an acceptor's records."""
    if mode != "tls":
        kind = FullRecords if mode == "full" else HeaderRecords
        return kind(b"a" * 32, b"b" * 32), kind(b"b" * 32, b"a" * 32)
    ends = [
        Tls(each, server=server, alpn=TLS, now=NOW, admit=lambda _: None)
        for each, server in ((EDGE, False), (ROUTER, True))
    ]
    client, server = ends
    server.receive(client.pending())
    client.receive(server.pending())
    server.receive(client.pending())
    return TlsRecords(client), TlsRecords(server)


def frame(kind: Kind, size: int, sequence: int = 5) -> tuple[Header, bytes]:
    return Header(kind, 0, size, 7, sequence), bytes(range(256))[: size % 256] + bytes(
        size - size % 256
    )


def joined(parts: Sequence[Buffer]) -> bytes:
    return b"".join(parts)


def read(records: Records, wire: Buffer) -> list[tuple[Header, bytes]]:
    """All frames in some bytes of the connection, which must be whole frames."""
    data = bytes(records.inflow(wire))
    frames = []
    while data:
        header = records.open_header(data[: records.header_size])
        rest = records.header_size + records.wire_length(header)
        payload = records.open_payload(header, memoryview(data)[records.header_size : rest])
        frames.append((header, bytes(payload)))
        data = data[rest:]
    return frames


FRAMES = [
    frame(Kind.CONTROL, 100),
    frame(Kind.OPEN, 2000),
    frame(Kind.DATA, 300_00),
    frame(Kind.DATA, 1),
    frame(Kind.DATAGRAM, 900),
    frame(Kind.PING, 8),
    frame(Kind.RESET, 0),
    frame(Kind.CLOSE, 200),
]


@pytest.mark.parametrize("mode", MODES)
def test_frames_come_through_in_both_directions(mode: str):
    dialer, acceptor = pair(mode)
    for one, other in ((dialer, acceptor), (acceptor, dialer), (dialer, acceptor)):
        wire = b"".join(joined(one.seal(header, payload)) for header, payload in FRAMES)
        assert read(other, wire) == FRAMES


@pytest.mark.parametrize(
    ("mode", "kind", "sealed"),
    [
        ("header", Kind.DATA, False),
        ("header", Kind.DATAGRAM, False),
        ("header", Kind.CHECKPOINT, True),
        ("header", Kind.CONTROL, True),
        ("full", Kind.DATA, True),
        ("full", Kind.DATAGRAM, True),
        ("full", Kind.OPEN, True),
    ],
)
def test_l_11_and_l_12_what_is_sealed_in_which_mode(mode: str, kind: Kind, sealed: bool):
    dialer, acceptor = pair(mode)
    header, payload = frame(kind, 100)
    wire = joined(dialer.seal(header, payload))
    assert len(wire) == 40 + 100 + (16 if sealed else 0)
    assert (payload in wire) is not sealed
    assert header.encode() not in wire
    assert read(acceptor, wire) == [(header, payload)]


def test_l_11_clear_payload_is_passed_on_without_a_copy():
    dialer, _ = pair("header")
    parts: list[Buffer] = [memoryview(bytearray(100)), b"x" * 28]
    out = dialer.seal(Header(Kind.DATA, 0, 128, 1, 0), parts)
    assert out[1] is parts[0]
    assert out[2] is parts[1]


@pytest.mark.parametrize("mode", MODES)
def test_a_payload_in_parts_is_one_payload(mode: str):
    dialer, acceptor = pair(mode)
    header = Header(Kind.CREDIT, Flag.GRANT, 6, 3, 9)
    wire = joined(dialer.seal(header, [b"ab", memoryview(b"cd"), b"", bytearray(b"ef")]))
    assert read(acceptor, wire) == [(header, b"abcdef")]


@pytest.mark.parametrize("mode", MODES)
def test_the_length_must_be_the_payloads(mode: str):
    dialer, acceptor = pair(mode)
    for payload in (b"", b"abc", [b"ab", b"c"]):
        with pytest.raises(ValueError):
            dialer.seal(Header(Kind.CONTROL, 0, 4, 0, 0), payload)
    header, payload = frame(Kind.CONTROL, 4)  # nothing was used up by the mistakes
    assert read(acceptor, joined(dialer.seal(header, payload))) == [(header, payload)]


def test_sealing_into_given_room():
    dialer, acceptor = pair("full")
    room = memoryview(bytearray(1000))
    header, payload = frame(Kind.DATA, 500)
    out = dialer.seal(header, payload, room)
    assert isinstance(out[1], memoryview)
    assert out[1].obj is room.obj
    assert read(acceptor, joined(out)) == [(header, payload)]


@pytest.mark.parametrize("mode", ["header", "full"])
def test_l_11_the_nonce_counts_operations(mode: str):
    # A repeated, left out or swapped record never authenticates.
    for order in ([0, 0], [1], [1, 0], [0, 2]):
        dialer, acceptor = pair(mode)
        wires = [joined(dialer.seal(*frame(Kind.CONTROL, 10, n))) for n in range(3)]
        with pytest.raises(TamperError):
            for number in order:
                read(acceptor, wires[number])


def test_l_11_a_direction_does_not_open_its_own_records():
    dialer, _ = pair("header")
    wire = joined(dialer.seal(*frame(Kind.PING, 8)))
    with pytest.raises(TamperError):
        read(dialer, wire)


def test_l_11_a_payload_belongs_to_its_header():
    dialer, acceptor = pair("header")
    header, payload = frame(Kind.CONTROL, 20)
    _, sealed = dialer.seal(header, payload)
    acceptor.inflow(b"")
    other, _ = pair("header")
    head = other.seal(header, payload)[0]
    opened = acceptor.open_header(head)
    for wrong in (
        opened._replace(circuit=8),
        opened._replace(sequence=6),
        opened._replace(kind=Kind.OPEN),
    ):
        with pytest.raises(TamperError):
            acceptor.open_payload(wrong, sealed)
    assert acceptor.open_payload(opened, sealed) == payload


@pytest.mark.parametrize("mode", MODES)
def test_l_15_every_flipped_bit_ends_it(mode: str):
    size = len(joined(pair(mode)[0].seal(*frame(Kind.CONTROL, 20))))
    for at in range(0, size, 3):
        dialer, acceptor = pair(mode)
        wire = bytearray(joined(dialer.seal(*frame(Kind.CONTROL, 20))))
        wire[at] ^= 1 << at % 8
        if mode == "tls" and at in (3, 4):
            continue  # the record's length: TLS waits for bytes that do not come
        with pytest.raises(TamperError):
            read(acceptor, wire)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "raw",
    [
        b"\x00" + bytes(23),
        b"\x05\x01" + bytes(22),
        b"\x0e\x00\x01" + bytes(21),
        Header(Kind.PING, 0, 9, 0, 0).encode(),
        Header(Kind.DATA, 0, limits.MAX_PAYLOAD[Kind.DATA] + 1, 0, 0).encode(),
    ],
    ids=["unknown kind", "foreign flag", "reserved bits", "long ping", "long data"],
)
def test_l_15_an_authentic_header_that_is_not_valid_ends_it_too(mode: str, raw: bytes):
    dialer, acceptor = pair(mode)
    if isinstance(dialer, TlsRecords):
        wire: Buffer = dialer._tls.wrap([raw])
    else:
        assert isinstance(dialer, HeaderRecords)
        wire = dialer._send.seal(raw, None)
    with pytest.raises(TamperError, match="not valid"):
        read(acceptor, wire)


def test_l_16_a_direction_ends_before_2_to_48_operations():
    assert module.MAX_OPERATIONS == 1 << 48
    dialer, acceptor = pair("header")
    assert isinstance(dialer, HeaderRecords)
    assert isinstance(acceptor, HeaderRecords)
    dialer._send.counter = acceptor._receive.counter = (1 << 48) - 2
    header, payload = frame(Kind.PING, 8)
    assert read(acceptor, joined(dialer.seal(header, payload))) == [(header, payload)]
    with pytest.raises(LimitError, match="replaced"):
        dialer.seal(Header(Kind.RESET, 0, 0, 1, 0))
    with pytest.raises(LimitError):
        acceptor.open_header(bytes(40))


@pytest.mark.parametrize("mode", ["header", "full"])
@given(raw=st.binary(max_size=64))
def test_random_headers_raise_only_tamper(mode: str, raw: bytes):
    _, acceptor = pair(mode)
    with pytest.raises(TamperError):
        acceptor.open_header(raw)


@given(raw=st.binary(max_size=32))
def test_random_headers_in_tls_raise_only_tamper(raw: bytes):
    records = TlsRecords.__new__(TlsRecords)  # reading a header needs no connection
    try:
        header = records.open_header(raw)
    except TamperError:
        return
    assert header.encode() == raw


@given(
    header=st.builds(
        Header,
        st.sampled_from(list(Kind)),
        st.just(0),
        st.integers(1, 1000),
        st.integers(0, (1 << 64) - 1),
        st.integers(0, (1 << 64) - 1),
    ),
    raw=st.binary(max_size=64),
)
def test_random_payloads_raise_only_tamper(header: Header, raw: bytes):
    _, acceptor = pair("full")
    with pytest.raises(TamperError):
        acceptor.open_payload(header, raw)


@given(wire=st.binary(min_size=1, max_size=200))
def test_random_tls_bytes_raise_only_tamper(wire: bytes):
    _, acceptor = pair("tls")
    with contextlib.suppress(TamperError):
        assert acceptor.inflow(wire) == b""
