"""A set in the order of adding."""

from overlay.ordered import OrderedSet


def test_it_is_a_set_in_the_order_in_which_members_came():
    kept = OrderedSet(["b", "a", "b", "c"])
    kept.add("a")
    assert list(kept) == ["b", "a", "c"]
    assert "a" in kept
    kept.discard("b")
    kept.discard("nobody")
    kept.add("b")
    assert list(kept) == ["a", "c", "b"]
    assert len(kept) == 3
    assert set(kept) == {"a", "b", "c"}
    assert not OrderedSet[str]()
