"""How many of something may be in use at once: handshakes (L-04), connections and streams of the API."""

import pytest

from overlay import limits
from overlay.aio.link_listener import KNOWN_SOURCES
from overlay.slots import Slots, source_of


def handshakes() -> Slots[str]:
    """As a listener of links counts them."""
    return Slots[str](
        limits.HANDSHAKES_AT_ONCE,
        limits.HANDSHAKES_PER_SOURCE,
        limits.HANDSHAKES_RESERVED,
        KNOWN_SOURCES,
    )


def test_strangers_cannot_take_the_reserve_of_known_sources():
    slots = handshakes()
    slots.welcome("known")
    taken = 0
    for source in range(100):
        for _ in range(limits.HANDSHAKES_PER_SOURCE + 1):
            taken += slots.enter(f"stranger {source}")
    assert taken == limits.HANDSHAKES_AT_ONCE - limits.HANDSHAKES_RESERVED
    mine = sum(slots.enter("known") for _ in range(100))
    assert mine == min(limits.HANDSHAKES_RESERVED, limits.HANDSHAKES_PER_SOURCE)
    assert slots.used == taken + mine == limits.HANDSHAKES_AT_ONCE
    slots.leave("stranger 0")
    assert not slots.enter("stranger 0")  # the known source has the reserve now
    slots.leave("known")
    slots.leave("stranger 0")
    assert slots.enter("known")


def test_one_source_cannot_take_all():
    slots = handshakes()
    assert sum(slots.enter("x") for _ in range(1000)) == limits.HANDSHAKES_PER_SOURCE
    assert slots.enter("y")


def test_who_found_no_slot_is_not_remembered():
    slots = Slots[str](total=0, per_key=1)
    for number in range(1000):
        assert not slots.enter(f"new {number}")
    assert not slots._used


def test_slots_are_counted_in_all_and_per_key():
    slots = Slots[str](total=3, per_key=2)
    assert slots.enter("a")
    assert slots.enter("a")
    assert not slots.enter("a")
    assert slots.enter("b")
    assert not slots.enter("c")
    slots.leave("a")
    assert slots.enter("c")
    assert slots.used == 3


def test_reserved_slots_are_for_those_who_logged_in_before():
    slots = Slots[str](total=4, per_key=4, reserved=2, remembered=1)
    slots.welcome("known")
    assert slots.enter("stranger")
    assert slots.enter("other")
    assert not slots.enter("third")
    assert slots.enter("known")
    assert slots.enter("known")
    assert not slots.enter("known")


def test_the_table_of_known_addresses_is_bounded():
    slots = Slots[str](total=1, per_key=1, reserved=1, remembered=100)
    slots.welcome("first")
    for number in range(100):
        slots.welcome(str(number))
    assert not slots.enter("first")
    assert slots.enter("5")


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("router-1", "router-1"),
    ],
)
def test_whom_limits_count(address: str, source: str):
    assert source_of(address) == source
