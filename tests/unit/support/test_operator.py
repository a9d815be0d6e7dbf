"""A command that is forked says and does what the program of that name does when it is started."""

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo.plant import COMMANDS
from tests.support.operator import Operator


@pytest.fixture(scope="module")
def operator() -> Iterator[Operator]:
    made = Operator()
    yield made
    made.close()


@pytest.mark.parametrize("words", ["--version", "add --help", "status", "allow", "nonsense"])
def test_it_says_what_the_program_says(operator: Operator, tmp_path: Path, words: str):
    environment = {**os.environ, "FERRULE_HOME": str(tmp_path)}
    started = subprocess.run(
        [COMMANDS / "ferrule", *words.split()], env=environment, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    forked = operator.call(words.split(), environment, 20)
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        started.returncode, started.stdout, started.stderr,
    )  # fmt: skip


def test_it_has_its_own_environment_each_time(operator: Operator, tmp_path: Path):
    token = {"FERRULE_URL": "https://127.0.0.1:1", "FERRULE_TOKEN": "x" * 43}
    elsewhere = operator.call(["status"], {"FERRULE_HOME": str(tmp_path), **token}, 20)
    assert "refused" in elsewhere.stderr
    assert "not logged in" in operator.call(["status"], {"FERRULE_HOME": str(tmp_path)}, 20).stderr


def test_one_that_takes_too_long_is_killed(operator: Operator, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(20)
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        token = {"FERRULE_URL": url, "FERRULE_TOKEN": "x" * 43}
        with pytest.raises(subprocess.TimeoutExpired):
            operator.call(["status"], {"FERRULE_HOME": str(tmp_path), **token}, 1)
        with silent.accept()[0] as asked:
            asked.settimeout(20)
            while asked.recv(65_536):
                pass
    assert operator.call(["--version"], dict(os.environ), 20).returncode == 0
