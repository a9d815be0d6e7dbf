"""What a test needs from the machine. CI has it or fails; elsewhere the test is skipped with the reason."""

import os
import shutil
from typing import NoReturn

import pytest


def missing(sentence: str) -> NoReturn:
    """End the test: failed in CI, where nothing may be left out unseen, skipped elsewhere."""
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


def need_root() -> None:
    """The test changes what only root may change."""
    if os.geteuid() != 0:
        missing("This test needs root: run it as root, or in a container.")


def need_program(name: str, package: str) -> str:
    """Path of a program, also where only root's PATH has it."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/sbin")
    if found is None:
        missing(f"This test needs {name}: as root, run `apt-get install {package}`.")
    return found
