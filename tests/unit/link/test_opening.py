"""Opening a link without I/O: modes, cuts, what an acceptor takes before it knows anybody (L-01 to L-06, L-34)."""

import contextlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.crypto.handshake import PeerCertificate
from overlay.errors import DecodeError, FerruleError, LimitError, TamperError, TrustError
from overlay.identity.keys import SigningKey
from overlay.identity.trust import Credentials
from overlay.link.opening import ENROL_MODE, MODES, PREAMBLE, Opening
from overlay.wire.header import Header, Kind
from tests.support.links import EDGE, PKI, ROUTER
from tests.support.pki import NOW, Pki

LINK_ID = bytes(range(16))
NEWCOMER = Credentials.newcomer(PKI.anchor, SigningKey.generate(b"n" * 32))
CONTROLLER = PKI.controller()


def anybody(peer: PeerCertificate) -> None:
    """Admits everybody."""


def ends(
    mode: str = "header", dialer: Credentials = EDGE, acceptor: Credentials = ROUTER, **options
) -> tuple[Opening, Opening]:
    return (
        Opening(dialer, mode, NOW, anybody, link_id=LINK_ID, accept_newcomers=mode == ENROL_MODE),
        Opening(acceptor, None, NOW, anybody, **options),
    )


def run(one: Opening, other: Opening, piece: int = 1 << 20) -> None:
    """Carry bytes both ways, in pieces, until nothing comes any more."""
    moved = True
    while moved:
        moved = False
        for sender, receiver in ((one, other), (other, one)):
            data = sender.pending()
            for place in range(0, len(data), piece):
                moved = True
                receiver.receive(data[place : place + piece])


def speak(one: Opening, other: Opening) -> None:
    """A frame each way shows that both have the same keys."""
    for sender, receiver in ((one, other), (other, one)):
        assert sender.result is not None
        assert receiver.result is not None
        header = Header(Kind.DATA, 0, 5, 1, 0)
        data = b"".join(sender.result.records.seal(header, b"hello"))
        records = receiver.result.records
        plain = memoryview(records.inflow(data))
        size = records.header_size
        assert records.open_header(plain[:size]) == header
        assert bytes(records.open_payload(header, plain[size:])) == b"hello"


@pytest.mark.parametrize("mode", list(MODES))
@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
def test_every_mode_opens_however_the_bytes_are_cut(mode: str, piece: int):
    one, other = ends(mode)
    run(one, other, piece)
    assert one.result is not None
    assert other.result is not None
    assert one.result.peer == ROUTER.leaf
    assert other.result.peer == EDGE.leaf
    assert {one.result.mode, other.result.mode} == {mode}
    assert {one.result.group, other.result.group} == {"X25519MLKEM768"}
    assert one.result.link_id == other.result.link_id == (bytes(16) if mode == "tls" else LINK_ID)
    assert not one.result.newcomer
    speak(one, other)


def test_what_follows_the_last_flight_is_kept_for_the_reader():
    one, other = ends()
    other.receive(one.pending())
    one.receive(other.pending())
    other.receive(one.pending() + b"records")
    assert other.result is not None
    assert other.result.rest == b"records"


def test_keys_are_bound_to_the_link_id():
    one, other = ends()
    first = bytearray(one.pending())
    first[5] ^= 1
    other.receive(first)
    one.receive(other.pending())
    other.receive(one.pending())
    with pytest.raises(FerruleError):
        speak(one, other)


def test_a_newcomer_is_let_in_only_where_it_is_expected():
    one, other = ends(ENROL_MODE, dialer=NEWCOMER, accept_newcomers=True)
    run(one, other)
    assert other.result is not None
    assert (other.result.peer, other.result.newcomer) == (None, True)
    assert other.result.peer_public == NEWCOMER.key.public
    for mode in MODES:
        with pytest.raises(TrustError):
            run(*ends(mode, dialer=NEWCOMER, accept_newcomers=True))
    with pytest.raises(TrustError):
        run(*ends(ENROL_MODE, dialer=NEWCOMER))


def test_a_router_that_is_a_newcomer_takes_only_the_enrolling_kind():
    one, other = ends(ENROL_MODE, dialer=CONTROLLER, acceptor=NEWCOMER)
    run(one, other)
    assert one.result is not None
    assert other.result is not None
    assert other.result.peer == CONTROLLER.leaf
    assert one.result.peer is None
    for mode in MODES:
        with pytest.raises(FerruleError):
            run(*ends(mode, dialer=CONTROLLER, acceptor=NEWCOMER))
    with pytest.raises(TrustError):  # two newcomers have nothing to tell each other
        run(*ends(ENROL_MODE, dialer=NEWCOMER, acceptor=NEWCOMER, accept_newcomers=True))


def test_another_plant_is_refused_by_both():
    stranger = Pki().edge("edge-a")
    with pytest.raises(TrustError):
        run(*ends(dialer=stranger))
    with pytest.raises(TrustError):
        run(*ends(acceptor=Pki().router()))


def test_an_acceptor_takes_no_other_first_byte_and_no_other_lane():
    for start in (b"GET / HTTP/1.1\r\n", b"\x00", b"FRL2", b"SSH-2.0"):
        with pytest.raises(DecodeError):
            Opening(ROUTER, None, NOW, anybody).receive(start)
    for lanes, asked in (((0,), 1), ((1, 2), 0), ((1, 2), 3)):
        with pytest.raises(DecodeError):
            acceptor = Opening(ROUTER, None, NOW, anybody, lanes=lanes)
            acceptor.receive(b"FRL1" + bytes((asked,)) + LINK_ID)


def test_a_lane_is_named_first_and_part_of_the_keys():
    dialer = Opening(EDGE, "header", NOW, anybody, link_id=LINK_ID, lane=2)
    acceptor = Opening(ROUTER, None, NOW, anybody, lanes=(1, 2))
    run(dialer, acceptor)
    assert acceptor.result is not None
    assert acceptor.result.lane == 2
    speak(dialer, acceptor)


def test_a_router_on_the_way_cannot_change_the_lane():
    dialer = Opening(EDGE, "header", NOW, anybody, link_id=LINK_ID, lane=2)
    acceptor = Opening(ROUTER, None, NOW, anybody, lanes=(1, 2))
    first = bytearray(dialer.pending())
    first[4] = 1
    acceptor.receive(first)
    run(dialer, acceptor)
    with pytest.raises(TamperError):
        speak(dialer, acceptor)


def test_a_bulk_lane_is_neither_for_tls_nor_for_newcomers():
    acceptor = Opening(ROUTER, None, NOW, anybody, lanes=(1,), accept_newcomers=True)
    with pytest.raises(DecodeError):
        acceptor.receive(b"\x16\x03\x01")
    newcomer = Opening(NEWCOMER, ENROL_MODE, NOW, anybody, link_id=LINK_ID, lane=1)
    with pytest.raises(TrustError):
        run(newcomer, Opening(ROUTER, None, NOW, anybody, lanes=(1,), accept_newcomers=True))


def test_a_handshake_may_not_be_long():
    for framed in (True, False):
        acceptor = Opening(ROUTER, None, NOW, anybody)
        acceptor.receive(b"FRL1\x00" + LINK_ID if framed else b"")
        with pytest.raises(LimitError):
            for _ in range(limits.HANDSHAKE_BYTES // 8192 + 2):
                # TLS records of type handshake that never become a ClientHello
                record = b"\x16\x03\x01\x20\x00" + b"\x01\x00\xff\xff" + bytes(8188)
                acceptor.receive(len(record).to_bytes(2, "big") + record if framed else record)
        assert len(acceptor._in) <= 16_384 + 2
    for size in (0, 16_385):
        acceptor = Opening(ROUTER, None, NOW, anybody)
        with pytest.raises(DecodeError):
            acceptor.receive(b"FRL1\x00" + LINK_ID + size.to_bytes(2, "big"))


@given(st.binary(max_size=400), st.sampled_from([b"", b"FRL1\x00" + LINK_ID, b"\x16\x03\x01"]))
def test_noise_raises_only_documented_errors(noise: bytes, start: bytes):
    acceptor = Opening(ROUTER, None, NOW, anybody)
    with contextlib.suppress(DecodeError, TrustError, LimitError):
        acceptor.receive(start + noise)
    assert acceptor.result is None


@given(st.data())
def test_mutated_flights_never_open(data):
    one, other = ends()
    step = data.draw(st.integers(0, 2))
    for number, (sender, receiver) in enumerate(
        itertools.islice(itertools.cycle(((one, other), (other, one))), 3)
    ):
        flight = bytearray(sender.pending())
        if number == step:
            record = 2 + PREAMBLE * (number == 0)
            places = st.integers(0, len(flight) - 1)
            # The version of a record in clear is ignored, and says nothing (RFC 8446, 5.1).
            place = data.draw(places.filter(lambda at: at - record not in {1, 2}))  # noqa: B023
            flight[place] ^= data.draw(st.integers(1, 255))
        try:
            receiver.receive(flight)
        except FerruleError:
            return
    if one.result is None or other.result is None:
        return
    with pytest.raises(FerruleError):  # only the link id can have been changed: then no frame opens
        speak(one, other)
