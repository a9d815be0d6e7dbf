"""Every rule of G-01 to G-03, broken one at a time."""

from typing import Any

import pytest
from msgspec.structs import replace

from overlay.errors import Code
from overlay.policy.grant import Grant
from overlay.policy.grant_check import check_grant, check_refresh, check_time, valid_until
from overlay.wire.bodies import DATAGRAMS, NORMAL, STREAM, STRICT
from overlay.wire.codec import decode, encode
from tests.support.plants import HOUR, NOW, SECOND

KEY = b"\1" * 32
GRANT = Grant(
    id=b"\2" * 16,
    conduit="c1",
    caller_key=KEY,
    who="hmi-a",
    via="edge-a",
    service="plc-b.modbus",
    asset="plc-b",
    hosts=("edge-b", "edge-c"),
    transport=STREAM,
    integrity=NORMAL,
    not_before=NOW,
    refresh_by=NOW + 600 * SECOND,
    hold_until=NOW + 8 * HOUR,
    end=NOW + 12 * HOUR,
    max_session=0,
    who_zones=("office",),
    asset_zones=("cell-1",),
    epoch=1,
    generation=3,
)


class Nothing:
    """An authority that objects to nothing."""

    def blocks(self, grant, now, *, circuit=b"", host=None):
        return None


class Killed:
    def blocks(self, grant, now, *, circuit=b"", host=None):
        return Code.KILLED, "killed: plant (fire)"


def check(grant=GRANT, *, authority=None, now=NOW, fresh=True, **changes):
    asked: dict[str, Any] = {
        "key_id": KEY,
        "via": "edge-a",
        "generation": 3,
        "service": "plc-b.modbus",
        "transport": STREAM,
        "host": "edge-b",
        "integrity": NORMAL,
    } | changes
    return check_grant(grant, now=now, fresh=fresh, authority=authority or Nothing(), **asked)


def code(objection):
    return objection[0] if objection else None


def test_a_good_grant_holds():
    assert check() is None
    assert check(host="edge-c") is None
    assert check(host=None, integrity=None, key_id=None) is None  # what a router knows
    assert decode(Grant, encode(GRANT)) == GRANT


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"key_id": b"\3" * 32}, "another key"),
        ({"generation": 4}, "another enrolment of edge-a"),
        ({"generation": 2}, "another enrolment of edge-a"),
        ({"via": "edge-x"}, "is for edge-a, not for edge-x"),
        ({"service": "plc-c.modbus"}, "not for plc-c.modbus"),
        ({"transport": DATAGRAMS}, "another transport"),
        ({"host": "edge-x"}, "does not permit edge-x"),
        ({"integrity": STRICT}, "another integrity"),
    ],
)
def test_a_grant_for_something_else_is_a_bad_grant(asked, words):
    objection = check(**asked)
    assert code(objection) is Code.BAD_GRANT
    assert words in objection[1]


def test_a_strict_grant_is_not_used_without_signatures():
    assert code(check(replace(GRANT, integrity=STRICT))) is Code.BAD_GRANT
    assert check(replace(GRANT, integrity=STRICT), integrity=STRICT) is None


def test_a_grant_without_hosts_permits_none():
    assert code(check(replace(GRANT, hosts=()))) is Code.BAD_GRANT


@pytest.mark.parametrize(
    ("offset", "fresh", "expected"),
    [
        (-1, True, Code.EXPIRED),
        (-1, False, Code.EXPIRED),
        (0, True, None),
        (600 * SECOND - 1, True, None),
        (600 * SECOND, True, Code.EXPIRED),  # not refreshed, though the controller is there
        (600 * SECOND, False, None),  # it is away: the conduit's hold counts
        (8 * HOUR - 1, False, None),
        (8 * HOUR, False, Code.STALE),
        (12 * HOUR, False, Code.EXPIRED),
        (12 * HOUR, True, Code.EXPIRED),
    ],
)
def test_the_time_rule(offset, fresh, expected):
    assert code(check(now=NOW + offset, fresh=fresh)) is expected


def test_an_end_caps_the_hold_and_no_end_does_not():
    ended = replace(GRANT, end=NOW + HOUR)
    assert check(ended, now=NOW + HOUR - 1, fresh=False) is None
    assert check(ended, now=NOW + HOUR, fresh=False) == (
        Code.EXPIRED, "conduit c1 for plc-b.modbus has ended",
    )  # fmt: skip
    assert check(replace(GRANT, end=0), now=NOW + 7 * HOUR, fresh=False) is None


def test_an_old_grant_never_holds_longer_than_it_says_even_when_hold_is_shorter_than_refresh():
    odd = replace(GRANT, hold_until=NOW + SECOND)
    assert code(check(odd, now=NOW + SECOND, fresh=True)) is Code.STALE


def test_the_objection_that_counts_most_is_said():
    """A-06: a kill before an expiry; and nobody learns of kills through somebody else's grant."""
    assert code(check(authority=Killed())) is Code.KILLED
    assert code(check(authority=Killed(), now=NOW + 100 * HOUR)) is Code.KILLED
    assert code(check(authority=Killed(), key_id=b"\3" * 32)) is Code.BAD_GRANT


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("end", [0, NOW + HOUR // 2, NOW + 9 * HOUR])
def test_valid_until_is_the_first_moment_of_an_objection(fresh, end):
    grant = replace(GRANT, end=end)
    last = valid_until(grant, fresh=fresh)
    assert check_time(grant, last - 1, fresh=fresh) is None
    assert check_time(grant, last, fresh=fresh) is not None


def test_a_refreshed_grant_may_change_times_and_hosts_only():
    later = replace(GRANT, id=b"\4" * 16, refresh_by=NOW + HOUR, hosts=("edge-c",), epoch=2)
    assert check_refresh(GRANT, later) is None
    assert check_refresh(GRANT, replace(later, conduit="c2", end=0)) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"who": "edge-a"},
        {"via": "edge-x"},
        {"service": "plc-b.s7"},
        {"transport": DATAGRAMS},
        {"integrity": STRICT},
    ],
)
def test_a_refreshed_grant_for_something_else_is_refused(changes):
    assert code(check_refresh(GRANT, replace(GRANT, **changes))) is Code.BAD_GRANT


def test_a_refreshed_grant_names_the_key_of_the_association():
    renewed = replace(GRANT, caller_key=b"\5" * 32)
    assert check_refresh(GRANT, renewed, b"\5" * 32) is None
    assert code(check_refresh(GRANT, renewed, KEY)) is Code.BAD_GRANT
