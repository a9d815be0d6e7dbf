"""What a node is told of its grants, and when: K-02, K-04."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.hub import updates
from controller.hub.updates import REFRESH_AFTER, GrantLedger
from overlay import limits
from overlay.control.stream import encode_message
from overlay.identity.trust import sign_body
from overlay.policy.grant import Grant
from tests.support.pki import NOW, SECOND, Pki

PKI = Pki()
CONTROLLER = PKI.controller()
REFRESH = int(limits.REFRESH_BY) * SECOND


def signed(number: int, now: int = NOW, **changes: object) -> bytes:
    grant = Grant(
        id=number.to_bytes(16, "big"), conduit="7", caller_key=b"k" * 32, who="hmi-a", via="edge-a",
        service="plc-b.modbus", asset="plc-b", hosts=("edge-b",), transport=0, integrity=0, not_before=0,
        refresh_by=now + REFRESH, hold_until=now + REFRESH + 3600 * SECOND, end=0, max_session=0,
        who_zones=(), asset_zones=(), epoch=now,
    )  # fmt: skip
    body = msgspec.structs.replace(grant, **changes)
    return sign_body(body, CONTROLLER.key, PKI.anchor)


def test_the_first_update_is_full_even_when_it_is_empty():
    (update,) = GrantLedger().update([], NOW)
    assert (update.full, update.put, update.drop, update.more) == (True, (), (), False)


def test_nothing_new_is_not_said():
    ledger = GrantLedger()
    list(ledger.update([signed(1)], NOW))
    assert list(ledger.update([signed(1, NOW + SECOND)], NOW + SECOND)) == []


def test_what_changed_is_put_and_what_is_gone_is_dropped():
    ledger = GrantLedger()
    list(ledger.update([signed(1), signed(2)], NOW))
    changed = signed(2, end=NOW + 9 * SECOND)
    (update,) = ledger.update([changed, signed(3)], NOW)
    assert not update.full
    assert update.drop == ((1).to_bytes(16, "big"),)
    assert set(update.put) == {changed, signed(3)}


def test_a_longer_or_shorter_hold_is_a_change():
    ledger = GrantLedger()
    list(ledger.update([signed(1)], NOW))
    (update,) = ledger.update([signed(1, hold_until=NOW + REFRESH)], NOW)
    assert len(update.put) == 1


def test_grants_are_refreshed_at_half_of_their_time():
    ledger = GrantLedger()
    list(ledger.update([signed(1)], NOW))
    assert ledger.refresh_due() == NOW + REFRESH - REFRESH_AFTER
    early = NOW + REFRESH - REFRESH_AFTER - 1
    assert list(ledger.update([signed(1, early)], early)) == []
    (update,) = ledger.update([signed(1, early + 1)], early + 1)
    assert update.put == (signed(1, early + 1),)
    assert ledger.refresh_due() == early + 1 + REFRESH - REFRESH_AFTER


def test_a_grant_that_is_about_to_end_is_not_refreshed_for_ever():
    ledger = GrantLedger()
    end = NOW + 100 * SECOND
    last = {"refresh_by": end, "hold_until": end, "end": end}
    list(ledger.update([signed(1, **last)], NOW))
    assert ledger.refresh_due() is None
    assert list(ledger.update([signed(1, **last)], end)) == []


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 7))
def test_parts_bring_exactly_what_is_there(before, after, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(updates, "MESSAGE_GRANTS", most)
        ledger, held = GrantLedger(), set[bytes]()
        for present in (range(before), range(before // 2, before // 2 + after)):
            parts = list(ledger.update([signed(one) for one in present], NOW))
            assert [one.more for one in parts] == [
                one.full and place < len(parts) - 1 for place, one in enumerate(parts)
            ]
            for part in parts:
                assert len(part.put) <= most
                assert len(part.drop) <= most
                held |= {updates._read(one)[0].id for one in part.put}
                held -= set(part.drop)
            assert held == {one.to_bytes(16, "big") for one in present}


def test_a_part_fits_a_message():
    ledger = GrantLedger()
    many = [signed(one, hosts=("e" * 63,) * 16) for one in range(2500)]
    parts = list(ledger.update(many, NOW))
    assert len(parts) > 1
    for part in parts:
        encode_message(part)
