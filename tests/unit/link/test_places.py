"""How many handshakes may be under way (L-04)."""

from overlay import limits
from overlay.link.places import KNOWN_SOURCES, Places


def test_places_are_bounded_per_source_and_in_all_with_a_reserve_for_known_sources():
    places = Places()
    assert places.enter("known")
    places.leave("known", authenticated=True)
    taken = 0
    for source in range(100):
        for _ in range(limits.HANDSHAKES_PER_SOURCE + 1):
            taken += places.enter(f"stranger {source}")
    assert taken == limits.HANDSHAKES_AT_ONCE - limits.HANDSHAKES_RESERVED
    mine = sum(places.enter("known") for _ in range(100))
    assert mine == min(limits.HANDSHAKES_RESERVED, limits.HANDSHAKES_PER_SOURCE)
    assert places.taken == taken + mine == limits.HANDSHAKES_AT_ONCE
    places.leave("stranger 0", authenticated=False)
    assert not places.enter("stranger 0")  # the known source has the reserve now
    places.leave("known", authenticated=True)
    places.leave("stranger 0", authenticated=False)
    assert places.enter("known")


def test_one_source_cannot_take_all():
    places = Places()
    assert sum(places.enter("x") for _ in range(1000)) == limits.HANDSHAKES_PER_SOURCE
    assert places.enter("y")


def test_what_is_remembered_is_bounded():
    places = Places()
    for number in range(KNOWN_SOURCES + 10):
        assert places.enter(str(number))
        places.leave(str(number), authenticated=True)
    assert len(places._known) == KNOWN_SOURCES
    assert not places._by_source
    for number in range(1000):
        places._by_source.clear()
        places.taken = places._at_once
        assert not places.enter(f"new {number}")
    assert not places._by_source
