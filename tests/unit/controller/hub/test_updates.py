"""What a node is told of its grants, and when: K-02, K-04."""

from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.hub import updates
from controller.hub.updates import REFRESH_AFTER, GrantLedger
from overlay import limits
from overlay.control.messages import GrantUpdate
from overlay.control.stream import encode_message
from overlay.identity.trust import sign_body
from overlay.policy.grant import Grant
from overlay.wire.codec import Signed, decode
from tests.support.pki import NOW, SECOND, Pki

PKI = Pki()
CONTROLLER = PKI.controller()
REFRESH = int(limits.REFRESH_BY) * SECOND


def grant(number: int, now: int = NOW, **changes: object) -> Grant:
    made = Grant(
        id=number.to_bytes(16, "big"), conduit="7", caller_key=b"k" * 32, who="hmi-a", via="edge-a",
        service="plc-b.modbus", asset="plc-b", hosts=("edge-b",), transport=0, integrity=0, not_before=0,
        refresh_by=now + REFRESH, hold_until=now + REFRESH + 3600 * SECOND, end=0, max_session=0,
        who_zones=(), asset_zones=(), epoch=now,
    )  # fmt: skip
    return msgspec.structs.replace(made, **changes)


def signed(one: Grant) -> bytes:
    return sign_body(one, CONTROLLER.key, PKI.anchor)


def update(ledger: GrantLedger, grants: Iterable[Grant], now: int) -> list[GrantUpdate]:
    """What a session says."""
    news = ledger.compare(grants, now)
    return list(ledger.tell(news, map(signed, news.put)))


def test_only_what_is_news_has_to_be_signed():
    ledger = GrantLedger()
    update(ledger, [grant(1), grant(2)], NOW)
    news = ledger.compare([grant(1, NOW + SECOND), grant(2, NOW + SECOND, max_session=5)], NOW)
    assert [one.id for one in news.put] == [grant(2).id]


def test_what_was_not_told_stays_news():
    """Where signing fails nothing is said, and nothing is taken for said."""
    ledger = GrantLedger()
    update(ledger, [grant(1)], NOW)
    for _ in range(2):
        news = ledger.compare([grant(2)], NOW)
        assert [one.id for one in news.put] == [grant(2).id]
        assert news.drop == (grant(1).id,)


def test_the_first_update_is_full_even_when_it_is_empty():
    (said,) = update(GrantLedger(), [], NOW)
    assert (said.full, said.put, said.drop, said.more) == (True, (), (), False)


def test_nothing_new_is_not_said():
    ledger = GrantLedger()
    update(ledger, [grant(1)], NOW)
    assert update(ledger, [grant(1, NOW + SECOND)], NOW + SECOND) == []


def test_what_changed_is_put_and_what_is_gone_is_dropped():
    ledger = GrantLedger()
    update(ledger, [grant(1), grant(2)], NOW)
    changed = grant(2, end=NOW + 9 * SECOND)
    (said,) = update(ledger, [changed, grant(3)], NOW)
    assert not said.full
    assert said.drop == ((1).to_bytes(16, "big"),)
    assert set(said.put) == {signed(changed), signed(grant(3))}


def test_a_longer_or_shorter_hold_is_a_change():
    ledger = GrantLedger()
    update(ledger, [grant(1)], NOW)
    (said,) = update(ledger, [grant(1, hold_until=NOW + REFRESH)], NOW)
    assert len(said.put) == 1


def test_grants_are_refreshed_at_half_of_their_time():
    ledger = GrantLedger()
    update(ledger, [grant(1)], NOW)
    assert ledger.refresh_due() == NOW + REFRESH - REFRESH_AFTER
    early = NOW + REFRESH - REFRESH_AFTER - 1
    assert update(ledger, [grant(1, early)], early) == []
    (said,) = update(ledger, [grant(1, early + 1)], early + 1)
    assert said.put == (signed(grant(1, early + 1)),)
    assert ledger.refresh_due() == early + 1 + REFRESH - REFRESH_AFTER


def test_a_grant_that_is_about_to_end_is_not_refreshed_for_ever():
    ledger = GrantLedger()
    end = NOW + 100 * SECOND
    last = {"refresh_by": end, "hold_until": end, "end": end}
    update(ledger, [grant(1, **last)], NOW)
    assert ledger.refresh_due() is None
    assert update(ledger, [grant(1, **last)], end) == []


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 7))
def test_parts_bring_exactly_what_is_there(before, after, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(updates, "MESSAGE_GRANTS", most)
        ledger, held = GrantLedger(), set[bytes]()
        for present in (range(before), range(before // 2, before // 2 + after)):
            parts = update(ledger, [grant(one) for one in present], NOW)
            assert [one.more for one in parts] == [
                one.full and place < len(parts) - 1 for place, one in enumerate(parts)
            ]
            for part in parts:
                assert len(part.put) <= most
                assert len(part.drop) <= most
                held |= {decode(Grant, decode(Signed, one).body).id for one in part.put}
                held -= set(part.drop)
            assert held == {one.to_bytes(16, "big") for one in present}


def test_a_part_fits_a_message():
    ledger = GrantLedger()
    many = [grant(one, hosts=("e" * 63,) * 16) for one in range(2500)]
    parts = update(ledger, many, NOW)
    assert len(parts) > 1
    for part in parts:
        encode_message(part)
