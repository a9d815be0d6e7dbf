"""The audit from the operator's side: look, search, follow, prove, export, and find what was tampered with."""

import contextlib
import json
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.plant import COMMANDS, PASSWORD, Plant, until
from tests.support.records import assert_whole, attempts, export, search
from tests.support.seen import idle
from tests.support.traffic import Caller, assert_refused_at_once, reachable
from tests.support.words import last_sentence

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def story(plant: Plant, port: int) -> str:
    """Something denied, something allowed, something ended; the conduit's id."""
    for _ in range(3):
        assert_refused_at_once(port)
    conduit: str = plant.json("allow", "hmi-a", "plc-b", "echo", "--reason", "story")["id"]
    until(lambda: reachable(port), 5, "an allowed connection")
    plant.ferrule("deny", conduit)
    until(lambda: attempts(plant, "plc-b.echo", "allowed"), 5, "the allowed attempt")
    until(lambda: attempts(plant, "plc-b.echo", "denied"), 5, "the denied attempts")
    return conduit


def test_search_finds_by_each_filter_and_in_order(plant: Plant, story: str):
    everything = search(plant, limit=100_000)
    assert [each["seq"] for each in everything] == sorted(each["seq"] for each in everything)
    mine = search(plant, who="hmi-a")
    assert mine
    assert {each["who"] for each in mine} == {"hmi-a"}
    assert {each["service"] for each in search(plant, service="plc-b.echo")} == {"plc-b.echo"}
    assert {each["outcome"] for each in search(plant, outcome="denied")} == {"denied"}
    assert len(search(plant, limit=2)) == 2
    assert search(plant, limit=2)[-1]["seq"] >= everything[-1]["seq"]
    middle = everything[len(everything) // 2]["time"]
    assert all(each["time"] >= middle for each in search(plant, since=middle))
    assert all(each["time"] <= middle for each in search(plant, until=middle))
    assert search(plant, since="1h")
    assert search(plant, who="nobody-of-that-name") == []


def test_making_and_ending_a_conduit_are_events_that_carry_it(plant: Plant, story: str):
    made = [each for each in search(plant) if each["conduit"] == story]
    names = [each["event"] for each in made if each["event"].startswith("conduit.")]
    assert names == ["conduit.allow", "conduit.deny"]
    assert {each["who"] for each in made if each["event"].startswith("conduit.")} == {"ada"}
    assert any(each["event"] == "circuit.open" and each["outcome"] == "allowed" for each in made)


def test_what_people_see_is_a_table(plant: Plant, story: str):
    text = plant.ferrule("audit", "tail")
    assert "circuit.open" in text
    assert "{" not in text.splitlines()[0]


@contextlib.contextmanager
def following(plant: Plant, *words: str) -> Iterator[Callable[[], dict[str, Any]]]:
    """A command that follows; each call gives the next JSON line."""
    process = subprocess.Popen(
        [COMMANDS / "ferrule", *words, "--follow", "--json"],
        env=plant.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdout is not None
    waiting = b""

    def next_line() -> dict[str, Any]:
        nonlocal waiting
        deadline = time.monotonic() + 30
        while b"\n" not in waiting:
            left = deadline - time.monotonic()
            assert process.stdout is not None
            assert left > 0, "no line in time"
            if select.select([process.stdout], [], [], left)[0]:
                waiting += process.stdout.read(65_536)
        line, waiting = waiting.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found

    try:
        yield next_line
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()


def test_following_the_audit_shows_an_attempt_as_it_happens(calm: Plant, port: int, story: str):
    with following(calm, "audit", "tail") as next_line:
        first = next_line()
        assert set(first) >= {"seq", "event", "hash"}
        assert_refused_at_once(port)
        while (record := next_line())["event"] != "circuit.open" or record["time"] <= first["time"]:
            pass
        assert record["outcome"] in ("denied", "allowed")


def test_following_sessions_shows_one_begin_and_end(calm: Plant, port: int):
    calm.ferrule("allow", "hmi-a", "plc-b", "echo")
    until(lambda: reachable(port), 5, "an allowed connection")
    idle(calm)
    with following(calm, "sessions") as next_line:
        with Caller(port) as caller:
            caller.echo()
            while (began := next_line())["ended"] is not None:
                pass
        while (ended := next_line())["id"] != began["id"] or ended["ended"] is None:
            pass
    assert began["service"] == "plc-b.echo"
    assert ended["end_reason"]


LISTED_SECONDS = 0.2
TRIES = 25


def test_a_session_is_listed_within_a_fifth_of_a_second(calm: Plant, port: int):
    calm.ferrule("allow", "hmi-a", "plc-b", "echo")
    until(lambda: reachable(port), 5, "an allowed connection")
    took: list[float] = []
    with following(calm, "sessions") as next_line:
        while len(took) < TRIES and min(took[1:], default=1.0) >= LISTED_SECONDS:
            idle(calm)
            with Caller(port) as caller:
                caller.echo()
                begun = time.monotonic()
                while next_line()["ended"] is not None:
                    pass
                took.append(time.monotonic() - begun)
    # The first line may be of a connection before. Other work on the machine may delay some, but not each.
    assert min(took[1:]) < LISTED_SECONDS


def test_a_record_can_be_proved_and_the_log_verifies(plant: Plant, story: str):
    newest = search(plant)[-1]
    proof = plant.json("audit", "prove", str(newest["seq"]))
    assert proof["hash"] == newest["hash"]
    verdict = plant.json("audit", "verify")
    assert set(verdict) >= {"ok", "records", "first", "last", "signed_by", "problems"}
    assert verdict["ok"]
    assert verdict["problems"] == []
    assert verdict["first"] == 1
    assert verdict["last"] == verdict["records"] >= newest["seq"]
    assert verdict["signed_by"]


def test_an_export_is_whole_and_in_order(plant: Plant, story: str):
    counts = assert_whole(export(plant))
    assert set(counts) >= {"edge-a", "edge-b", "router-1"}


TAMPERED: dict[str, Callable[[list[str]], list[str]]] = {
    "a record removed": lambda lines: lines[:3] + lines[4:],
    "a record changed": lambda lines: [line.replace('"hmi-a"', '"hmi-z"') for line in lines],
    "a reason changed": lambda lines: [line.replace("story", "glory") for line in lines],
    "two records swapped": lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
    "a record twice": lambda lines: [*lines[:4], lines[3], *lines[4:]],
    "the end cut": lambda lines: lines[:-2],
    "the head missing": lambda lines: lines[:-1],
    "the last record and its head": lambda lines: lines[: len(lines) // 2],
    "records behind the head": lambda lines: [*lines, lines[0]],
    "nothing": lambda _: [],
    "something else": lambda _: ["hello"],
}


@pytest.mark.parametrize("how", TAMPERED)
def test_an_export_that_was_tampered_with_does_not_verify(plant: Plant, story: str, how: str):
    path = Path(plant.path("whole.jsonl"))
    if not path.exists():
        export(plant, path.name)
    lines = path.read_text().splitlines()
    changed = TAMPERED[how](lines)
    assert changed != lines
    forged = Path(plant.path("forged.jsonl"))
    forged.write_text("".join(line + "\n" for line in changed))
    result = plant.call("ferrule", "audit", "verify", "--file", str(forged), "--json")
    assert result.returncode == 1
    verdict = json.loads(result.stdout)
    assert verdict["ok"] is False
    assert verdict["problems"]


def test_an_export_is_verified_against_the_plants_own_root_only(
    plant: Plant, story: str, tmp_path: Path
):
    path = plant.path("whole.jsonl")
    if not Path(path).exists():
        export(plant, "whole.jsonl")
    other = Plant(folder=tmp_path / "other")
    other.folder.mkdir()
    (other.folder / "password").write_text(PASSWORD + "\n")
    other.run(
        "ferrule-controller", "init", "--dir", other.path("controller"), "--plant", "mill",
        "--admin", "ada", "--admin-password-file", other.path("password"),
    )  # fmt: skip
    foreign = other.path("controller/api-ca.pem")
    result = plant.call("ferrule", "audit", "verify", "--file", path, "--ca", foreign)
    assert result.returncode == 1
    last_sentence(result.stderr)
    own = plant.path("controller/api-ca.pem")
    assert plant.call("ferrule", "audit", "verify", "--file", path, "--ca", own).returncode == 0
    nowhere = other.call("ferrule", "audit", "verify", "--file", path)
    other.stop()
    assert nowhere.returncode == 1, "without a login and --ca nothing is trusted"
