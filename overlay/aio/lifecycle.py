"""How a program runs: event loop, signals, the five seconds to stop in, exit codes, errors in one sentence."""

import asyncio
import gc
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from overlay.aio.logs import get_logger, place_of
from overlay.errors import FerruleError

DONE = 0
FAILED = 1
USAGE = 2
STOP_SECONDS = 5.0
"""From the signal to the end of the process, drain included (the contract of the programs)."""
_FORCE_AFTER = STOP_SECONDS - 1.0
_NAMED = 16
"""Tasks that the log names when a program was cut off."""

_COLLECT_AFTER = 20_000
"""New objects after which cyclic garbage is looked for; Python's own 700 are a twentieth of what an opening costs."""

Main = Callable[[asyncio.Event], Awaitable[None]]

_log = get_logger("lifecycle")


class UsageError(FerruleError):
    """Options that do not fit together: exit code 2."""


def run_program(main: Main) -> int:
    """Run `main(stop)` on a fresh event loop until it returns; gives the exit code.

    SIGTERM and SIGINT set `stop`; `main` then has four seconds to return before it is cancelled.
    A second signal cancels at once. Errors that Ferrule or the system raises become one sentence on stderr.
    """
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_supervise(main))
    except UsageError as error:
        return _say(str(error), USAGE)
    except FerruleError as error:
        return _say(str(error), FAILED)
    except OSError as error:
        return _say(describe(error), FAILED)
    except (KeyboardInterrupt, asyncio.CancelledError):
        return _say("Stopped before it was ready.", FAILED)
    except Exception as error:  # noqa: BLE001 - the last resort: people never get a traceback
        _log.critical("program.failed", error=repr(error), exc_info=error)
        return _say(
            f"Internal error ({type(error).__name__} at {place_of(error)}); please report it.",
            FAILED,
        )


def spare_modules() -> None:
    """The garbage collector looks no more at what there is now: modules, which live as long as the program."""
    gc.freeze()


def collect_rarely() -> None:
    """For edges and routers: `spare_modules`, and let the garbage collector look less often.

    Not for the controller: a write that was cancelled may keep its lock on SQLite until its connection is collected.
    """
    spare_modules()
    gc.set_threshold(_COLLECT_AFTER)


async def _supervise(main: Main) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    supervisor = asyncio.current_task()
    task = asyncio.ensure_future(main(stop))  # noqa: TID251 - awaited right here
    forced = False

    def force() -> None:
        nonlocal forced
        forced = True
        left = sorted(_where(one) for one in asyncio.all_tasks() - {supervisor})
        _log.warning(
            "program.forced",
            text="It did not stop by itself in time and was cut off.",
            waiting=", ".join(left[:_NAMED]),
        )
        task.cancel()

    def signalled() -> None:
        if stop.is_set():
            force()
        else:
            stop.set()
            loop.call_later(_FORCE_AFTER, force)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signalled)
    try:
        await task
    except asyncio.CancelledError:
        if not forced:
            raise
        return FAILED
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    return DONE


def _where(task: "asyncio.Task[Any]") -> str:
    """A task that is still there, and the place in our code where it waits."""
    awaited: Any = task.get_coro()
    place = ""
    while (code := getattr(awaited, "cr_code", None)) is not None:
        frame = awaited.cr_frame
        if frame is not None and "/lib/python" not in code.co_filename:
            place = f" at {Path(code.co_filename).name}:{frame.f_lineno}"
        awaited = awaited.cr_await
    return task.get_name() + place


def describe(error: OSError) -> str:
    """An operating system's error as one sentence that names the file where there is one."""
    text = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {text}." if error.filename else f"{text}."


def _say(sentence: str, code: int) -> int:
    print(sentence, file=sys.stderr, flush=True)  # noqa: T201 - this is the program's answer
    return code
