"""The edge's control socket and the commands that use it, with real sockets and files."""

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from edge.local_control import AT_ONCE, REQUEST, SECONDS, SOCKET, LocalControl, NotRunningError, ask
from edge.program import _or_on_disk
from overlay.aio.state import KeptState
from overlay.aio.system import System
from overlay.errors import FerruleError
from overlay.identity.certificate import Role
from tests.support.pki import Pki

waiting: list[asyncio.Event] = []
"""Commands named `slow` wait for the last one."""


async def echo(command: str, reason: str) -> dict[str, str]:
    if command == "refuse":
        raise FerruleError("Not today.")
    if command == "slow":
        await waiting[-1].wait()
    return {"command": command, "reason": reason}


@pytest.fixture
async def directory(tmp_path: Path):
    control = LocalControl(tmp_path, echo)
    await control.start()
    yield tmp_path
    await control.close()
    assert not (tmp_path / SOCKET).exists()


async def test_a_command_is_answered_or_refused_with_a_sentence(directory: Path):
    assert await ask(directory, "kill", "smoke é") == {"command": "kill", "reason": "smoke é"}
    with pytest.raises(FerruleError, match=r"Not today\."):
        await ask(directory, "refuse")
    assert (directory / SOCKET).stat().st_mode & 0o777 == 0o600


async def test_what_is_no_command_is_answered_so_and_harms_nobody(directory: Path):
    for line in (
        b"",
        b"\n",
        b"[]\n",
        b'{"command": 1}\n',
        b"[" * 3000 + b"\n",
        b"\xff\n",
        b"x" * 10_000 + b"\n",
    ):
        reader, writer = await asyncio.open_unix_connection(str(directory / SOCKET))
        writer.write(line)
        writer.write_eof()
        answer = await reader.read()
        assert not answer or "error" in json.loads(answer)
        writer.close()
    assert (await ask(directory, "status"))["command"] == "status"


async def test_a_request_that_has_no_end_is_cut(directory: Path):
    reader, writer = await asyncio.open_unix_connection(directory / SOCKET)
    writer.write(b"x" * (3 * REQUEST))  # twice as much is read ahead
    async with asyncio.timeout(SECONDS / 2):
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
    writer.close()
    assert (await ask(directory, "status"))["command"] == "status"


async def test_commands_at_once_are_bounded(directory: Path):
    waiting.append(asyncio.Event())
    refused = []

    async def one() -> None:
        try:
            await ask(directory, "slow")
        except FerruleError as error:
            refused.append(str(error))
            if len(refused) == 8:
                waiting[-1].set()

    await asyncio.gather(*(one() for _ in range(AT_ONCE + 8)))
    assert len(refused) == 8
    assert all("too many" in text for text in refused)


async def test_a_command_under_way_is_done_and_answered_before_the_program_stops(tmp_path: Path):
    control = LocalControl(tmp_path, echo)
    await control.start()
    waiting.append(asyncio.Event())
    asked = asyncio.ensure_future(ask(tmp_path, "slow"))
    await asyncio.sleep(0.05)
    closing = asyncio.ensure_future(control.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    with pytest.raises(NotRunningError):
        await ask(tmp_path, "status")
    waiting[-1].set()
    await closing
    assert (await asked)["command"] == "slow"


async def test_a_command_that_is_said_while_the_program_stops_does_nothing(tmp_path: Path):
    control = LocalControl(tmp_path, echo)
    await control.start()
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET))
    await asyncio.sleep(0.05)
    await control.close()
    writer.write(b'{"command": "kill"}\n')
    assert "stopping" in json.loads(await reader.readline())["error"]
    writer.close()


async def test_a_folder_with_a_long_path_works_too(tmp_path: Path):
    deep = tmp_path / ("x" * 90) / ("y" * 60)
    deep.mkdir(parents=True)
    control = LocalControl(deep, echo)
    await control.start()
    assert (await ask(deep, "status"))["command"] == "status"
    await control.close()


async def test_what_a_crashed_program_left_is_replaced(tmp_path: Path):
    first: Any = LocalControl(tmp_path, echo)
    await first.start()
    first._server.close()  # the file stays
    with pytest.raises(NotRunningError):
        await ask(tmp_path, "status")
    second = LocalControl(tmp_path, echo)
    await second.start()
    assert (await ask(tmp_path, "status"))["command"] == "status"
    await second.close()


async def enrolled(directory: Path, role: Role = Role.EDGE) -> None:
    pki = Pki()
    state = await KeptState.open(System(), directory)
    newcomer = await state.newcomer(pki.anchor, ())
    await state.enrol(newcomer, pki.chain(newcomer.key.public, role, "edge-a"))
    await state.close()


async def test_the_switch_of_an_edge_that_is_stopped_is_pulled_on_disk(tmp_path: Path):
    directory = tmp_path / "edge"
    await enrolled(directory)
    found = await _or_on_disk(directory, "kill", "night shift")
    assert (found["state"], found["kill"]["reason"]) == ("stopped", "night shift")
    state: Any = await KeptState.open(System(), directory)
    assert state.local_kill.reason == "night shift"
    with pytest.raises(FerruleError, match="in use"):
        await _or_on_disk(directory, "kill", "")
    await state.close()
    assert (await _or_on_disk(directory, "restore", ""))["kill"] is None
    with pytest.raises(FerruleError, match="nothing to restore"):
        await _or_on_disk(directory, "restore", "")


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(NotRunningError, match="there is no such folder"):
        await ask(tmp_path / "typo", "status")
    with pytest.raises(NotRunningError, match=r"No edge is running in .*[^r]\.$"):
        await ask(tmp_path, "status")


async def test_a_folder_that_is_none_of_an_edge_is_left_alone(tmp_path: Path):
    with pytest.raises(FerruleError, match="not the folder of an edge"):
        await _or_on_disk(tmp_path / "missing", "kill", "")
    assert not (tmp_path / "missing").exists()
    await enrolled(tmp_path / "router", Role.ROUTER)
    with pytest.raises(FerruleError, match="not the folder of an enrolled edge"):
        await _or_on_disk(tmp_path / "router", "kill", "")
