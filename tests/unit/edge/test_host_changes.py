"""The journal of changes: whatever ends the edge, wherever it ends, everything is taken back (against a host in memory)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host_changes import (
    JOURNAL,
    AddressChange,
    Change,
    FileChange,
    HostChanges,
    HostError,
    NftChange,
    RouteChange,
    RuleChange,
    SettingChange,
)
from overlay.aio.shelf import DamagedError
from overlay.aio.system import System

CHANGES: tuple[Change, ...] = (
    AddressChange("ferrule0", "100.64.0.1/32"),
    RouteChange("100.64.0.0/10", "ferrule0"),
    RuleChange(4, 0x66, 1000, 100),
    NftChange("inet", "ferrule", "chain x { }"),
    SettingChange("/proc/sys/net/ipv4/ip_forward", "1", "0"),
    FileChange("/etc/resolv.conf", b"ours", b"theirs"),
)


class Crash(BaseException):
    """The process is gone."""


class FakeHost:
    """Remembers what is changed; crashes before or after the step that it is told."""

    def __init__(self) -> None:
        self.changed: list[Change] = []
        self.steps = 0
        self.crash_at = -1
        self.refuse: Change | None = None
        self.foreign: Change | None = None

    def _step(self) -> None:
        self.steps += 1
        if self.steps == self.crash_at:
            raise Crash

    async def prepared(self, change: Change) -> Change:
        return change

    async def do(self, change: Change) -> None:
        self._step()
        if change == self.refuse:
            raise HostError("it is refused")
        self.changed.append(change)
        self._step()

    async def undo(self, change: Change) -> bool:
        self._step()
        if change == self.refuse:
            raise HostError("it stays")
        if change in self.changed:
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


async def test_one_that_is_refused_takes_its_batch_back(tmp_path: Path):
    host = FakeHost()
    changes = await HostChanges.open(System(), tmp_path, host)
    await changes.apply(CHANGES[:1])
    host.refuse = CHANGES[3]
    with pytest.raises(HostError):
        await changes.apply(CHANGES[1:])
    assert host.changed == [CHANGES[0]]


async def test_what_cannot_be_taken_back_stays_in_the_journal(tmp_path: Path):
    host = FakeHost()
    changes = await HostChanges.open(System(), tmp_path, host)
    await changes.apply(CHANGES)
    host.refuse, host.foreign = CHANGES[0], CHANGES[5]
    await changes.undo()
    assert changes.made == CHANGES[:1]
    assert len(changes.left) == 2
    assert "somebody else" in changes.left[0]
    host.refuse = None
    again = await HostChanges.open(System(), tmp_path, host)
    await again.undo()
    assert host.changed == []


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
