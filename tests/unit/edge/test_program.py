"""`ferrule-edge`: wrong usage ends with 2 and one sentence, status for people and machines."""

import json

import pytest
from click.testing import CliRunner

from edge.program import in_words, main


def call(*args: str):
    return CliRunner().invoke(main, args)


@pytest.mark.parametrize("command", ["run", "status", "kill", "restore"])
def test_each_command_has_help_with_an_example(command: str):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert "Example: ferrule-edge" in result.output


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("nonsense",), "No such command"),
        (("run",), "--dir is missing"),
        (("run", "--dir", "d", "--proxy", "ftp://x"), "proxy must be http://HOST:PORT"),
        (("run", "--dir", "d", "--log-format", "xml"), "xml"),
        (("run", "--dir", "d", "--config", "/nowhere/edge.toml"), "cannot be read"),
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
    fork = {"found": "2026-01-01T00:00:00.000000Z", "reason": "two tree heads of 8 records differ"}
    assert "ALARM" not in in_words(found | {"log": None})
    assert "ALARM: the audit log was forked" in in_words(found | {"log": {"forks": [fork]}})
    assert "not pulled" in in_words({"name": "", "state": "waiting", "routers": [], "kill": None})
    json.dumps(found)
