"""The flows of a device: each has a port of its own, rests before the port is used again, and none beyond the bounds."""

import pytest

from edge.packets.checksum import add_up, corrected, fold
from edge.tun import nat as nat_module
from edge.tun.nat import ACCEPT_WITHIN, REST, Addresses, Life, Nat

ME, FAKE = bytes([198, 18, 0, 1]), bytes([198, 18, 0, 2])
ME6, FAKE6 = bytes(15) + b"\1", bytes(15) + b"\2"
SERVICE = bytes([100, 64, 0, 7])


def key(number: int = 0, source: bytes = bytes([192, 168, 1, 20])) -> bytes:
    return source + SERVICE + (1024 + number).to_bytes(2, "big") + (502).to_bytes(2, "big")


@pytest.fixture
def nat() -> Nat:
    return Nat([Addresses(ME, FAKE), Addresses(ME6, FAKE6)], 4000)


def test_both_directions_are_translated_and_lead_back(nat: Nat):
    flow = nat.begin(key(), 0.0, 0)
    assert flow is not None
    there = nat.rewrites[key()]
    back = nat.rewrites[flow.reverse]
    ports = flow.port.to_bytes(2, "big"), (4000).to_bytes(2, "big")
    assert there.new == FAKE + ME + ports[0] + ports[1]
    assert flow.reverse == ME + FAKE + ports[1] + ports[0]
    assert back.new == SERVICE + key()[:4] + key()[-2:] + key()[-4:-2]
    for old, rewrite in ((key(), there), (flow.reverse, back)):
        right = ~add_up(old + b"payload!") & 0xFFFF
        now = corrected(right, rewrite.everything)
        assert fold(add_up(rewrite.new + b"payload!") + now) == 0xFFFF


def test_a_version_that_the_device_does_not_have_is_refused():
    nat = Nat([Addresses(ME, FAKE)], 4000)
    assert nat.begin(bytes(36), 0.0, 0) is None


def test_only_the_flow_of_a_port_is_accepted_and_only_once(nat: Nat):
    flow = nat.begin(key(), 0.0, 0)
    assert flow is not None
    assert nat.accepted(FAKE, flow.port + 1) is None
    assert nat.accepted(ME, flow.port) is None, "another address of the device's net"
    assert nat.accepted(FAKE6, flow.port) is None, "the other version of IP"
    assert nat.accepted(FAKE, flow.port) is flow
    assert nat.accepted(FAKE, flow.port) is None


def test_a_port_rests_and_a_flow_that_is_spoken_to_rests_longer(nat: Nat):
    flow = nat.begin(key(), 0.0, 0)
    assert flow is not None
    nat.ended(flow, 10.0)
    flow.used = False
    nat.sweep(10.0 + REST - 1)
    assert key() in nat.rewrites
    flow.used = True
    nat.sweep(10.0 + REST)
    assert key() in nat.rewrites, "late segments came"
    nat.sweep(10.0 + 2 * REST)
    assert key() not in nat.rewrites
    assert len(nat) == 0
    again = nat.begin(key(1), 100.0, 0)
    assert again is not None
    assert again.port != flow.port, "others rest longer"


def test_a_client_that_uses_its_port_again_gets_a_flow_of_its_own(nat: Nat):
    old = nat.begin(key(), 0.0, 0)
    assert old is not None
    nat.accepted(FAKE, old.port)
    nat.ended(old, 1.0)
    new = nat.begin(key(), 2.0, 0)
    assert new is not None
    assert new.port != old.port
    assert nat.rewrites[key()].flow is new
    assert old.reverse not in nat.rewrites, "what the old connection still says reaches nobody"
    old.used = False
    nat.sweep(2.0 + REST)
    assert nat.rewrites[key()].flow is new, "the old one's end does not end the new one"
    assert len(nat) == 1


def test_handshakes_that_are_never_finished_are_found(nat: Nat):
    late, done = nat.begin(key(), 0.0, 0), nat.begin(key(1), 0.0, 0)
    assert done is not None
    nat.accepted(FAKE, done.port)
    assert nat.late(ACCEPT_WITHIN - 1) == []
    assert nat.late(ACCEPT_WITHIN) == [late]


def test_bounds_hold_and_those_that_rest_give_way(nat: Nat, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nat_module, "CONNECTIONS", 20)
    monkeypatch.setattr(nat_module, "CONNECTIONS_PER_SOURCE", 15)
    flows = [nat.begin(key(number), 0.0, 0) for number in range(15)]
    assert all(flows)
    assert nat.begin(key(15), 0.0, 0) is None, "one source"
    others = [nat.begin(key(number, bytes([10, 0, 0, 1])), 0.0, 0) for number in range(6)]
    assert others[:5] == [one for one in others if one is not None]
    assert others[5] is None, "all together"
    assert flows[0] is not None
    nat.ended(flows[0], 1.0)
    assert nat.begin(key(15), 1.0, 0) is not None
    assert flows[0].life is Life.ENDED
    assert len(nat) == 20
    assert len(nat.rewrites) == 40
