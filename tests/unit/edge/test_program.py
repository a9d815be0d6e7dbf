"""`ferrule-edge`: wrong usage ends with 2 and one sentence, status for people and machines."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from edge.program import in_words, main
from edge.running import circuit_memory_of
from overlay import limits


def call(*args: str):
    return CliRunner().invoke(main, args)


@pytest.mark.parametrize("command", ["run", "status", "kill", "restore"])
def test_each_command_has_help_with_an_example(command: str):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Example:\n    ferrule-edge" in result.output


def test_a_local_command_does_not_load_what_only_run_needs():
    """In an interpreter of its own; the list in the help has `run` all the same."""
    told = (
        "import sys, edge.program; print(sorted({'edge.edge', 'cryptography'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, check=True)
    assert found.stdout == b"[]\n"
    assert "  run " in call("--help").output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nonsense",), "No such command"),
        (("run",), "--dir is missing"),
        (("run", "--dir", "d", "--proxy", "ftp://x"), "proxy must be http://HOST:PORT"),
        (("run", "--dir", "d", "--log-format", "xml"), "xml"),
        (("run", "--dir", "d", "--circuit-memory", "15"), "MiB from 16 to 65536, not '15'"),
        (("run", "--dir", "d", "--circuit-memory", "65537"), "not '65537'"),
        (("run", "--dir", "d", "--circuit-memory", "1e3"), "not '1e3'"),
        (("run", "--dir", "d", "--config", "/nowhere/edge.toml"), "cannot be read"),
        (("run", "--dir", "d", "--metrics", "9465"), "--metrics must be HOST:PORT"),
        (("run", "--dir"), "requires an argument"),
        (("status",), "Missing option '--dir'"),
        (("kill", "--dir", "d", "--because", "x"), "No such option"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(args: tuple[str, ...], words: str):
    result = call(*args)
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def test_circuit_memory_is_said_in_mib():
    assert circuit_memory_of({}) == limits.CIRCUIT_MEMORY
    assert circuit_memory_of({"circuit-memory": "16"}) == 16 * 1024 * 1024


def test_a_status_in_words_says_what_matters():
    found = {
        "name": "edge-a", "state": "connected", "routers": ["router-1", "router-2"],
        "kill": {"reason": "smoke", "since": "2026-01-01T00:00:00.000000Z"},
        "circuits": {"hosting": 1, "calling": 2, "datagrams_dropped": 7},
        "listeners": [{"listen": "127.0.0.1:502", "service": "plc-b.modbus", "who": "hmi-a"}],
        "problems": ["127.0.0.1:503: Address already in use."],
    }  # fmt: skip
    text = in_words(found)
    for words in (
        "edge-a: connected",
        "router-1, router-2",
        "smoke",
        "1 hosted, 2 called",
        "datagrams dropped since the start: 7",
        "plc-b.modbus as hmi-a",
        "503",
    ):
        assert words in text
    assert "ALARM" not in text
    names = {"domain": "mill.internal", "mode": "none", "why": "as asked", "at": ["::1"]}
    assert "below mill.internal: answered at ::1\nthis host asks for them by: none (as" in in_words(
        found | {"names": names}
    )
    failed = in_words(found | {"names": names | {"mode": None, "at": []}})
    assert "names below mill.internal: not answered" in failed
    assert "this host asks" not in failed
    fork = {"found": "2026-01-01T00:00:00.000000Z", "reason": "two tree heads of 8 records differ"}
    assert "ALARM" not in in_words(found | {"log": None})
    assert "ALARM: the audit log was forked" in in_words(found | {"log": {"forks": [fork]}})
    assert "not pulled" in in_words({"name": "", "state": "waiting", "routers": [], "kill": None})
    json.dumps(found)
