"""Keys, numbers and openers of a circuit (C-01, C-11, C-12, C-20 to C-23, C-60)."""

import contextlib
import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.crypto import circuit_keys
from overlay.crypto.circuit_keys import (
    CircuitKeys,
    ControlOpener,
    DatagramOpener,
    Sealed,
    Sealer,
    StreamOpener,
    association_secret,
    early_fields,
    early_open,
    early_seal,
)
from overlay.crypto.handshake import CIRCUIT, Tls
from overlay.crypto.hkdf import next_key
from overlay.errors import LimitError, TamperError, TrustError
from overlay.wire.header import Flag, Header, Kind
from tests.support.pki import NOW, Pki

SECRET, CALLER_RANDOM, HOST_RANDOM = b"s" * 32, b"c" * 32, b"h" * 32
INTENT = hashlib.sha256(b"intent").digest()
KEY = bytes(range(32))
STEP = limits.KEY_FRAMES


def derive(caller: bool, **changes: bytes) -> Any:
    given = {
        "secret": SECRET,
        "caller_random": CALLER_RANDOM,
        "host_random": HOST_RANDOM,
        "intent_hash": INTENT,
    } | changes
    return CircuitKeys.derive(**given, caller=caller, datagrams=True)


def test_a_circuit_for_a_stream_has_no_keys_for_datagrams():
    """Nothing is derived that nobody uses; the others are the same (C-11)."""
    for caller in (False, True):
        whole = derive(caller)
        less = CircuitKeys.derive(
            SECRET, CALLER_RANDOM, HOST_RANDOM, INTENT, caller=caller, datagrams=False
        )
        assert less.send_datagram is None
        assert less.receive_datagram is None
        for name in ("send_stream", "send_control", "receive_stream", "receive_control"):
            assert getattr(less, name)._key == getattr(whole, name)._key


def header_of(kind: Kind, sealed: Sealed, flags: int = 0, *, more: int = 0) -> Header:
    return Header(kind, flags, sealed.length + more, 99, sealed.sequence)


# --- derivation -----------------------------------------------------------------------------------


def test_c_11_keys_are_hkdf_of_all_that_binds_them():
    # The same with the library's HKDF, whose salt and info are spelled out here.
    keys = derive(True)
    for side, direction in (("caller", "send"), ("host", "receive")):
        for what in ("stream", "control", "datagram"):
            expected = HKDF(
                hashes.SHA256(),
                32,
                salt=CALLER_RANDOM + HOST_RANDOM,
                info=f"ferrule/1/{side} {what}".encode() + b"\0" + INTENT,
            ).derive(SECRET)
            assert getattr(keys, f"{direction}_{what}")._key == expected


def test_both_ends_have_each_others_keys():
    caller, host = derive(True), derive(False)
    for one, other in ((caller, host), (host, caller)):
        sealed = one.send_stream.seal(Kind.DATA, 0, b"data")
        assert other.receive_stream.open(header_of(Kind.DATA, sealed), sealed.data) == b"data"
        sealed = one.send_control.seal(Kind.CREDIT, 0, b"credit")
        assert other.receive_control.open(header_of(Kind.CREDIT, sealed), sealed.data) == b"credit"
        sealed = one.send_datagram.seal(Kind.DATAGRAM, 0, b"datagram")
        opened = other.receive_datagram.open(header_of(Kind.DATAGRAM, sealed), sealed.data)
        assert opened == b"datagram"


def test_no_two_keys_are_equal():
    keys = derive(True)
    names = ("stream", "control", "datagram")
    found = {getattr(keys, f"{way}_{name}")._key for way in ("send", "receive") for name in names}
    assert len(found) == 6


@pytest.mark.parametrize("what", ["secret", "caller_random", "host_random", "intent_hash"])
def test_c_11_another_input_gives_other_keys(what: str):
    sealed = derive(True).send_stream.seal(Kind.DATA, 0, b"x")
    with pytest.raises(TamperError):
        derive(False, **{what: b"o" * 32}).receive_stream.open(
            header_of(Kind.DATA, sealed), sealed.data
        )


def test_a_frame_sent_back_is_not_opened():
    caller = derive(True)
    sealed = caller.send_stream.seal(Kind.DATA, 0, b"x")
    with pytest.raises(TamperError):
        caller.receive_stream.open(header_of(Kind.DATA, sealed), sealed.data)


def test_c_01_an_association_secret_needs_a_finished_handshake():
    pki = Pki()
    caller, host = (
        Tls(each, server=server, alpn=CIRCUIT, now=NOW, admit=lambda _: None)
        for each, server in ((pki.edge("a"), False), (pki.edge("b"), True))
    )
    host.receive(caller.pending())
    with pytest.raises(TrustError):
        association_secret(host)
    caller.receive(host.pending())
    host.receive(caller.pending())
    assert association_secret(caller) == association_secret(host)
    assert len(association_secret(host)) == 32


# --- early data -----------------------------------------------------------------------------------


def test_c_12_early_data_has_a_key_of_its_own():
    sealed = early_seal(SECRET, CALLER_RANDOM, INTENT, b"early")
    assert early_open(SECRET, CALLER_RANDOM, INTENT, sealed) == b"early"
    key = HKDF(hashes.SHA256(), 32, salt=CALLER_RANDOM, info=b"ferrule/1/early\0" + INTENT).derive(
        SECRET
    )
    assert AESGCM(key).decrypt(bytes(12), sealed, INTENT) == b"early"
    assert len(early_seal(SECRET, CALLER_RANDOM, INTENT, b"")) == 16
    assert early_fields(sealed) == Header(Kind.DATA, 0, len(sealed), 0, 0).end_to_end()


@pytest.mark.parametrize("which", range(3))
def test_c_12_early_data_belongs_to_its_open(which: int):
    sealed = early_seal(SECRET, CALLER_RANDOM, INTENT, b"early")
    given = [SECRET, CALLER_RANDOM, INTENT]
    given[which] = b"o" * 32
    secret, random, intent_hash = given
    with pytest.raises(TamperError):
        early_open(secret, random, intent_hash, sealed)


@pytest.mark.parametrize("sealed", [b"", bytes(15), bytes(16), bytes(limits.MAX_EARLY_DATA + 17)])
def test_c_12_what_is_not_early_data(sealed: bytes):
    with pytest.raises(TamperError):
        early_open(SECRET, CALLER_RANDOM, INTENT, sealed)


def test_c_12_early_data_is_bounded():
    full = bytes(limits.MAX_EARLY_DATA)
    sealed = early_seal(SECRET, CALLER_RANDOM, INTENT, full)
    assert early_open(SECRET, CALLER_RANDOM, INTENT, sealed) == full
    with pytest.raises(LimitError):
        early_seal(SECRET, CALLER_RANDOM, INTENT, full + b"\0")
    with pytest.raises(TamperError, match="too long"):  # before a key is derived
        early_open(SECRET, CALLER_RANDOM, INTENT, sealed + b"\0")


def test_c_12_with_early_data_number_0_is_never_used():
    caller, host = derive(True), derive(False)
    caller.send_stream.skip_first()
    host.receive_stream.skip_first()
    sealed = caller.send_stream.seal(Kind.DATA, 0, b"x")
    assert sealed.sequence == 1
    assert host.receive_stream.open(header_of(Kind.DATA, sealed), sealed.data) == b"x"
    for one in (caller.send_stream, host.receive_stream):
        with pytest.raises(ValueError):
            one.skip_first()


# --- numbers --------------------------------------------------------------------------------------


def test_c_20_the_number_is_the_nonce():
    sealer = Sealer(KEY)
    sealer.sequence = 300
    sealed = sealer.seal(Kind.DATA, 0, b"x")
    fields = bytes((5, 0)) + (17).to_bytes(4, "big") + (300).to_bytes(8, "big")
    assert sealed.fields == fields
    assert sealed.data == AESGCM(KEY).encrypt(bytes(4) + (300).to_bytes(8, "big"), b"x", fields)
    assert sealer.sequence == 301


def test_seal_into_and_open_into_do_the_same_in_given_memory():
    one, other = Sealer(KEY), Sealer(KEY)
    room = memoryview(bytearray(200))
    plain = bytes(range(100))
    into = one.seal_into(Kind.DATA, Flag.SIGNED, plain, room, trailer=64)
    alone = other.seal(Kind.DATA, Flag.SIGNED, plain, trailer=64)
    assert into.data == alone.data == room[:116]
    assert into._replace(data=b"") == alone._replace(data=b"")
    assert alone.length == 180
    header = header_of(Kind.DATA, into, Flag.SIGNED)
    back = memoryview(bytearray(300))
    opener = StreamOpener(KEY)
    assert opener.open_into(header, into.data, back) == 100
    assert back[:100] == plain
    assert opener.expected == 1


def frames(count: int, kind: Kind = Kind.DATA) -> list[tuple[Header, bytes]]:
    sealer = Sealer(KEY)
    made = [sealer.seal(kind, 0, bytes((n,))) for n in range(count)]
    return [(header_of(kind, each), bytes(each.data)) for each in made]


@pytest.mark.parametrize("order", [[1], [0, 0], [0, 2], [0, 1, 0]])
def test_c_20_a_stream_takes_each_number_once_and_in_order(order: list[int]):
    made, opener = frames(3), StreamOpener(KEY)
    for number in order[:-1]:
        opener.open(*made[number])
    before = opener.expected
    with pytest.raises(TamperError, match="was expected"):
        opener.open(*made[order[-1]])
    with pytest.raises(TamperError):
        opener.open_into(*made[order[-1]], memoryview(bytearray(100)))
    assert opener.expected == before


def test_c_20_control_numbers_rise_and_may_skip():
    made, opener = frames(5, Kind.CREDIT), ControlOpener(KEY)
    assert opener.open(*made[1]) == b"\1"
    assert opener.open(*made[3]) == b"\3"
    assert opener.expected == 4
    for number in (0, 1, 2, 3):
        with pytest.raises(TamperError, match="again or late"):
            opener.open(*made[number])
    assert opener.open(*made[4]) == b"\4"


def test_a_control_frame_can_be_looked_at_before_it_counts():
    made, opener = frames(3, Kind.RESUME), ControlOpener(KEY)
    assert opener.peek(*made[2]) == opener.peek(*made[2]) == b"\2"
    assert opener.expected == 0
    assert opener.open(*made[0]) == b"\0"
    opener.commit(2)
    with pytest.raises(TamperError):
        opener.open(*made[1])
    with pytest.raises(TamperError):
        opener.peek(*made[2])


def test_c_20_datagrams_come_in_any_order_once():
    count = limits.REPLAY_WINDOW + 50
    made, opener = frames(256, Kind.DATAGRAM), DatagramOpener(KEY)
    for number in (5, 3, 4, 200, 199):
        assert opener.open(*made[number]) == bytes((number,))
    for number in (5, 3, 4, 200, 199):
        assert opener.open(*made[number]) is None
    assert opener.dropped == 5
    assert opener.open(*made[0]) == b"\0"
    sealer = Sealer(KEY)
    sealer.sequence = count
    far = sealer.seal(Kind.DATAGRAM, 0, b"far")
    assert opener.open(header_of(Kind.DATAGRAM, far), far.data) == b"far"
    # 1,024 numbers are known: the highest and 1,023 below it.
    edge = count - limits.REPLAY_WINDOW
    assert opener.open(*made[edge]) is None
    assert opener.open(*made[edge + 1]) == bytes((edge + 1,))
    assert opener.open(*made[199]) is None
    assert opener.dropped == 7
    assert opener._seen < 1 << limits.REPLAY_WINDOW


@given(st.lists(st.integers(0, 2500), max_size=60))
def test_the_datagram_window_agrees_with_a_simple_one(numbers: list[int]):
    opener, seen, highest = DatagramOpener(KEY), set(), -1
    sealer = Sealer(KEY)
    for number in numbers:
        sealer.sequence = number
        sealed = sealer.seal(Kind.DATAGRAM, 0, b"x")
        new = number not in seen and number > highest - limits.REPLAY_WINDOW
        opened = opener.open(header_of(Kind.DATAGRAM, sealed), sealed.data)
        assert (opened is not None) is new
        seen.add(number)
        highest = max(highest, number)


# --- what is bound --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"kind": Kind.CLOSE},
        {"flags": int(Flag.SIGNED)},
        {"length": 18},
        {"length": 0},
    ],
)
def test_c_21_the_end_to_end_fields_are_bound(change: dict[str, int]):
    header, sealed = frames(1)[0]
    opener = StreamOpener(KEY)
    with pytest.raises(TamperError):
        opener.open(header._replace(**change), sealed)  # type: ignore[arg-type]
    assert opener.open(header._replace(circuit=1, flags=0x0F), sealed) == b"\0"  # the link's own


def test_c_21_a_refreshed_grant_is_bound():
    sealer, opener = Sealer(KEY), ControlOpener(KEY)
    sealed = sealer.seal(Kind.CREDIT, Flag.GRANT, bytes(16), beside=b"grant")
    header = header_of(Kind.CREDIT, sealed, Flag.GRANT)
    assert header.length == 16 + 16 + 5
    for wrong in (b"", b"granT", b"grant!"):
        with pytest.raises(TamperError):
            opener.open(header, sealed.data, beside=wrong)
    assert opener.open(header, sealed.data, beside=b"grant") == bytes(16)


def test_c_21_a_flight_is_not_end_to_end():
    sealer, opener = Sealer(KEY), ControlOpener(KEY)
    sealed = sealer.seal(Kind.CREDIT, Flag.FLIGHT, bytes(16))
    header = header_of(Kind.CREDIT, sealed, Flag.FLIGHT, more=800)
    with pytest.raises(TamperError):
        opener.open(header, sealed.data)
    with pytest.raises(TamperError):
        opener.open(header, sealed.data, less=header.length + 1)
    assert opener.open(header, sealed.data, less=800) == bytes(16)


def test_c_60_a_resume_is_bound_to_its_intent():
    sealer, opener = Sealer(KEY), ControlOpener(KEY)
    sealed = sealer.seal(Kind.RESUME, 0, b"state", bound=INTENT)
    assert sealed.length == 5 + 16
    assert sealed.fields + INTENT == bytes((11, 0, 0, 0, 0, 21)) + bytes(8) + INTENT
    header = header_of(Kind.RESUME, sealed, more=700)
    with pytest.raises(TamperError):
        opener.peek(header, sealed.data, less=700, bound=b"o" * 32)
    assert opener.open(header, sealed.data, less=700, bound=INTENT) == b"state"


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17])
def test_c_22_what_does_not_authenticate_changes_nothing(size: int):
    made = frames(1)
    junk = Header(Kind.DATA, 0, size, 1, 0), bytes(size)
    stream, control, datagram = StreamOpener(KEY), ControlOpener(KEY), DatagramOpener(KEY)
    for opener in (stream, control, datagram):
        with pytest.raises(TamperError, match="does not authenticate"):
            opener.open(*junk)
        assert opener.expected == 0
        assert opener.open(*made[0]) == b"\0"
    with pytest.raises(TamperError, match="does not authenticate"):
        StreamOpener(KEY).open_into(*junk, memoryview(bytearray(100)))


@given(
    st.builds(
        Header,
        st.sampled_from(list(Kind)),
        st.integers(0, 255),
        st.integers(0, 1000),
        st.integers(0, 9),
        st.integers(0, (1 << 64) - 1) | st.integers(0, 3),
    ),
    st.binary(max_size=40),
)
def test_random_frames_raise_only_tamper(header: Header, sealed: bytes):
    for opener in (StreamOpener(KEY), ControlOpener(KEY)):
        with pytest.raises(TamperError):
            opener.open(header, sealed)
    with pytest.raises(TamperError):
        StreamOpener(KEY).open_into(header, sealed, memoryview(bytearray(100)))
    with contextlib.suppress(TamperError):
        assert DatagramOpener(KEY).open(header, sealed) is None


# --- the ratchet ----------------------------------------------------------------------------------


def test_c_23_the_next_key_is_hkdf_of_the_last():
    expected = HKDFExpand(hashes.SHA256(), 32, info=b"ferrule/1/next").derive(KEY)
    assert next_key(KEY) == expected


def sealed_at(sequence: int, kind: Kind = Kind.DATA) -> tuple[Header, bytes]:
    """A frame with any number, made without a `Sealer`."""
    key = KEY
    for _ in range(sequence >> 20):
        key = HKDFExpand(hashes.SHA256(), 32, info=b"ferrule/1/next").derive(key)
    header = Header(kind, 0, 17, 1, sequence)
    nonce = bytes(4) + sequence.to_bytes(8, "big")
    return header, AESGCM(key).encrypt(nonce, b"x", header.end_to_end())


def test_c_23_a_sealer_moves_on_every_2_to_20_frames():
    assert STEP == 1 << 20
    sealer = Sealer(KEY)
    for epoch in range(3):
        sealer.sequence = (epoch + 1) * STEP - 1
        last = sealer.seal(Kind.DATA, 0, b"x")
        first = sealer.seal(Kind.DATA, 0, b"x")
        assert bytes(last.data) == sealed_at((epoch + 1) * STEP - 1)[1]
        assert bytes(first.data) == sealed_at((epoch + 1) * STEP)[1]
    assert sealer._key != KEY  # the old one is gone


def test_c_23_a_stream_opener_follows():
    opener = StreamOpener(KEY)
    opener.expected = STEP - 1
    for sequence in (STEP - 1, STEP, STEP + 1):
        assert opener.open(*sealed_at(sequence)) == b"x"
    assert opener._key == next_key(KEY)


def test_c_23_an_opener_moves_on_only_after_a_frame_authenticated():
    for opener in (StreamOpener(KEY), ControlOpener(KEY), DatagramOpener(KEY)):
        opener.expected = STEP
        with pytest.raises(TamperError):
            opener.open(Header(Kind.DATA, 0, 17, 1, STEP), bytes(17))
        assert opener._key == KEY
        assert opener.open(*sealed_at(STEP)) == b"x"
        assert opener._key == next_key(KEY)


def test_c_23_a_number_far_ahead_costs_no_derivation(monkeypatch: pytest.MonkeyPatch):
    made = 0

    def counted(key: bytes) -> bytes:
        nonlocal made
        made += 1
        return next_key(key)

    monkeypatch.setattr(circuit_keys, "next_key", counted)
    far = Header(Kind.CREDIT, 0, 17, 1, 2 * STEP)
    control, datagram = ControlOpener(KEY), DatagramOpener(KEY)
    for sequence in (2 * STEP, 1 << 40, (1 << 64) - 1):
        with pytest.raises(TamperError, match="far"):
            control.open(far._replace(sequence=sequence), bytes(17))
        assert datagram.open(far._replace(sequence=sequence), bytes(17)) is None
    assert made == 0
    assert datagram.dropped == 3


def test_c_23_datagrams_of_the_previous_key_are_still_opened():
    opener = DatagramOpener(KEY)
    opener.expected = STEP
    opener._seen = 0
    assert opener.open(*sealed_at(STEP + 2, Kind.DATAGRAM)) == b"x"
    assert opener.open(*sealed_at(STEP - 3, Kind.DATAGRAM)) == b"x"
    assert opener.open(*sealed_at(STEP - 3, Kind.DATAGRAM)) is None
    assert opener.open(*sealed_at(STEP + 1, Kind.DATAGRAM)) == b"x"


def test_numbers_end():
    sealer = Sealer(KEY)
    sealer.sequence = circuit_keys.MAX_SEQUENCE
    with pytest.raises(LimitError):
        sealer.seal(Kind.DATA, 0, b"x")
    with pytest.raises(LimitError):
        sealer.seal_into(Kind.DATA, 0, b"x", memoryview(bytearray(17)))
