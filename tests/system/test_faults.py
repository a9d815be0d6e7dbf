"""Ports in use, folders in use, tokens that do not hold, routers that die, SIGTERM: said in words, nothing lost."""

import os
import socket
import stat
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from deploy.demo.plant import Plant, listening, until
from deploy.demo.ports import free_port
from overlay.identity.enrolment import Token
from tests.support.census import none_alive, tree
from tests.support.records import assert_whole, export
from tests.support.seen import live
from tests.support.traffic import Caller, Echo, assert_refused_at_once, reachable
from tests.support.words import last_sentence, sentence

pytestmark = pytest.mark.timeout(300)


def run(plant: Plant, program: str, folder: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a program that is expected to end by itself."""
    return plant.call(f"ferrule-{program}", "run", "--dir", folder, *options, timeout=120)


def allowed(plant: Plant, port: int) -> None:
    """Let hmi-a reach plc-b.echo."""
    plant.ferrule("allow", "hmi-a", "plc-b", "echo")
    until(lambda: reachable(port), 5, "an allowed connection")


# --- in use ------------------------------------------------------------------------------------------
def test_a_router_and_a_controller_whose_port_is_taken_say_so_and_end(plant: Plant):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        plant.terminate("controller")
        result = run(plant, "controller", plant.path("controller"), "--api", f"127.0.0.1:{port}")
        plant.start_again("controller")
        assert result.returncode == 1
        assert str(port) in last_sentence(result.stderr)
        plant.terminate("router-1")
        result = run(plant, "router", plant.path("router-1"), "--listen", f"127.0.0.1:{port}")
        plant.start_again("router-1")
        assert result.returncode == 1
        assert str(port) in last_sentence(result.stderr)
    plant.connected()


def test_an_edge_whose_listener_port_is_taken_goes_on_and_binds_it_when_it_is_free(
    calm: Plant, port: int
):
    allowed(calm, port)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        listen = taken.getsockname()[1]
        calm.ferrule(
            "add", "listener", "edge-a", "plc-b.echo", "--listen", f"127.0.0.1:{listen}", "--as", "hmi-a"
        )  # fmt: skip
        until(lambda: str(listen) in calm.log("edge-a"), 5, "the log to name the port")
        assert reachable(port), "its other listeners"
    until(lambda: reachable(listen), 35, "the listener after the port became free")


@pytest.mark.parametrize("name", ["controller", "router-1", "edge-a"])
def test_a_second_program_on_the_same_folder_is_refused(plant: Plant, name: str):
    program = name.split("-", maxsplit=1)[0]
    options = {
        "controller": ["--api", f"127.0.0.1:{free_port()}"],
        "router": ["--listen", f"127.0.0.1:{free_port()}"],
        "edge": [],
    }[program]
    result = run(plant, program, plant.path(name), *options)
    assert result.returncode == 1
    assert plant.path(name) in last_sentence(result.stderr)
    assert plant.programs[name].poll() is None
    plant.connected()


def test_init_does_not_touch_a_controller_that_exists(plant: Plant):
    before = {path: path.read_bytes() for path in Path(plant.path("controller")).glob("*.pem")}
    result = plant.call(
        "ferrule-controller", "init", "--dir", plant.path("controller"), "--plant", "other",
        "--admin", "eve", "--admin-password-file", plant.path("password"),
    )  # fmt: skip
    assert result.returncode == 1
    assert plant.path("controller") in last_sentence(result.stderr)
    assert {path: path.read_bytes() for path in before} == before
    assert plant.json("status")["plant"] == "mill"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ("--plant UNDER_SCORE --admin ada --admin-password-file {password}", "under_score"),
        ("--plant mill --admin a_b --admin-password-file {password}", "a_b"),
        ("--plant mill --admin ada --admin-password-file {none}", "none"),
        ("--plant mill --admin ada --admin-password-file {short}", "password"),
        ("--plant mill --admin ada", "--admin-password-file"),
        ("--plant mill --admin ada --admin-password-file {password} --store nonsense://", "nonsense"),
    ],
)  # fmt: skip
def test_init_with_something_wrong_makes_nothing(
    plant: Plant, tmp_path: Path, options: str, named: str
):
    (tmp_path / "short").write_text("x\n")
    places = {
        "password": plant.path("password"),
        "none": tmp_path / "none",
        "short": tmp_path / "short",
    }
    folder = tmp_path / "controller"
    words = [word.format(**places) for word in options.split()]
    result = plant.call("ferrule-controller", "init", "--dir", str(folder), *words)
    assert result.returncode in (1, 2)
    assert named in sentence(result.stderr).lower()
    assert not folder.exists()


@pytest.mark.parametrize("program", ["controller", "router", "edge"])
def test_a_folder_that_was_never_set_up_is_said(plant: Plant, tmp_path: Path, program: str):
    options = ["--listen", f"127.0.0.1:{free_port()}"] if program == "router" else []
    result = run(plant, program, str(tmp_path / "new"), *options)
    assert result.returncode in (1, 2)
    said = last_sentence(result.stderr)
    assert ("init" if program == "controller" else "--token") in said


# --- tokens ------------------------------------------------------------------------------------------
def test_a_token_works_once_and_its_second_use_is_refused(plant: Plant):
    result = run(plant, "edge", plant.path("thief"), "--token", plant.path("edge-a.token"))
    assert result.returncode == 1
    assert "token" in last_sentence(result.stderr).lower()
    plant.connected()


def test_an_enrolled_node_ignores_its_token(plant: Plant):
    Path(plant.path("edge-a.token")).unlink()
    plant.terminate("edge-a")
    plant.start_again("edge-a")
    plant.connected()


def _token(plant: Plant, name: str) -> Token:
    path = Path(plant.path(f"{name}.token"))
    if not path.exists():
        plant.ferrule("add", "edge", name, "--token-out", str(path))
    return Token.parse(path.read_text())


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ("missing", "token"),
        ("empty", "token"),
        ("words", "token"),
        ("binary", "token"),
        ("cut", "token"),
        ("for a router", "router"),
        ("another secret", "token"),
    ],
)
def test_a_token_that_does_not_hold_is_refused_in_words(
    plant: Plant, tmp_path: Path, how: str, named: str
):
    good = _token(plant, "edge-t")
    text = good.encode()
    changed: dict[str, bytes] = {
        "empty": b"",
        "words": b"please let me in\n",
        "binary": bytes(range(256)),
        "cut": text[: len(text) // 2].encode(),
        "for a router": Path(plant.path("router-1.token")).read_bytes(),
        "another secret": _changed(good, secret=bytes(32)).encode().encode(),
    }
    path = tmp_path / "token"
    if how != "missing":
        path.write_bytes(changed[how])
    folder = tmp_path / "edge"
    result = run(plant, "edge", str(folder), "--token", str(path))
    assert result.returncode in (1, 2)
    assert named in last_sentence(result.stderr).lower()
    assert not (folder / "identity.pem").exists()
    states = {edge["name"]: edge["state"] for edge in plant.json("status")["edges"]}
    assert states["edge-t"] == "waiting"


def _changed(token: Token, **fields: object) -> Token:
    kept = {name: getattr(token, name) for name in Token.__struct_fields__}
    return Token(**{**kept, **fields})


def test_a_fresh_token_replaces_a_machine(plant: Plant):
    old = plant.path("edge-t.token")
    plant.ferrule("token", "edge", "edge-t", "--token-out", plant.path("fresh.token"))
    refused = run(plant, "edge", plant.path("edge-t-old"), "--token", old)
    assert refused.returncode == 1, "a fresh token voids the one before"
    plant.start(
        "edge-t",
        "ferrule-edge",
        "run",
        "--dir",
        plant.path("edge-t"),
        "--token",
        plant.path("fresh.token"),
    )
    plant.connected()


# --- routers -----------------------------------------------------------------------------------------
def test_edges_come_back_when_a_killed_router_returns(calm: Plant, port: int):
    allowed(calm, port)
    calm.kill("router-1")
    until(lambda: not calm.routers_of("edge-a"), 5, "edge-a to notice")
    assert_refused_at_once(port)
    calm.start_again("router-1")
    until(lambda: reachable(port), 5, "a connection through the new router")
    calm.connected()


def test_a_frozen_router_is_found_dead_and_a_thawed_one_works_again(calm: Plant, port: int):
    allowed(calm, port)
    calm.signal("router-1", 19)  # SIGSTOP
    try:
        until(lambda: not calm.local("edge-a")["routers"], 5, "edge-a to find the link dead")
    finally:
        calm.signal("router-1", 18)  # SIGCONT
    until(lambda: reachable(port), 20, "a connection through the thawed router")


# --- ends --------------------------------------------------------------------------------------------
def test_every_program_ends_within_its_time_and_leaves_nothing_behind(
    calm: Plant, port: int, echo: Echo
):
    allowed(calm, port)
    with Caller(port) as caller:
        caller.echo()
        waiting = subprocess.Popen(
            [calm.started["edge-a"][0].replace("ferrule-edge", "ferrule"), "audit", "tail", "--follow"],
            env=calm.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.5)
        for name in ("edge-a", "edge-b", "router-1", "controller"):
            processes = tree(calm.programs[name].pid)
            assert calm.terminate(name) == 0, f"{name} was still at work when its time was over"
            until(partial(none_alive, processes), 5, f"the end of all processes of {name}")
            assert "Traceback" not in calm.log(name)
        waiting.terminate()
        waiting.wait()
    for name in ("edge-a", "edge-b", "router-1", "controller"):
        folder = Path(calm.path(name))
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.rglob("*"):
            assert not path.is_socket(), path
            assert not path.name.endswith((".tmp", "-wal", "~")), path
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.name == "api-ca.pem", path
    assert not listening(port)
    for name in ("controller", "router-1", "edge-a", "edge-b"):
        calm.start_again(name)
    calm.connected()
    until(lambda: reachable(port), 5, "a connection after all were restarted")
    until(lambda: not live(calm), 10, "no session of before")
    assert_whole(export(calm), {"edge-t": 2})


def test_programs_put_nothing_into_the_systems_temporary_folder(plant: Plant):
    left = Path(plant.environment["TMPDIR"])
    assert list(left.iterdir()) == []


@pytest.fixture(scope="module", autouse=True)
def _own_temporary_folder(plant: Plant) -> None:
    """Programs that tests restart see a temporary folder of their own."""
    folder = Path(plant.path("tmp"))
    folder.mkdir()
    plant.environment["TMPDIR"] = str(folder)
    assert os.path.isdir(folder)
