"""What is read for many and kept until something changes."""

import asyncio

import pytest

from controller.actions.kept import Kept


class Store:
    """Something that is read, and changes."""

    def __init__(self) -> None:
        self.epoch = self.loads = 0
        self.fails = False
        self.kept = Kept(lambda: self.epoch, self._load)

    async def _load(self) -> int:
        self.loads += 1
        found = self.epoch
        await asyncio.sleep(0.01)
        if self.fails:
            raise OSError("away")
        return found


async def test_one_reads_for_all_until_something_changes():
    store = Store()
    assert await asyncio.gather(*(store.kept.get() for _ in range(9))) == [0] * 9
    assert await store.kept.get() == 0
    assert store.loads == 1
    store.epoch = 1
    assert await asyncio.gather(*(store.kept.get() for _ in range(9))) == [1] * 9
    assert store.loads == 2


async def test_who_asks_after_a_change_gets_nothing_that_was_read_before_it():
    store = Store()
    sooner = asyncio.ensure_future(store.kept.get())
    await asyncio.sleep(0)
    store.epoch = 1
    assert await store.kept.get() == 1
    assert await sooner in (0, 1)
    assert await store.kept.get() == 1
    assert store.loads == 2


async def test_what_failed_is_read_again():
    store = Store()
    store.fails = True
    with pytest.raises(OSError, match="away"):
        await store.kept.get()
    store.fails = False
    assert await store.kept.get() == 0
