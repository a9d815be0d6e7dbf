"""What `nft` is told so that a table of ours is made, changed and removed. Pure."""

from collections.abc import Iterable, Iterator

from edge.machine.changes import NftChange

SLOW = 256
"""Elements that are taken out of sets with intervals, each in a time that grows with the set (measured: 0.7 ms of
10,000); for more the whole table is made anew."""


def filled(change: NftChange) -> str:
    """An old table of this name goes; the new one has its sets and what is in them, and no hook yet."""
    elements = "".join(f"{line}\n" for line in _each("add", change, change.elements))
    declared = f"table {change.family} {change.table} {{\n{change.sets}\n}}\n"
    return removed(change) + declared + elements


def hooked(change: NftChange) -> str:
    """The table meets packets from then on."""
    return f"table {change.family} {change.table} {{\n{change.rules}\n}}\n"


def removed(change: NftChange) -> str:
    """Declared first, so that deleting what is not there is no error."""
    name = f"{change.family} {change.table}"
    return f"table {name}\ndelete table {name}\n"


def altered(old: NftChange, new: NftChange) -> str | None:
    """What makes the one the other while it meets packets; None where that is not to be had by elements alone.

    It is one transaction: what is in both is in force all the time.
    """
    if (old.family, old.table, old.rules, old.sets) != (new.family, new.table, new.rules, new.sets):
        return None
    before, after = dict(old.elements), dict(new.elements)
    gone, come, slow = [], [], 0
    for name in before.keys() | after.keys():
        one, other = before.get(name, ()), after.get(name, ())
        if one == other:
            continue
        less, more = frozenset(one), frozenset(other)
        gone.append((name, tuple(less - more)))
        come.append((name, tuple(more - less)))
        if _intervals(old.sets, name):
            slow += len(less - more)
    if slow > SLOW:
        return None
    lines = (*_each("delete", new, gone), *_each("add", new, come))
    return "".join(f"{line}\n" for line in lines)


def _intervals(sets: str, name: str) -> bool:
    """Whether a set was declared with intervals."""
    return "flags interval" in sets.partition(f"set {name} {{")[2].partition("}")[0]


def _each(
    verb: str, change: NftChange, elements: Iterable[tuple[str, tuple[str, ...]]]
) -> Iterator[str]:
    for name, some in elements:
        if some:
            yield f"{verb} element {change.family} {change.table} {name} {{ {', '.join(some)} }}"
