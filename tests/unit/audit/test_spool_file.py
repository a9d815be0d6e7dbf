"""The bytes of a spool file: U-02."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay import limits
from overlay.audit.event import Event, EventName, Outcome
from overlay.audit.spool_file import pack, unpack
from overlay.identity.trust import sign_body
from tests.support.pki import NOW, Pki

PKI = Pki()
EDGE = PKI.edge()
SIGNED = [
    sign_body(
        Event("edge-a", number, NOW, EventName.CIRCUIT_OPEN, Outcome.DENIED, reason="x" * number),
        EDGE.key,
        PKI.anchor,
    )
    for number in range(1, 9)
]
FILE = b"".join(pack(one) for one in SIGNED)
ENDS = [sum(len(pack(one)) for one in SIGNED[:count]) for count in range(len(SIGNED) + 1)]


def numbers(raw: bytes) -> list[int]:
    return [one.number for one in unpack(raw).events]


def test_what_was_packed_is_found():
    contents = unpack(FILE)
    assert [one.signed for one in contents.events] == SIGNED
    assert (contents.end, contents.damaged) == (len(FILE), 0)
    assert unpack(b"") == ([], 0, 0)


@given(st.integers(0, len(FILE)))
def test_a_torn_tail_is_cut_and_all_before_it_is_found(length):
    contents = unpack(FILE[:length])
    whole = max(count for count, end in enumerate(ENDS) if end <= length)
    assert [one.number for one in contents.events] == list(range(1, whole + 1))
    assert contents.end == ENDS[whole]
    assert contents.damaged == 0


@given(st.integers(0, len(FILE) - 1), st.binary(min_size=1, max_size=40))
def test_a_damaged_middle_never_hides_later_events(place, rubbish):
    raw = bytearray(FILE)
    raw[place : place + len(rubbish)] = rubbish[: len(raw) - place]
    hurt = {n for n in range(1, 9) if ENDS[n] > place and ENDS[n - 1] < place + len(rubbish)}
    found = set(numbers(bytes(raw)))
    assert set(range(1, 9)) - hurt <= found
    for one in unpack(bytes(raw)).events:
        assert one.signed == SIGNED[one.number - 1]


@given(st.integers(0, len(FILE)), st.binary(min_size=1, max_size=3000))
def test_inserted_rubbish_hides_nothing_behind_it(place, rubbish):
    place = max(end for end in ENDS if end <= place)
    assert numbers(FILE[:place] + rubbish + FILE[place:]) == list(range(1, 9))


def test_damage_is_counted():
    raw = bytearray(FILE)
    raw[ENDS[2] + 20] ^= 1
    raw[ENDS[5] + 20] ^= 1
    contents = unpack(bytes(raw))
    assert numbers(bytes(raw)) == [1, 2, 4, 5, 7, 8]
    assert contents.damaged == 2
    assert contents.end == len(FILE)


@given(st.binary(max_size=400))
def test_rubbish_holds_no_events(raw):
    assert unpack(raw) == ([], 0, 0)


def test_a_number_that_does_not_rise_is_damage():
    assert numbers(pack(SIGNED[3]) + pack(SIGNED[1]) + pack(SIGNED[4])) == [4, 5]


def test_an_event_beyond_the_limit_is_not_packed():
    with pytest.raises(ValueError, match="limit"):
        pack(b"x" * (limits.MAX_EVENT + 1))
