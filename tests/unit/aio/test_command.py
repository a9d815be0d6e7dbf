"""Options of the three programs: the file, the command line that wins, and what is missing."""

from pathlib import Path

import pytest

from overlay.aio.command import settings_of
from overlay.aio.lifecycle import UsageError


def test_the_command_line_wins_over_the_file(tmp_path: Path):
    file = tmp_path / "router.toml"
    file.write_text('dir = "a"\nlog-format = "json"\n')
    given = {"dir": "b", "listen": None, "log_format": None, "config": str(file)}
    assert settings_of(given, ("dir",)) == {"dir": "b", "log-format": "json"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('config = "other.toml"', "there is no option 'config'"),
        ('log_format = "json"', "there is no option 'log_format'"),
        ('log-format = "xml"\ndir = "x"', "log-format must be one of text, json"),
        ('dir = ""', "--dir is missing"),
    ],
)
def test_what_a_file_may_not_say(tmp_path: Path, text: str, words: str):
    file = tmp_path / "router.toml"
    file.write_text(text)
    given = {"dir": None, "log_format": None, "config": str(file)}
    with pytest.raises(UsageError, match=words):
        settings_of(given, ("dir",))
