"""Options and configuration of the router: one clear sentence for what does not fit."""

import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from overlay.aio.lifecycle import UsageError
from overlay.aio.options import load_config, parse_listen
from router.program import main

ROOT = Path(__file__).parents[3]
OPTIONS = [
    str(one.name).replace("_", "-") for one in main.commands["run"].params if one.name != "config"
]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--dir is missing"),
        (["--dir", "x"], "--listen is missing"),
        (["--dir", "x", "--listen", "nowhere"], "--listen must be HOST:PORT"),
        (["--dir", "x", "--listen", "a:99999"], "--listen must be HOST:PORT"),
        (["--dir", "x", "--listen", "a:1", "--metrics", "y"], "--metrics must be HOST:PORT"),
        (["--dir", "x", "--listen", "a:1", "--log-format", "xml"], "xml"),
        (["--config", "/no/such/file"], "cannot be read"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_sentence(arguments: list[str], words: str):
    result = CliRunner().invoke(main, ["run", *arguments])
    assert result.exit_code == 2
    assert words in result.output
    assert "Traceback" not in result.output


def test_help_has_an_example():
    result = CliRunner().invoke(main, ["run", "--help"])
    assert result.exit_code == 0
    assert "Example:\n    ferrule-router run --dir" in result.output


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dir = ", "not TOML"),
        ("folder = 'x'", "there is no option 'folder'"),
        ("dir = 3", "must be text"),
    ],
)
def test_a_bad_configuration_is_explained(tmp_path: Path, text: str, words: str):
    file = tmp_path / "router.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=words):
        load_config(file, OPTIONS)


def test_the_example_configuration_loads():
    example = ROOT / "deploy/examples/router.toml"
    assert load_config(example, OPTIONS) == tomllib.loads(example.read_text())


def test_addresses():
    assert parse_listen("0.0.0.0:8441", "--listen") == ("0.0.0.0", 8441)
    assert parse_listen("[::1]:0", "--listen") == ("::1", 0)
