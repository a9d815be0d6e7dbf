"""What does not work is done again and told once, however often it fails in the same way."""

import asyncio

from edge.keeping import keep
from overlay.aio.tasks import cancel, spawn
from overlay.errors import InputError
from tests.support.honest import until


async def test_a_failure_is_told_once_and_so_is_its_end():
    failures: list[Exception | None] = [
        InputError("no"),
        OSError(28, "full"),
        None,
        InputError("no"),
    ]
    tries = 0
    told: list[str] = []
    changed = asyncio.Event()

    async def once() -> None:
        nonlocal tries
        tries += 1
        error = failures[min(tries // 5, 3)]
        if error is not None:
            raise error

    task = spawn(keep(once, changed, 0.001, told.append), "keep")
    await until(lambda: tries > 25)
    assert told == ["no", "full.", "", "no"]
    await cancel(task)


async def test_a_change_does_not_wait():
    done: list[int] = []
    changed = asyncio.Event()

    async def once() -> None:
        done.append(1)

    task = spawn(keep(once, changed, 1000, lambda _: None), "keep")
    await until(lambda: len(done) == 1)
    changed.set()
    await until(lambda: len(done) == 2)
    await cancel(task)
