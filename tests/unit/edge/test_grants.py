"""Which grant opens a circuit, and which one it may move to (G-03, G-05)."""

from typing import Any

from edge.grants import GrantBook, Held
from overlay.errors import Code
from overlay.policy.grant import Grant

MINUTE = 60_000_000
NOW = 1_000 * MINUTE


def grant(number: int, **changes) -> tuple[Grant, bytes]:
    body: dict[str, Any] = {
        "id": bytes([number]) * 16, "conduit": f"c-{number}", "caller_key": b"k" * 32, "who": "hmi-a", "via": "edge-a",
        "service": "plc-b.modbus", "asset": "plc-b", "hosts": ("edge-b",), "transport": 0, "integrity": 0,
        "not_before": 0, "refresh_by": NOW + 10 * MINUTE, "hold_until": NOW + 60 * MINUTE, "end": 0,
        "max_session": 0, "who_zones": (), "asset_zones": (), "epoch": 1,
    }  # fmt: skip
    return Grant(**(body | changes)), b"signed %d" % number


def picked(found: Any) -> Any:
    return found.grant.conduit


def book(*grants: tuple[Grant, bytes]) -> GrantBook:
    held = GrantBook()
    held.put(grants)
    return held


def fine(_: Grant) -> None:
    return None


def test_the_grant_that_ends_last_carries_the_circuit():
    held = book(
        grant(1, end=NOW + 5 * MINUTE),
        grant(2),
        grant(3, end=NOW + 50 * MINUTE),
        grant(4, hold_until=NOW + 70 * MINUTE),
    )
    assert picked(held.pick("hmi-a", "plc-b.modbus", 0, fine)) == "c-4"
    judged = held.pick(
        "hmi-a", "plc-b.modbus", 0, lambda one: None if one.end else (Code.KILLED, "no")
    )
    assert picked(judged) == "c-3"


def test_without_a_grant_for_exactly_this_use_the_reason_is_said():
    held = book(grant(1))
    for use in (
        ("hmi-b", "plc-b.modbus", 0),
        ("hmi-a", "plc-b.web", 0),
        ("hmi-a", "plc-b.modbus", 1),
    ):
        code, reason = held.pick(*use, fine)
        assert code is Code.NO_GRANT
        assert use[0] in reason
    against = held.pick("hmi-a", "plc-b.modbus", 0, lambda one: (Code.EXPIRED, "over"))
    assert against == (Code.EXPIRED, "over")


def test_a_refreshed_grant_replaces_the_one_with_its_id_and_dropped_ones_are_gone():
    held = book(grant(1), grant(2))
    newer = grant(1, refresh_by=NOW + 20 * MINUTE)
    held.put([newer])
    assert len(held) == 2
    assert held.successor(grant(1)[0], "edge-b", fine) == Held(*newer)
    held.drop([grant(2)[0], grant(9)[0]])
    assert len(held) == 1
    held.drop([newer[0]])
    assert held.pick("hmi-a", "plc-b.modbus", 0, fine)[0] is Code.NO_GRANT
    assert held._by_use == {}


def test_a_successor_is_equal_and_not_the_same():
    now = grant(1)
    assert book(now).successor(now[0], "edge-b", fine) is None
    for changes in (
        {"caller_key": b"x" * 32}, {"integrity": 1}, {"via": "edge-c"}, {"who": "hmi-b"}, {"service": "plc-b.web"},
        {"transport": 1}, {"max_session": 60}, {"hosts": ("edge-c",)},
    ):  # fmt: skip
        assert (
            book(now, grant(2, hold_until=NOW + 99 * MINUTE, **changes)).successor(
                now[0], "edge-b", fine
            )
            is None
        )
    longer = book(now, grant(2, hold_until=NOW + 99 * MINUTE))
    assert picked(longer.successor(now[0], "edge-b", fine)) == "c-2"


def test_a_grant_that_was_taken_back_or_names_other_hosts_carries_no_circuit_on():
    held = book(grant(1))
    assert held.objection(grant(1)[0], "edge-b") is None
    assert held.objection(grant(1)[0], None) is None
    held.put([grant(1, hosts=("edge-c",))])
    code, reason = held.objection(grant(1)[0], "edge-b") or (None, "")
    assert code is Code.WITHDRAWN
    assert "edge-b" in reason
    held.drop([grant(1)[0]])
    code, reason = held.objection(grant(1)[0], None) or (None, "")
    assert code is Code.WITHDRAWN
    assert "hmi-a" in reason


def test_the_refreshed_grant_of_the_same_conduit_is_the_successor_although_it_lasts_no_longer():
    held = book(grant(2), grant(1, asset_zones=("cell-9",)))
    found = held.successor(grant(1)[0], "edge-b", fine)
    assert found is not None
    assert found.grant.asset_zones == ("cell-9",)
