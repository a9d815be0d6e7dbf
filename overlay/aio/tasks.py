"""The only place that starts tasks: each has a name, a strong reference, and a failure that is seen."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from overlay.aio.logs import get_logger
from overlay.errors import FerruleError

T = TypeVar("T")

_running: set[asyncio.Task[Any]] = set()
_log = get_logger("tasks")


def spawn(
    coroutine: Coroutine[Any, Any, T], name: str, *, awaited: bool = False
) -> asyncio.Task[T]:
    """Run `coroutine` as a task of the running loop; the loop alone would hold it only weakly.

    A failure is logged as `task.failed`, unless `awaited` says that somebody waits for the task and
    deals with errors of Ferrule and of the system. Cancelling is not a failure.
    """
    task = asyncio.create_task(coroutine, name=name)
    _running.add(task)
    task.add_done_callback(_finished_awaited if awaited else _finished)
    return task


def _finished(task: asyncio.Task[Any]) -> None:
    _running.discard(task)
    if task.cancelled():
        return
    error = task.exception()
    if error is not None:
        _log.error("task.failed", task=task.get_name(), error=repr(error), exc_info=error)


def _finished_awaited(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and isinstance(task.exception(), FerruleError | OSError):
        _running.discard(task)
    else:
        _finished(task)


async def cancel(*tasks: "asyncio.Task[Any] | None") -> None:
    """Cancel tasks and wait until they are gone; None and finished ones are skipped.

    Returns normally whatever the tasks raise (`spawn` has logged it). When the caller itself is
    cancelled meanwhile, that is passed on.
    """
    waiting = [task for task in tasks if task is not None and not task.done()]
    for task in waiting:
        task.cancel()
    if waiting:
        await asyncio.wait(waiting)


async def finish(coroutine: Coroutine[Any, Any, T], name: str) -> T:
    """The result of what must not stop half way: when the caller is cancelled, that is passed on only after the end.

    Raises:
        CancelledError: the caller was cancelled; `coroutine` has ended all the same.
    """
    task = spawn(coroutine, name, awaited=True)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()
