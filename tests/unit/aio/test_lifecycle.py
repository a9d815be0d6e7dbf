"""How programs end: exit codes, one sentence for people, five seconds; tasks that fail are seen; logs in two formats."""

import asyncio
import errno
import io
import json
import logging
import os
import signal
import subprocess
import sys

import pytest
import structlog

from overlay.aio import logs
from overlay.aio.lifecycle import DONE, FAILED, USAGE, UsageError, describe, run_program
from overlay.aio.tasks import cancel, spawn
from overlay.errors import FerruleError


@pytest.fixture(autouse=True)
def _logging_as_before():
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    yield
    structlog.reset_defaults()
    logging.getLogger().handlers[:] = handlers
    logging.getLogger().setLevel(level)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (None, DONE, ""),
        (FerruleError("The token is used up."), FAILED, "The token is used up.\n"),
        (UsageError("--dir is missing."), USAGE, "--dir is missing.\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x"),
            FAILED,
            "/x: No space left on device.\n",
        ),
    ],
)
def test_each_end_has_its_code_and_sentence(capsys, error, code, words):
    async def main(stop: asyncio.Event) -> None:
        if error is not None:
            raise error

    assert run_program(main) == code
    assert capsys.readouterr().err == words


def test_a_defect_is_one_sentence_with_its_place(capsys):
    logs.setup("text", stream=io.StringIO())

    async def main(stop: asyncio.Event) -> None:
        raise ZeroDivisionError

    assert run_program(main) == FAILED
    said = capsys.readouterr().err
    assert said.startswith("Internal error (ZeroDivisionError at test_lifecycle.py:")
    assert said.count("\n") == 1


def test_a_signal_stops_and_is_clean():
    async def main(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await stop.wait()

    assert run_program(main) == DONE


def test_a_second_signal_cuts_off_what_does_not_stop():
    async def main(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        await stop.wait()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    logs.setup("json", stream=io.StringIO())
    assert run_program(main) == FAILED


def test_what_does_not_stop_by_itself_is_cut_off_in_time(monkeypatch):
    monkeypatch.setattr("overlay.aio.lifecycle._FORCE_AFTER", 0.05)
    said = io.StringIO()
    logs.setup("json", stream=said)

    async def deaf() -> None:
        await asyncio.Event().wait()

    async def main(stop: asyncio.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await spawn(deaf(), "the deaf one", awaited=True)

    assert run_program(main) == FAILED
    (line,) = [json.loads(line) for line in said.getvalue().splitlines()]
    assert line["event"] == "program.forced"
    assert "the deaf one at test_lifecycle.py:" in line["waiting"]


def test_a_signal_after_the_end_does_not_replace_the_exit_code():
    program = (
        "import os, signal, asyncio\n"
        "from overlay.aio import command, lifecycle\n"
        "async def main(settings, stop): raise lifecycle.FerruleError('A file is damaged.')\n"
        "run = lifecycle.run_program\n"
        "def then_signalled(main):\n"
        "    code = run(main)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    return code\n"
        "command.run_program = then_signalled\n"
        "command.start({}, (), lambda settings: None, main)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stderr) == (FAILED, "A file is damaged.\n")


@pytest.mark.parametrize("code", [DONE, FAILED, USAGE])
def test_a_program_that_has_ended_does_not_take_the_interpreter_apart(code):
    """What a thread, a destructor or an exit handler would still do there cannot hold up the end."""
    program = (
        "import atexit, threading, time\n"
        "from overlay.aio.command import program\n"
        "@program('x', 'x run')\n"
        "def main(): pass\n"
        "@main.command()\n"
        "def run():\n"
        "    atexit.register(print, 'taken apart')\n"
        "    threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "    print('said', end='')\n"
        f"    raise SystemExit({code})\n"
        "main(['run'])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], check=False, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (code, "said", "")


def test_errors_of_the_system_in_words():
    assert (
        describe(OSError(errno.EADDRINUSE, "Address already in use")) == "Address already in use."
    )
    assert describe(TimeoutError()) == "TimeoutError."


async def test_a_failed_task_is_seen_and_a_cancelled_one_is_not():
    out = io.StringIO()
    logs.setup("json", stream=out)

    async def fail() -> None:
        raise ValueError("broken")

    async def wait() -> None:
        await asyncio.Event().wait()

    async def refuse() -> None:
        raise FerruleError("expected")

    failing, waiting = spawn(fail(), "failing"), spawn(wait(), "waiting")
    awaited = spawn(refuse(), "refused", awaited=True)
    defect = spawn(fail(), "defect", awaited=True)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await cancel(failing, waiting, awaited, defect, None)
    assert waiting.cancelled()
    entries = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(e["event"], e["task"]) for e in entries] == [
        ("task.failed", "failing"), ("task.failed", "defect")
    ]  # fmt: skip
    assert entries[0]["exception"][0]["exc_type"] == "ValueError"


async def test_spawned_tasks_are_not_lost_to_the_garbage_collector():
    import gc

    done: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.append(1)

    task = spawn(work(), "work")
    del task
    gc.collect()
    await asyncio.sleep(0.05)
    assert done == [1]


def test_text_is_for_people_and_has_no_traceback():
    out = io.StringIO()
    logs.setup("text", stream=out)
    try:
        raise KeyError("x")
    except KeyError as error:
        logs.get_logger("spool").error("spool.failed", path="/a b", count=3, exc_info=error)
    line = out.getvalue()
    assert line.count("\n") == 1
    assert " error   spool: spool.failed path='/a b' count=3 where=test_lifecycle.py:" in line


def test_json_is_one_object_a_line_also_from_libraries():
    out = io.StringIO()
    logs.setup("json", stream=out)
    logs.get_logger("link").info("link.up", peer="r1\nforged")
    logging.getLogger("asyncio").error("a library says %s", "this")
    logging.getLogger("asyncio").info("not this")
    first, second = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first["event"], first["part"], first["peer"]) == ("link.up", "link", "r1\nforged")
    assert (second["event"], second["level"]) == ("a library says this", "error")


def test_values_cannot_forge_lines_of_text():
    out = io.StringIO()
    logs.setup("text", stream=out)
    logs.get_logger("link").info("link.up", peer="r1\n2026 error all: is lost")
    assert out.getvalue().count("\n") == 1


def test_a_closed_stderr_disturbs_nobody():
    code = (
        "import sys, os; os.close(2)\n"
        "from overlay.aio import logs\n"
        "logs.setup('json'); logs.get_logger('x').info('hello'); print('alive')"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "alive\n"
