"""The journal of changes: whatever ends the edge, wherever it ends, everything is taken back (against a host in memory)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edge.machine import nft
from edge.machine.changes import (
    JOURNAL,
    MAX_LEFT,
    AddressChange,
    Change,
    FileChange,
    HostChanges,
    HostError,
    NftChange,
    RouteChange,
    RuleChange,
)
from overlay.aio.shelf import DamagedError
from overlay.aio.system import System

CHANGES: tuple[Change, ...] = (
    AddressChange("ferrule0", "100.64.0.1/32"),
    RouteChange("100.64.0.0/10", "ferrule0"),
    RuleChange(4, 0x66, 1000, 100),
    NftChange("inet", "ferrule", "chain x { }"),
    FileChange("/etc/resolv.conf", b"ours", b"theirs"),
)


class Crash(BaseException):
    """The process is gone."""


class FakeHost:
    """Remembers what is changed; crashes before or after the step that it is told.

    `theirs` are those that an administrator has made: only who is sure to have made one takes that back.
    """

    def __init__(self) -> None:
        self.changed: list[Change] = []
        self.theirs: list[Change] = []
        self.steps = 0
        self.crash_at = -1
        self.refuse: Change | None = None
        self.foreign: Change | None = None

    def _step(self) -> None:
        self.steps += 1
        if 0 < self.crash_at <= self.steps:  # whoever is dead does nothing more
            raise Crash

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        yield

    async def prepared(self, change: Change) -> Change:
        return change

    async def do(self, change: Change) -> None:
        self._step()
        if change == self.refuse:
            raise HostError("it is refused")
        self.changed.append(change)
        self._step()

    async def alter(self, old: NftChange, new: NftChange) -> bool:
        if new == self.refuse:
            raise HostError("it is as it was")
        if nft.altered(old, new) is None:
            return False
        self.changed[self.changed.index(old)] = new
        return True

    async def renew(self, change: Change) -> bool:
        if change in self.changed or isinstance(change, FileChange):
            return False
        await self.do(change)
        return True

    async def undo(self, change: Change, *, sure: bool) -> bool:
        self._step()
        if change == self.refuse:
            raise HostError("it stays")
        if change in self.theirs:
            if sure:
                self.theirs.remove(change)
        elif change in self.changed:
            self.changed.remove(change)
        self._step()
        return change != self.foreign


async def test_what_is_applied_is_taken_back_newest_first(tmp_path: Path):
    host = FakeHost()
    changes = await HostChanges.open(System(), tmp_path, host)
    await changes.apply(CHANGES[:3])
    await changes.apply(CHANGES[3:])
    assert tuple(host.changed) == changes.made == CHANGES
    await changes.undo(CHANGES[1:2])
    assert changes.made == CHANGES[:1] + CHANGES[2:]
    await changes.undo()
    assert host.changed == []
    assert changes.left == []
    assert not (tmp_path / JOURNAL).exists()


@given(crash=st.integers(1, 30))
async def test_a_crash_at_any_step_leaves_nothing_behind(
    tmp_path_factory: pytest.TempPathFactory, crash: int
):
    directory = tmp_path_factory.mktemp("edge")
    host = FakeHost()
    host.crash_at = crash
    try:
        changes = await HostChanges.open(System(), directory, host)
        await changes.apply(CHANGES[:4])
        await changes.apply(CHANGES[4:])
        await changes.undo()
    except Crash:
        pass
    host.crash_at = -1
    later = await HostChanges.open(System(), directory, host)
    assert set(host.changed) <= set(later.made)  # the journal was there before the change
    await later.undo()
    assert host.changed == []
    assert not (directory / JOURNAL).exists()


@given(crash=st.integers(1, 8))
async def test_what_was_never_made_is_not_taken_from_an_administrator_who_has_it(
    tmp_path_factory: pytest.TempPathFactory, crash: int
):
    """The journal names all of a batch before the first is made: which were is not known after a crash among them."""
    directory = tmp_path_factory.mktemp("edge")
    host = FakeHost()
    host.crash_at = crash
    changes = await HostChanges.open(System(), directory, host)
    with contextlib.suppress(Crash):
        await changes.apply(CHANGES[:4])
    host.crash_at = -1
    theirs = [one for one in CHANGES[:4] if one not in host.changed]
    host.theirs = list(theirs)
    later = await HostChanges.open(System(), directory, host)
    assert set(later.made) >= set(host.changed)
    await later.undo()
    assert (host.changed, host.theirs) == ([], theirs)


async def test_what_is_known_to_be_made_stays_known_when_a_later_batch_is_broken_off(
    tmp_path: Path,
):
    host = FakeHost()
    changes = await HostChanges.open(System(), tmp_path, host)
    await changes.apply(CHANGES[:2])
    host.crash_at = host.steps + 1
    with pytest.raises(Crash):
        await changes.apply(CHANGES[2:4])
    host.crash_at = -1
    host.theirs, host.changed = [CHANGES[0], CHANGES[3]], [CHANGES[1]]
    later = await HostChanges.open(System(), tmp_path, host)
    await later.undo()
    assert (host.changed, host.theirs) == ([], [CHANGES[3]])


async def test_what_somebody_removed_is_made_again(tmp_path: Path):
    host = FakeHost()
    changes = await HostChanges.open(System(), tmp_path, host)
    await changes.apply(CHANGES)
    assert await changes.put_back() == []
    host.changed.clear()
    assert tuple(await changes.put_back()) == CHANGES[:4], "files are left to those who write them"
    assert tuple(host.changed) == CHANGES[:4]
    host.changed.clear()
    host.refuse = CHANGES[1]
    with pytest.raises(HostError):
        await changes.put_back()
    assert host.changed == [CHANGES[0], *CHANGES[2:4]], "one does not keep others from it"
    await changes.undo()
    host.refuse = None
    assert changes.made == (CHANGES[1],)
    assert await changes.put_back() == [], "what could not be taken back is not wanted again"
    assert host.changed == []


async def test_the_same_is_not_made_twice(tmp_path: Path):
    host = FakeHost()
    changes = await HostChanges.open(System(), tmp_path, host)
    await changes.apply(CHANGES)
    with pytest.raises(HostError, match="File exists"):
        await changes.apply(CHANGES[1:2])
    assert changes.made == tuple(host.changed) == CHANGES


async def test_more_changes_than_the_journal_holds_are_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """An edge that could not read its journal would not start again."""
    monkeypatch.setattr("edge.machine.changes.MAX_CHANGES", 2)
    host = FakeHost()
    changes = await HostChanges.open(System(), tmp_path, host)
    await changes.apply(CHANGES[:2])
    with pytest.raises(HostError, match="more than 2 changes"):
        await changes.apply(CHANGES[2:3])
    assert changes.made == tuple(host.changed) == CHANGES[:2]
    await changes.undo()
    assert host.changed == []


async def test_one_that_is_refused_takes_its_batch_back(tmp_path: Path):
    host = FakeHost()
    changes = await HostChanges.open(System(), tmp_path, host)
    await changes.apply(CHANGES[:1])
    host.refuse = CHANGES[3]
    with pytest.raises(HostError):
        await changes.apply(CHANGES[1:])
    assert host.changed == [CHANGES[0]]


def table_with(*elements: str, intervals: bool = False) -> NftChange:
    flags = "flags interval " if intervals else ""
    sets = f"set a {{ type ipv4_addr {flags}}} set b {{ type ipv4_addr flags interval }}"
    return NftChange("inet", "ferrule", "chain x { }", sets, (("a", elements),))


async def test_a_table_is_altered_in_its_place_and_the_journal_need_not_know(tmp_path: Path):
    host = FakeHost()
    changes = await HostChanges.open(System(), tmp_path, host)
    old, new = table_with("10.0.0.1"), table_with("10.0.0.1", "10.0.0.2")
    await changes.apply([CHANGES[0], old, CHANGES[1]])
    kept = (tmp_path / JOURNAL).read_bytes()
    assert b"10.0.0.1" not in kept
    assert await changes.alter(old, new)
    assert changes.made == (CHANGES[0], new, CHANGES[1])
    assert not await changes.alter(old, new), "it is not there"
    host.refuse = old
    with pytest.raises(HostError):
        await changes.alter(new, old)
    assert changes.made == (CHANGES[0], new, CHANGES[1])
    host.refuse = None
    assert (tmp_path / JOURNAL).read_bytes() == kept
    host.changed.clear()
    await changes.put_back()
    assert new in host.changed, "with what was in it"
    await changes.undo()
    assert host.changed == []


def test_only_what_is_other_in_the_sets_is_told():
    old, new = table_with("10.0.0.1", "10.0.0.2"), table_with("10.0.0.2", "10.0.0.3")
    assert nft.altered(old, new) == (
        "delete element inet ferrule a { 10.0.0.1 }\nadd element inet ferrule a { 10.0.0.3 }\n"
    )
    assert nft.altered(old, table_with("10.0.0.2", "10.0.0.1")) == ""
    assert nft.altered(old, replace(new, rules="chain y { }")) is None
    assert nft.altered(old, replace(new, table="ferrule_b")) is None
    many = tuple(f"10.1.{n // 250}.{n % 250}" for n in range(nft.SLOW + 1))
    assert nft.altered(table_with(*many), table_with()) is not None
    assert nft.altered(table_with(*many, intervals=True), table_with(intervals=True)) is None
    assert nft.altered(table_with(intervals=True), table_with(*many, intervals=True)) is not None


async def test_what_cannot_be_taken_back_stays_in_the_journal(tmp_path: Path):
    host = FakeHost()
    changes = await HostChanges.open(System(), tmp_path, host)
    await changes.apply(CHANGES)
    host.refuse, host.foreign = CHANGES[0], CHANGES[4]
    await changes.undo()
    assert changes.made == CHANGES[:1]
    assert len(changes.left) == 2
    assert "somebody else's" in changes.left[0]
    host.refuse = None
    again = await HostChanges.open(System(), tmp_path, host)
    await again.undo()
    assert host.changed == []


async def test_what_is_left_is_said_once_up_to_a_limit_and_no_more_when_it_is_gone(tmp_path: Path):
    host = FakeHost()
    changes = await HostChanges.open(System(), tmp_path, host)
    for turn in range(3):  # as a file that others write again and again
        host.foreign = FileChange("/etc/resolv.conf", b"ours %d" % turn)
        await changes.apply([host.foreign])
        await changes.undo()
        assert len(changes.left) == 1
    for number in range(MAX_LEFT):
        host.foreign = AddressChange("ferrule0", f"100.64.1.{number}/32")
        await changes.apply([host.foreign])
        await changes.undo()
        assert len(changes.left) == min(number + 2, MAX_LEFT)
    assert "resolv.conf" not in " ".join(changes.left), "the oldest goes"
    last, host.foreign = host.foreign, None
    assert last is not None
    await changes.apply([last])
    await changes.undo()
    assert len(changes.left) == MAX_LEFT - 1
    assert str(last) not in " ".join(changes.left)


async def test_a_damaged_journal_says_what_to_do(tmp_path: Path):
    (tmp_path / JOURNAL).write_bytes(b"\x00" * 100)
    with pytest.raises(DamagedError, match="is damaged"):
        await HostChanges.open(System(), tmp_path, FakeHost())


async def test_nothing_is_changed_when_the_journal_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    host, world = FakeHost(), System()
    changes = await HostChanges.open(world, tmp_path, host)

    async def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(world.disk), "replace", full)
    with pytest.raises(OSError, match="No space"):
        await changes.apply(CHANGES)
    assert host.changed == []
    assert changes.made == ()
