"""What can be said to `ferrule`, and what is refused before anybody is asked."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from controller.cli.main import LATER, root, run
from tests.support.docs import ROOT
from tests.support.words import sentence


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No login, and no terminal."""
    for name in ("FERRULE_URL", "FERRULE_TOKEN", "FERRULE_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FERRULE_HOME", str(tmp_path))


def every(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield words
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from every(inner, (*words, name))


COMMANDS = list(every(root))


def found(words: tuple[str, ...]) -> click.Command:
    command: click.Command = root
    for word in words:
        assert isinstance(command, click.Group)
        command = command.commands[word]
    return command


def refused(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> str:
    assert run(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    return sentence(err)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    assert run([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example:" in text
    assert f"ferrule {' '.join(words)}".rstrip() in text.partition("Example:")[2]


@pytest.mark.parametrize(
    "words", [one for one in COMMANDS if isinstance(found(one), click.Group)], ids=" ".join
)
def test_a_list_of_commands_cuts_no_sentence_off(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    assert run([*words, "--help"]) == 0
    assert "..." not in capsys.readouterr().out.partition("Commands:")[2]


def test_who_gets_a_command_wrong_is_told_which_there_are(capsys: pytest.CaptureFixture[str]):
    assert "identity, plant, service, session, zone" in refused(["kill", "edge", "e"], 2, capsys)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_takes_json(words: tuple[str, ...]):
    command = found(words)
    if not isinstance(command, click.Group):
        assert "--json" in {name for option in command.params for name in option.opts}


@pytest.mark.parametrize(
    "words",
    [
        *[[word] for word in LATER],
        ["add", "user", "ada", "--role", "admin"],
        ["ls", "user"],
        ["show", "request", "7"],
        ["allow", "a", "b", "modbus", "--read-only"],
        ["allow", "a", "b", "modbus", "--approvals", "2"],
        ["allow", "a", "b", "modbus", "--schedule", "shift"],
        ["revoke", "user", "ada", "--reason", "left"],
        ["login", "https://a", "--user", "ada", "--otp", "123456"],
    ],
    ids=" ".join,
)
def test_what_comes_later_is_refused_as_such(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert "this build does not have" in refused(words, 2, capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["add", "nonsense"],
        ["ls", "nonsense"],
        ["ls"],
        ["add", "edge", "edge-a"],
        ["add", "zone", "cell-3", "--level", "9"],
        ["add", "edge", "edge-a", "--token-out", "/nonexistent/folder/token"],
        ["add", "edge", "edge-a", "--token-out", "/"],
        ["allow", "a"],
        ["allow", "a", "b"],
        ["allow", "a", "b", "modbus", "--for", "2h", "--until", "18:00"],
        ["audit", "prove", "zero"],
        ["audit", "verify", "--ca", "file"],
        ["audit", "tail", "--limit", "0"],
        ["audit", "tail", "--limit", "1001"],
        ["kill", "plant"],
        ["login", "http://a", "--user", "ada"],
        ["login", "https://a", "--user", "ada"],
        ["login", "https://a", "--user", "ada", "--password-file", "/nonexistent"],
        ["revoke", "edge", "edge-a"],
        ["revoke", "zone", "cell-3", "--reason", "x"],
        ["rm", "session", "7"],
        ["sessions", "--follow", "--history"],
        ["set", "edge", "edge-a", "zone"],
        ["set", "edge", "edge-a", "zone=a", "zone=b"],
        ["set", "session", "7", "a=b"],
        ["status", "--wait", "soon"],
        ["token", "asset", "plc-b", "--token-out", "file"],
    ],
    ids=" ".join,
)
def test_misuse_is_exit_code_2(words: list[str], capsys: pytest.CaptureFixture[str]):
    refused(words, 2, capsys)


@pytest.mark.parametrize(
    "words", [["ls", "edge"], ["why", "a", "b", "c"], ["status"], ["logout"]], ids=" ".join
)
def test_without_a_login_it_says_how(words: list[str], capsys: pytest.CaptureFixture[str]):
    assert "ferrule login" in refused(words, 1, capsys)


def test_nothing_said_is_misuse_and_shows_help(capsys: pytest.CaptureFixture[str]):
    assert run([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_it_starts_without_the_heavy_libraries():
    code = (
        "import sys, controller.cli.main;"
        "print([m for m in ('aiohttp', 'asyncio', 'sqlalchemy', 'cryptography', 'msgspec', 'structlog',"
        " 'rich') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout == "[]\n"


def test_a_reader_that_goes_away_is_no_traceback():
    code = "import controller.cli.main as m, sys; sys.argv = ['ferrule', '--help']; m.main()"
    head = subprocess.run(
        ["sh", "-c", f'"{sys.executable}" -c "{code}" | true'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert head.stderr == ""


def test_the_changelog_names_every_command_that_is_not_there_yet():
    missing = (ROOT / "CHANGELOG.md").read_text().partition("### Not there yet")[2]
    assert [word for word in LATER if f"`{word}`" not in missing.replace("ferrule ", "")] == []
