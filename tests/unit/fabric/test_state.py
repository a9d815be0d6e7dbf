"""Authority and map in force: A-02, A-05, A-06, F-01."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overlay.errors import Code, DecodeError, FerruleError, TrustError
from overlay.fabric.authority import (
    Authority,
    FabricMap,
    Kill,
    Revocation,
    RouterEntry,
    Withdrawal,
)
from overlay.fabric.state import AuthorityState, MapState, published_kind
from overlay.identity.certificate import Role
from overlay.identity.trust import Credentials, sign_body
from overlay.policy.grant import Grant
from overlay.wire.bodies import TreeHead
from tests.support.pki import NOW, SECOND, Pki

PKI = Pki()
CONTROLLER = PKI.controller()
EDGE = PKI.edge("edge-a")


def sign(body, by: Credentials = CONTROLLER, chain: bool = True) -> bytes:
    return sign_body(body, by.key, PKI.anchor, by.chain if chain else ())


def authority(version: int, *, kills=(), revoked=(), withdrawn=(), time: int = NOW) -> Authority:
    return Authority(version, time, tuple(kills), tuple(revoked), tuple(withdrawn))


def kill(level: str, name: str, until: int = 0, number: int = 1) -> Kill:
    return Kill(bytes([number]) * 16, level, name, "stop", NOW, until)


GRANT = Grant(
    id=b"g" * 16, conduit="7", caller_key=b"k" * 32, who="hmi-a", via="edge-a", service="plc-b.modbus",
    asset="plc-b", hosts=("edge-b", "edge-c"), transport=0, integrity=0, not_before=0, refresh_by=0,
    hold_until=0, end=0, max_session=0, who_zones=("cell-1", "site"), asset_zones=("cell-2", "site"), epoch=1,
)  # fmt: skip


@pytest.fixture
def state() -> AuthorityState:
    return AuthorityState(PKI.signers())


def test_a_newer_authority_is_in_force(state):
    assert state.offer(sign(authority(1)), NOW) == authority(1)
    assert state.offer(sign(authority(5)), NOW) == authority(5)
    assert state.version == 5


def test_a_lower_version_changes_nothing(state):
    state.offer(sign(authority(5, kills=[kill("plant", "")])), NOW)
    assert state.offer(sign(authority(4)), NOW) is None
    assert state.version == 5
    assert state.kill_of(GRANT, NOW) is not None


def test_the_same_bytes_again_are_no_news(state):
    data = sign(authority(5))
    state.offer(data, NOW)
    assert state.offer(data, NOW) is None


def test_of_one_version_the_later_is_in_force(state):
    state.offer(sign(authority(5)), NOW)
    later = authority(5, time=NOW + 5 * SECOND)
    assert state.offer(sign(later), NOW) == later
    assert state.offer(sign(authority(5, time=NOW + SECOND)), NOW) is None
    assert state.offer(sign(authority(4, time=NOW + 9 * SECOND)), NOW) is None
    assert state.held.body == later


def test_the_same_version_with_another_content_is_refused(state):
    state.offer(sign(authority(5, kills=[kill("plant", "")])), NOW)
    with pytest.raises(TrustError, match="two different contents"):
        state.offer(sign(authority(5)), NOW)
    assert state.kill_of(GRANT, NOW) is not None


@pytest.mark.parametrize("role", [Role.EDGE, Role.ROUTER])
def test_only_a_controller_signs_authorities_and_maps(state, role):
    other = PKI.node(role, "node-x")
    with pytest.raises(TrustError, match="controller"):
        state.offer(sign(authority(1), other), NOW)
    with pytest.raises(TrustError, match="controller"):
        MapState(PKI.signers(), state).offer(sign(FabricMap(1, ()), other), NOW)
    assert state.version == 0


def test_an_unknown_signer_is_an_error_not_a_reason_to_skip(state):
    with pytest.raises(TrustError, match="not known"):
        state.offer(sign(authority(1), chain=False), NOW)
    state.offer(sign(authority(1)), NOW)
    assert state.offer(sign(authority(2), chain=False), NOW) is not None


def test_another_plants_authority_is_refused(state):
    other = Pki("mill")
    controller = other.controller()
    with pytest.raises(TrustError):
        state.offer(sign_body(authority(1), controller.key, other.anchor, controller.chain), NOW)


def test_a_revoked_controller_signs_nothing_more(state):
    second = PKI.controller("second")
    state.offer(sign(authority(1, revoked=[Revocation("controller", 1)]), second), NOW)
    with pytest.raises(TrustError, match="revoked"):
        state.offer(sign(authority(2)), NOW)
    with pytest.raises(TrustError, match="revoked"):
        MapState(PKI.signers(), state).offer(sign(FabricMap(1, ())), NOW)


def test_a_controller_cannot_sign_its_own_revocation(state):
    with pytest.raises(TrustError, match="revoked"):
        state.offer(sign(authority(2, revoked=[Revocation("controller", 1)])), NOW)


def test_a_changed_byte_is_refused(state):
    data = bytearray(sign(authority(1)))
    data[len(data) // 3] ^= 1
    with pytest.raises(FerruleError):
        state.offer(bytes(data), NOW)


@given(st.binary(max_size=200))
def test_rubbish_raises_the_documented_errors_only(data):
    state = AuthorityState(PKI.signers())
    for offer in (state.offer, MapState(PKI.signers(), state).offer):
        with pytest.raises((DecodeError, TrustError)):
            offer(data, NOW)
    with pytest.raises(DecodeError):
        published_kind(data)


@given(st.integers(min_value=0), st.integers(1, 255))
def test_mutated_authorities_raise_the_documented_errors_only(place, change):
    data = bytearray(sign(authority(1, kills=[kill("zone", "cell-1")])))
    data[place % len(data)] ^= change
    state = AuthorityState(PKI.signers())
    with pytest.raises((DecodeError, TrustError)):
        state.offer(bytes(data), NOW)
    assert state.version == 0


@pytest.mark.parametrize(
    ("level", "name"),
    [
        ("identity", "hmi-a"), ("identity", "edge-a"), ("identity", "plc-b"), ("service", "plc-b.modbus"), ("zone", "cell-1"), ("zone", "cell-2"),
        ("zone", "site"), ("plant", ""), ("circuit", "0c" * 16),
    ],
)  # fmt: skip
def test_a_kill_matches_the_grants_it_covers(state, level, name):
    state.offer(sign(authority(1, kills=[kill(level, name)])), NOW)
    code, reason = state.blocks(GRANT, NOW, circuit=b"\x0c" * 16) or (None, "")
    assert code is Code.KILLED
    assert "stop" in reason


@pytest.mark.parametrize(
    ("level", "name"),
    [
        ("identity", "hmi-b"), ("identity", "cell-1"), ("identity", "plc-b.modbus"), ("service", "plc-b.s7"),
        ("service", "plc-b"), ("zone", "cell-3"), ("zone", "hmi-a"), ("circuit", "0d" * 16), ("circuit", ""),
    ],
)  # fmt: skip
def test_a_kill_matches_nothing_else(state, level, name):
    state.offer(sign(authority(1, kills=[kill(level, name)])), NOW)
    assert state.blocks(GRANT, NOW, circuit=b"\x0c" * 16) is None


def test_a_killed_host_is_taken_out_and_with_none_left_the_grant_is_killed(state):
    state.offer(sign(authority(1, kills=[kill("identity", "edge-b")])), NOW)
    assert state.usable_hosts(GRANT, NOW) == ("edge-c",)
    assert state.blocks(GRANT, NOW) is None
    assert state.blocks(GRANT, NOW, host="edge-c") is None
    assert state.blocks(GRANT, NOW, host="edge-b")[0] is Code.KILLED
    both = [kill("identity", "edge-b"), kill("identity", "edge-c", NOW + SECOND)]
    state.offer(sign(authority(2, kills=both)), NOW)
    assert state.blocks(GRANT, NOW)[0] is Code.KILLED
    assert state.blocks(GRANT, NOW + SECOND) is None


def test_a_grant_of_a_revoked_generation_is_void(state):
    state.offer(sign(authority(1, revoked=[Revocation("edge-a", 2)])), NOW)
    for generation, void in ((1, True), (2, True), (3, False)):
        grant = msgspec.structs.replace(GRANT, generation=generation)
        blocked = state.blocks(grant, NOW)
        assert (blocked is not None and blocked[0] is Code.REVOKED) is void


def test_a_kill_ends_at_its_time_and_the_longest_of_one_name_counts(state):
    short, long = kill("zone", "site", NOW + SECOND), kill("zone", "site", NOW + 9 * SECOND, 2)
    state.offer(sign(authority(1, kills=[long, short])), NOW)
    assert state.blocks(GRANT, NOW + 5 * SECOND) is not None
    assert state.blocks(GRANT, NOW + 9 * SECOND) is None
    state.offer(sign(authority(2, kills=[kill("zone", "site"), short])), NOW)
    assert state.blocks(GRANT, NOW + 99 * SECOND) is not None


def test_restoring_one_kill_does_not_lift_another(state):
    state.offer(
        sign(authority(1, kills=[kill("zone", "site"), kill("service", "plc-b.modbus")])), NOW
    )
    state.offer(sign(authority(2, kills=[kill("service", "plc-b.modbus")])), NOW)
    assert state.blocks(GRANT, NOW) is not None
    state.offer(sign(authority(3)), NOW)
    assert state.blocks(GRANT, NOW) is None


def test_a_revocation_covers_generations_up_to_its_own(state):
    state.offer(sign(authority(1, revoked=[Revocation("edge-a", 2), Revocation("edge-a", 1)])), NOW)
    for generation, void in ((1, True), (2, True), (3, False)):
        leaf = PKI.node(Role.EDGE, "edge-a", generation=generation).leaf
        assert leaf is not None
        assert state.revoked(leaf) is void
    assert not state.revoked(PKI.edge("edge-b").leaf)


def test_a_withdrawal_counts_from_its_time(state):
    state.offer(sign(authority(1, withdrawn=[Withdrawal("7", NOW + SECOND)])), NOW)
    assert state.blocks(GRANT, NOW) is None
    assert state.next_withdrawal(NOW) == NOW + SECOND
    assert state.blocks(GRANT, NOW + SECOND) == (Code.WITHDRAWN, "conduit 7 was ended")
    assert state.next_withdrawal(NOW + SECOND) is None


def test_it_is_known_when_the_next_kill_is_over(state):
    kills = [
        kill("plant", ""),
        kill("zone", "z", until=NOW + 2 * SECOND),
        kill("service", "s", until=NOW + SECOND),
    ]
    state.offer(sign(authority(1, kills=kills)), NOW)
    moments = [state.next_restoring(NOW + second * SECOND) for second in range(3)]
    assert moments == [NOW + SECOND, NOW + 2 * SECOND, None], "the first has no end"


def test_kill_comes_before_revocation_before_withdrawal(state):
    all_three: dict[str, Any] = {
        "kills": [kill("plant", "")],
        "revoked": [Revocation("edge-a", 1)],
        "withdrawn": [Withdrawal("7", NOW)],
    }
    for version, (gone, code) in enumerate(
        [("", Code.KILLED), ("kills", Code.REVOKED), ("revoked", Code.WITHDRAWN)], 1
    ):
        all_three.pop(gone, None)
        state.offer(sign(authority(version, **dict(all_three))), NOW)
        blocked = state.blocks(GRANT, NOW, leaves=[EDGE.leaf])
        assert blocked is not None
        assert blocked[0] is code


def test_a_restart_takes_what_was_accepted_even_when_its_signer_has_expired_since():
    old = PKI.node(Role.CONTROLLER, "controller", end=NOW + SECOND)
    data = sign(authority(3, kills=[kill("plant", "")]), old)
    state = AuthorityState(PKI.signers())
    state.restore(data, NOW)
    assert state.version == 3
    assert state.offer(sign(authority(2)), NOW) is None
    with pytest.raises(TrustError):
        state.restore(data, NOW + 2 * SECOND)


def test_a_lower_map_is_no_news_and_another_of_the_same_version_is_refused(state):
    fabric = MapState(PKI.signers(), state)
    one = FabricMap(2, (RouterEntry("router-1", "127.0.0.1:1"),))
    assert fabric.offer(sign(one), NOW) == one
    assert fabric.offer(sign(FabricMap(1, ())), NOW) is None
    with pytest.raises(TrustError, match="two different contents"):
        fabric.offer(sign(FabricMap(2, ())), NOW)
    assert fabric.map == one


def test_a_map_is_not_an_authority(state):
    with pytest.raises(TrustError):
        state.offer(sign(FabricMap(9, ())), NOW)
    assert published_kind(sign(FabricMap(9, ()))) == "map"
    assert published_kind(sign(authority(9))) == "authority"
    with pytest.raises(DecodeError):
        published_kind(sign(TreeHead(3, b"r" * 32, NOW)))
