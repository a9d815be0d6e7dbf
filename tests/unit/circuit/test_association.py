"""Associations: numbers, windows, ends, and how many there may be (C-01 to C-05, C-15)."""

from typing import Any

import pytest

from overlay import limits
from overlay.circuit.acceptance import Acceptance
from overlay.circuit.association import (
    Answer,
    CallerAssociation,
    CallerAssociations,
    HostAssociation,
    HostAssociations,
)
from tests.support.pki import Pki

PKI = Pki()
ACCEPT = Acceptance(bytes(32), due=True)
A: Any
B: Any
A, B = PKI.edge("edge-a").leaf, PKI.edge("edge-b").leaf
CONTROLLER: Any = PKI.controller().leaf


def caller(name: bytes = b"n" * 16, peer=B, own=A, until: float = 600.0) -> CallerAssociation:
    return CallerAssociation(name, b"s" * 32, peer, own, "X25519MLKEM768", until)


def host(name: bytes = b"n" * 16, until: float = 600.0) -> HostAssociation:
    own = PKI.edge("edge-b")
    return HostAssociation(name, b"s" * 32, A, A.public, own, "X25519MLKEM768", until)


def test_a_caller_stays_within_the_window_of_its_oldest_unanswered_circuit():
    association = caller()
    numbers = [association.take_number() for _ in range(limits.CIRCUIT_NUMBER_WINDOW)]
    assert numbers[0] == 1  # 0 carried the handshake
    assert not association.usable(0.0)
    association.answered(numbers[5])
    assert not association.usable(0.0)
    association.answered(numbers[0])
    assert association.usable(0.0)
    assert not association.usable(600.0)


def test_an_association_is_found_by_host_own_leaf_and_role():
    table: Any = CallerAssociations()
    table.add(caller())
    assert table.find(("edge-c", "edge-b"), A, 0.0) is not None
    assert table.find(("edge-c",), A, 0.0) is None
    assert table.find(("edge-b",), PKI.edge("edge-a").leaf, 0.0) is None  # renewed meanwhile
    assert table.find(None, A, 0.0) is None  # an edge is no controller
    table.add(caller(b"m" * 16, CONTROLLER))
    assert table.find(None, A, 0.0).peer is CONTROLLER
    assert table.find(("controller",), A, 0.0) is None  # a controller hosts nothing else


def test_a_newer_association_replaces_the_older_one_of_its_host():
    table = CallerAssociations()
    old, new = caller(), caller(b"m" * 16)
    table.add(old)
    table.add(new)
    table.drop(old)  # the host has forgotten the old one: no harm to the new
    assert table.find(("edge-b",), A, 0.0) is new
    table.forget(lambda leaf: leaf == B)
    assert len(table) == 0


def test_the_least_used_associations_make_room():
    table = HostAssociations()
    for number in range(limits.ASSOCIATIONS_PER_EDGE):
        table.add(host(number.to_bytes(16, "big")))
    first = (0).to_bytes(16, "big")
    assert table.find(first, 0.0) is not None  # used just now
    table.add(host(b"x" * 16))
    assert len(table) == limits.ASSOCIATIONS_PER_EDGE
    assert table.find(first, 0.0) is not None
    assert table.find((1).to_bytes(16, "big"), 0.0) is None
    assert table._of == {"edge-a": limits.ASSOCIATIONS_PER_EDGE}
    callers = CallerAssociations()
    for number in range(limits.ASSOCIATIONS_PER_EDGE + 3):
        leaf = B.__class__(**{**B.__dict__, "identity": B.identity._replace(name=f"edge-{number}")})
        callers.add(caller(peer=leaf))
    assert len(callers) == limits.ASSOCIATIONS_PER_EDGE


def test_an_association_ends_with_its_time_and_its_caller():
    table = HostAssociations()
    table.add(host())
    assert table.find(b"n" * 16, 599.0) is not None
    assert table.find(b"n" * 16, 600.0) is None
    table.add(host())
    table.forget(lambda leaf: leaf.identity.name == "edge-b")
    assert len(table) == 1
    table.forget(lambda leaf: leaf.identity.name == "edge-a")
    assert len(table) == 0


def test_a_caller_that_shakes_hands_without_end_makes_room_for_itself_only():
    """C-05: what another one says early would be lost with its association (C-16)."""
    table = HostAssociations()
    others = [host(bytes([200 + number]) * 16) for number in range(3)]
    for one in others:
        one.caller = B
        table.add(one)
    for number in range(2 * limits.ASSOCIATIONS_PER_EDGE):
        table.add(host(number.to_bytes(16, "big")))
    assert len(table) == limits.ASSOCIATIONS_PER_EDGE
    assert all(table.find(one.id, 0.0) is one for one in others)
    assert table.find(others[0].id, 600.0) is None
    table.forget(lambda leaf: leaf == A)
    assert (len(table), table._of) == (2, {"edge-b": 2})


def test_each_number_is_executed_once():
    association = host()
    assert association.judge(7, b"d") is Answer.NEW
    association.remember(7, b"d", ACCEPT)
    assert association.judge(7, b"d") is Answer.REPEATED
    assert association.accept_of(7) == ACCEPT.payload != b""
    assert association.judge(7, b"e") is Answer.REPLAYED
    assert association.judge(6, b"d") is Answer.NEW  # overtaken, not replayed


def test_numbers_older_than_the_window_are_never_executed():
    association = host()
    for number in range(limits.CIRCUIT_NUMBER_WINDOW + 5):
        association.remember(number, b"d", ACCEPT)
    assert association.judge(4, b"d") is Answer.LATE
    assert association.judge(5, b"d") is Answer.REPEATED
    assert len(association._answers) <= limits.CIRCUIT_NUMBER_WINDOW
    association.remember(1 << 40, b"d", ACCEPT)
    assert association.judge(100, b"d") is Answer.LATE
    assert association.judge((1 << 40) - limits.CIRCUIT_NUMBER_WINDOW, b"d") is Answer.LATE
    assert len(association._answers) == 1


@pytest.mark.parametrize("order", [range(3000), range(3000, 0, -1)])
def test_the_window_is_bounded_in_any_order(order):
    association = host()
    for number in order:
        if association.judge(number, b"d") is Answer.NEW:
            association.remember(number, b"d", ACCEPT)
    assert len(association._answers) <= limits.CIRCUIT_NUMBER_WINDOW
