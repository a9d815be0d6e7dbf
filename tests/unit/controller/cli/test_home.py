"""The session on disk: nobody else reads it, and the environment wins over it."""

import json
import os
import stat
from pathlib import Path

import pytest

from controller.cli import home
from controller.cli.failure import Failure, Misuse
from controller.cli.home import Session

PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
KEPT = Session("https://127.0.0.1:8440", "secret", PEM, "ada", "mill", PEM)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("FERRULE_URL", "FERRULE_TOKEN", "FERRULE_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FERRULE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_what_is_kept_comes_back_and_is_private(folder: Path):
    path = home.keep(KEPT)
    assert home.kept() == KEPT == home.current()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert os.listdir(folder) == [path.name]
    home.forget()
    assert home.kept() is None


def test_a_session_that_others_can_read_is_refused():
    home.keep(KEPT).chmod(0o640)
    with pytest.raises(Failure, match="chmod 600"):
        home.current()


def test_a_link_in_place_of_the_new_file_is_not_followed(folder: Path, tmp_path: Path):
    folder.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    (folder / f".{home.FILE}.{os.getpid()}").symlink_to(victim)
    with pytest.raises(Failure):
        home.keep(KEPT)
    assert victim.read_text() == "untouched"


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"url": "x"}', '{"token": "x"}', "\xff"])
def test_a_damaged_session_says_what_to_do(folder: Path, text: str):
    folder.mkdir()
    (folder / home.FILE).write_text(text, "latin-1")
    (folder / home.FILE).chmod(0o600)
    with pytest.raises(Failure, match=r"log in again|cannot read"):
        home.current()


def test_fields_of_a_newer_version_do_no_harm(folder: Path):
    path = home.keep(KEPT)
    path.write_text(json.dumps({**json.loads(path.read_text()), "colour": "red"}))
    assert home.kept() == KEPT


def test_without_a_login_it_says_how():
    with pytest.raises(Failure, match="ferrule login"):
        home.current()


def test_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    home.keep(KEPT)
    monkeypatch.setenv("FERRULE_TOKEN", "other")
    assert home.current() == Session(KEPT.url, "other", PEM, "ada", "mill", PEM)
    ca = tmp_path / "ca.pem"
    ca.write_text(PEM + "\n")
    monkeypatch.setenv("FERRULE_URL", "https://[::1]:9")
    monkeypatch.setenv("FERRULE_CA", str(ca))
    home.forget()
    assert home.current() == Session("https://[::1]:9", "other", PEM + "\n")


def test_what_was_pinned_for_one_controller_is_not_trusted_for_another(
    monkeypatch: pytest.MonkeyPatch,
):
    home.keep(KEPT)
    monkeypatch.setenv("FERRULE_URL", "https://127.0.0.1:9999")
    with pytest.raises(Failure, match="no login"):
        home.current()
    monkeypatch.setenv("FERRULE_TOKEN", "other")
    found = home.current()
    assert (found.url, found.token, found.ca) == ("https://127.0.0.1:9999", "other", "")


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("https://a.example", "https://a.example:8440"),
        ("https://a.example:1/", "https://a.example:1"),
        (" https://[::1]:8440 ", "https://[::1]:8440"),
    ],
)
def test_addresses(given: str, url: str):
    assert home.check_url(given) == url


@pytest.mark.parametrize(
    "url",
    ["http://a", "a.example:8440", "https://", "https://a:0", "https://a:99999", "https://a/b",
     "https://u:p@a", "https://a?x", "ftp://a", ""],
)  # fmt: skip
def test_what_is_no_address(url: str):
    with pytest.raises(Misuse, match="https://HOST:PORT"):
        home.check_url(url)


def test_what_is_no_certificate(tmp_path: Path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("text", "binary", "missing"):
        with pytest.raises(Misuse):
            home.read_pem(str(tmp_path / name))
