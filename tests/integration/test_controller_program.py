"""`ferrule-controller` from its options to its end, in this process and as a process of its own."""

import asyncio
import gc
import json
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.founding import found
from controller.program import main, read_password, serve
from deploy.demo.ports import free_port
from overlay.aio.lifecycle import UsageError
from overlay.aio.system import System
from overlay.errors import FerruleError
from tests.support.controllers import PASSWORD

COMMAND = [sys.executable, "-m", "controller"]


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    await found(System(), tmp_path / "c", "mill", "ada", PASSWORD)
    return tmp_path / "c"


async def answers(port: int, tls: ssl.SSLContext) -> bool:
    """Whether the API accepts a connection that trusts the plant's root only."""
    try:
        _, writer = await asyncio.open_connection("localhost", port, ssl=tls)
    except ConnectionRefusedError:
        return False
    writer.close()
    return True


async def test_it_serves_until_it_is_told_to_stop(folder: Path):
    stop, port = asyncio.Event(), free_port()
    running = asyncio.ensure_future(serve(System(), folder, "127.0.0.1", port, stop))
    tls = ssl.create_default_context(cafile=str(folder / "api-ca.pem"))
    async with asyncio.timeout(40):
        while not await answers(port, tls):  # noqa: ASYNC110 - nothing says when it listens
            await asyncio.sleep(0.05)
    stop.set()
    async with asyncio.timeout(20):
        await running
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.name.startswith("store"), path
    gc.collect()  # cursors of queries that were cancelled keep SQLite's own files until then
    assert not list(folder.glob("store.sqlite-*")), "the store was closed"


async def test_a_port_in_use_is_said_and_nothing_keeps_running(folder: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(FerruleError, match=f"127.0.0.1:{port}.*--api"):
            await serve(System(), folder, "127.0.0.1", port, asyncio.Event())
    stop = asyncio.Event()
    stop.set()
    await serve(System(), folder, "127.0.0.1", free_port(), stop)  # the lock was given back


async def test_a_folder_is_locked_against_a_second_program(folder: Path):
    release = System().disk.lock(folder)
    with pytest.raises(FerruleError, match=str(folder)):
        await serve(System(), folder, "127.0.0.1", free_port(), asyncio.Event())
    release()


async def test_a_folder_that_is_none_stays_none(tmp_path: Path):
    with pytest.raises(FerruleError, match="ferrule-controller init"):
        await serve(System(), tmp_path / "c", "127.0.0.1", free_port(), asyncio.Event())
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("content", "error"),
    [(None, "does not exist"), (b"\xff\xfe", "not text"), (b"x" * 5000, "larger")],
)
async def test_a_password_file_that_cannot_be_used(
    tmp_path: Path, content: bytes | None, error: str
):
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=error):
        await read_password(System(), path)


async def test_a_password_is_the_first_line(tmp_path: Path):
    (tmp_path / "password").write_text("  with spaces \r\nsecond line\n")
    assert await read_password(System(), tmp_path / "password") == "  with spaces "


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("init", "--dir"),
        ("init --dir x --plant mill --admin ada", "--admin-password-file"),
        ("run", "--dir"),
        ("run --dir x --api nonsense", "nonsense"),
        ("run --dir x --api 1.2.3.4:99999", "99999"),
        ("run --dir x --config nowhere.toml", "nowhere.toml"),
        ("run --dir x --log-format loud", "loud"),
        ("run --dir x --colour red", "--colour"),
        ("nonsense", "nonsense"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_2(words: str, named: str):
    result = CliRunner().invoke(main, words.split())
    assert result.exit_code == 2
    assert named in result.stderr.splitlines()[-1]


def test_a_configuration_file_replaces_options(tmp_path: Path):
    config = tmp_path / "controller.toml"
    config.write_text('dir = "x"\nport = "1"\n')
    result = CliRunner().invoke(main, ["run", "--config", str(config)])
    assert (result.exit_code, "'port'" in result.stderr) == (2, True)


def test_as_a_process_of_its_own(tmp_path: Path):
    """Made from a configuration file, logs for machines, SIGTERM, the exit codes."""
    (tmp_path / "password").write_text(PASSWORD + "\n")
    config = tmp_path / "init.toml"
    config.write_text(
        f'dir = "{tmp_path / "c"}"\nplant = "mill"\nadmin = "ada"\n'
        f'admin-password-file = "{tmp_path / "password"}"\ntime-zone = "Europe/Berlin"\n'
    )
    made = subprocess.run(
        [*COMMAND, "init", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert "mill" in made.stdout
    again = subprocess.run(
        [*COMMAND, "init", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    process = subprocess.Popen(
        [*COMMAND, "run", "--dir", str(tmp_path / "c"), "--api", f"127.0.0.1:{free_port()}", "--log-format", "json"],
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if json.loads(line)["event"] == "controller.started":
            break
    assert stat.S_IMODE(os.stat(tmp_path / "c/store.sqlite").st_mode) == 0o600
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=40)[1]
    assert process.returncode == 0, f"it was still at work when its time was over: {rest}"
    assert all(json.loads(line) for line in rest.splitlines())
