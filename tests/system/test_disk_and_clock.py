"""Damaged files, a full disk, a wrong clock: said in words, nothing lost, nothing revived."""

import contextlib
import errno
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deploy.demo.plant import Plant, until
from tests.support.needs import missing, need_root
from tests.support.records import assert_whole, attempts, export, search, tally
from tests.support.traffic import AT_ONCE, Caller, assert_refused_at_once, reachable
from tests.support.words import last_sentence

pytestmark = pytest.mark.timeout(300)

FAKETIME = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


@pytest.fixture(autouse=True)
def _allowed(plant: Plant, port: int) -> None:
    """hmi-a may reach plc-b.echo for as long as this module runs."""
    if not plant.json("why", "hmi-a", "plc-b", "echo")["allowed"]:
        plant.ferrule("allow", "hmi-a", "plc-b", "echo")
        until(lambda: reachable(port), 5, "an allowed connection")


# --- damaged files -----------------------------------------------------------------------------------
RUNNING = re.compile(r"controller\.started|router\.listening|dial\.failed|enrol\.begin")
"""What a program's log says when it runs. It may still be reading then."""
MAY_BE_LOST = {"lock"}
"""Files without content of their own."""


@pytest.mark.parametrize("name", ["edge-a", "router-1", "controller"])
def test_a_damaged_file_is_named_or_made_again_and_never_a_traceback(
    plant: Plant, tmp_path: Path, name: str
):
    """Tried on copies of the folder, without a network: nothing of this reaches the plant."""
    need_root()
    plant.terminate(name)
    good = tmp_path / "good"
    shutil.copytree(plant.path(name), good)
    plant.start_again(name)
    files = [path.relative_to(good) for path in good.rglob("*") if path.is_file()]
    files = [path for path in files if (good / path).stat().st_size]
    assert len(files) > 2
    trials = [(path, how) for path in files for how in ("cut", "scrambled")]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda trial: _try(plant, name, good, *trial), trials)
        wrong = [problem for problem in found if problem]
    assert wrong == []
    plant.connected()


def _try(plant: Plant, name: str, good: Path, path: Path, how: str) -> str:
    """Start a program on a copy with one damaged file; what is wrong with how it takes that, or nothing.

    It may end with 1 and a sentence that names the file, or run on: then its log has to name the file.
    """
    folder = good.with_name(f"{name}-{path.name}-{how}")
    shutil.copytree(good, folder)
    content = (folder / path).read_bytes()
    damaged = {"cut": content[: len(content) // 2], "scrambled": content[::-1]}
    (folder / path).write_bytes(damaged[how])
    command = [word.replace(plant.path(name), str(folder)) for word in plant.started[name]]
    said = folder.with_name(f"{folder.name}.log")
    with said.open("w") as log:
        process = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "sh", *command],
            env=plant.environment,
            stdout=log,
            stderr=log,
        )

    def said_it() -> bool:
        text = said.read_text()
        return bool(RUNNING.search(text)) and (path.name in text or path.name in MAY_BE_LOST)

    with contextlib.suppress(TimeoutError):
        until(lambda: process.poll() is not None or said_it(), 10, "its word on it")
    process.terminate()
    process.wait(30)
    stderr = said.read_text()
    shutil.rmtree(folder)
    trial = f"{path} {how}: "
    if "Traceback" in stderr or "Internal error" in stderr:
        return f"{trial}{stderr[-300:]}"
    if process.returncode == 1 and path.name not in last_sentence(stderr):
        return f"{trial}does not name the file: {last_sentence(stderr)}"
    if process.returncode == 0 and path.name not in stderr and path.name not in MAY_BE_LOST:
        return f"{trial}runs on without a word"
    return "" if process.returncode in (0, 1) else f"{trial}exit {process.returncode}"


def test_a_damaged_local_kill_is_never_taken_for_none(plant: Plant, port: int):
    plant.run("ferrule-edge", "kill", "--dir", plant.path("edge-b"), "--reason", "fire")
    plant.terminate("edge-b")
    path = Path(plant.path("edge-b/kill"))
    good = path.read_bytes()
    path.write_bytes(good[:-3])
    result = plant.call(*_command(plant, "edge-b"), timeout=20)
    assert result.returncode == 1
    assert "kill" in last_sentence(result.stderr)
    path.write_bytes(good)
    plant.start_again("edge-b")
    plant.connected()
    assert_refused_at_once(port)
    plant.run("ferrule-edge", "restore", "--dir", plant.path("edge-b"))
    until(lambda: reachable(port), 5, "a connection after the restore")


def _command(plant: Plant, name: str) -> list[str]:
    program, *arguments = plant.started[name]
    return [Path(program).name, *arguments]


# --- a full disk -------------------------------------------------------------------------------------
@contextlib.contextmanager
def small_disk(plant: Plant, name: str, size: str) -> Iterator[Path]:
    """Restart a program with its folder on a file system of its own, and again where it was."""
    assert plant.terminate(name) == 0
    folder = Path(plant.path(name))
    aside = folder.with_name(f"{name}.aside")
    folder.rename(aside)
    folder.mkdir(mode=0o700)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)], check=True
    )
    shutil.copytree(aside, folder, dirs_exist_ok=True)
    plant.start_again(name)
    try:
        plant.connected()
        yield folder
    finally:
        if plant.programs[name].poll() is None:
            plant.terminate(name)
        shutil.rmtree(aside)
        shutil.copytree(folder, aside)
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()
        aside.rename(folder)
        plant.start_again(name)
        plant.connected()


def fill(folder: Path) -> Path:
    """Write until the disk is full."""
    path = folder / "ballast"
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
    return path


def test_an_edge_with_a_full_disk_says_so_keeps_running_and_loses_nothing(plant: Plant, port: int):
    need_root()
    with small_disk(plant, "edge-b", "2m") as folder:
        until(lambda: reachable(port), 10, "a connection")
        with Caller(port) as caller:
            caller.echo()
            ballast = fill(folder)
            time.sleep(1)
            assert caller.works(), "a running circuit"
            killed = plant.call(
                "ferrule-edge", "kill", "--dir", plant.path("edge-b"), "--reason", "full"
            )
            assert killed.returncode == 1, "it is in effect, but would not survive a restart"
            assert "space" in last_sentence(killed.stderr).lower()
            caller.closed_within(AT_ONCE)
        assert plant.local("edge-b")["kill"]["reason"] == "full"
        plant.run("ferrule-edge", "restore", "--dir", plant.path("edge-b"))
        for _ in range(40):  # events that cannot be written; what room a page has goes first
            reachable(port)
        until(
            lambda: "space" in plant.log("edge-b").lower(),
            10,
            "the log to say that the disk is full",
        )
        assert plant.programs["edge-b"].poll() is None
        ballast.unlink()
        until(lambda: reachable(port), 20, "a connection when there is room again")
        time.sleep(1)
        assert_whole(export(plant, "disk.jsonl"))
    assert "Traceback" not in plant.log("edge-b")


def test_a_controller_with_a_full_disk_refuses_writes_and_the_plant_goes_on(
    plant: Plant, port: int
):
    need_root()
    with small_disk(plant, "controller", "24m") as folder:
        ballast = fill(folder)
        until(lambda: _refused(plant), 20, "a write to be refused")
        said = last_sentence(plant.call("ferrule", "add", "zone", "full-zone").stderr)
        assert "full" in said.lower() or "space" in said.lower() or "written" in said.lower()
        assert reachable(port), "circuits go on"
        assert plant.programs["controller"].poll() is None
        ballast.unlink()
        until(lambda: plant.call("ferrule", "add", "zone", "roomy").returncode == 0, 30, "a write")
        names = {zone["name"] for zone in plant.json("ls", "zone")}
        assert "full-zone" not in names
        plant.ferrule("rm", "zone", "roomy")
        assert plant.json("audit", "verify")["ok"]
        before = tally(attempts(plant, "plc-b.echo", "allowed"))
        assert reachable(port)
        until(lambda: tally(attempts(plant, "plc-b.echo", "allowed")) > before, 20, "events again")
    assert_whole(export(plant, "controller-disk.jsonl"))
    assert "Traceback" not in plant.log("controller")


_tries = iter(range(1_000_000))


def _refused(plant: Plant) -> bool:
    name = f"try-{next(_tries)}"
    made = plant.call("ferrule", "add", "zone", name).returncode == 0
    if made:
        plant.call("ferrule", "rm", "zone", name)
    return not made


# --- a wrong clock -----------------------------------------------------------------------------------
@pytest.fixture
def faketime() -> str:
    """The library that changes a program's wall clock and leaves the clock since boot alone."""
    if not FAKETIME:
        missing("This test needs libfaketime: as root, run `apt-get install faketime`.")
    return str(FAKETIME[0])


def restart(plant: Plant, name: str, library: str = "", offset: str = "") -> None:
    """Restart a program, with a wall clock that is wrong by `offset` when one is given."""
    plant.terminate(name)
    honest = dict(plant.environment)
    if offset:
        plant.environment |= {
            "LD_PRELOAD": library,
            "FAKETIME": offset,
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
    plant.start_again(name)
    plant.environment.clear()
    plant.environment |= honest


@pytest.mark.parametrize(
    ("name", "offset"),
    [("edge-a", "-400d"), ("edge-a", "+400d"), ("edge-b", "+3h"), ("router-1", "-2d")],
)
def test_a_node_with_a_wrong_clock_works_says_so_and_keeps_plant_time(
    plant: Plant, port: int, faketime: str, name: str, offset: str
):
    seen = len(_clock_events(plant, name))
    restart(plant, name, faketime, offset)
    try:
        plant.connected()
        until(lambda: reachable(port), 10, "a connection")
        until(lambda: len(_clock_events(plant, name)) > seen, 15, "security.clock")
        noticed = max(int(str(each["seq"])) for each in _clock_events(plant, name))
        assert reachable(port)
        until(lambda: _times_after(plant, noticed), 15, "what happens from then on")
        now = datetime.now(UTC)
        for time in _times_after(plant, noticed):
            assert abs(now - time) < timedelta(minutes=10), "time of the plant, not of that clock"
    finally:
        restart(plant, name)
        plant.connected()


def _times_after(plant: Plant, seq: int) -> list[datetime]:
    """When circuits began, as the log has it behind a record."""
    found = [one for one in search(plant, limit=10_000) if one["event"] == "circuit.open"]
    return [datetime.fromisoformat(str(one["time"])) for one in found if one["seq"] > seq]


def _clock_events(plant: Plant, name: str) -> list[dict[str, object]]:
    found = search(plant, limit=10_000)
    return [each for each in found if each["event"] == "security.clock" and each["node"] == name]


def test_a_rewound_clock_revives_no_expired_conduit(plant: Plant, port: int, faketime: str):
    for conduit in plant.json("ls", "conduit"):
        plant.call("ferrule", "deny", conduit["id"])  # 1: another still allows it, for the moment
    assert plant.json("ls", "conduit") == []
    plant.ferrule("allow", "hmi-a", "plc-b", "echo", "--for", "8s")
    until(lambda: reachable(port), 5, "an allowed connection")
    plant.kill("controller")
    until(lambda: not reachable(port), 12, "the end of the conduit, with nobody to tell it")
    try:
        for name in ("edge-a", "edge-b", "router-1"):
            restart(plant, name, faketime, "-1h")
        until(lambda: plant.routers_of("edge-a"), 10, "edge-a to dial again")
        time.sleep(1)
        assert_refused_at_once(port)
    finally:
        for name in ("edge-a", "edge-b", "router-1"):
            restart(plant, name)
        plant.start_again("controller")
    plant.connected()
    assert_refused_at_once(port)
