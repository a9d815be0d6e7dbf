"""The shape of the tree: pure cores, small documented files, packages without side effects."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = ("edge", "router", "controller")
CORES = ("wire", "identity", "crypto", "link", "circuit", "control", "policy", "fabric", "audit")
SHIPPED = sorted(
    path for package in ("overlay", *PROGRAMS) for path in (ROOT / package).rglob("*.py")
)

MAX_LINES = 420

# What a core must be handed as an argument, or must not do at all.
FORBIDDEN_IN_CORES = frozenset(
    {
        "aiohttp", "asyncio", "io", "logging", "multiprocessing", "os", "pathlib", "random",
        "secrets", "select", "selectors", "shutil", "signal", "socket", "sqlite3", "ssl",
        "structlog", "subprocess", "tempfile", "threading", "time", "uvloop",
    }
)  # fmt: skip


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imported(source: str) -> Iterator[str]:
    """Dotted names of all that is imported anywhere in the source, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (f"{base}.{alias.name}" for alias in node.names)


def forbidden(source: str) -> set[str]:
    return {name for name in imported(source) if name.split(".")[0] in FORBIDDEN_IN_CORES}


def holds_only_a_docstring(source: str) -> bool:
    body = ast.parse(source).body
    return len(body) == 1 and ast.get_docstring(ast.parse(source)) is not None


def foreign_to_cli(source: str) -> set[str]:
    """Imports by which the command line would reach past the API into the controller."""
    return {
        name
        for name in imported(source)
        if name.split(".")[0] in PROGRAMS and not name.startswith("controller.cli.")
    }


@pytest.mark.parametrize("path", SHIPPED, ids=named)
def test_a_shipped_file_is_short_and_says_what_it_is(path: Path):
    source = path.read_text()
    assert len(source.splitlines()) <= MAX_LINES
    assert ast.get_docstring(ast.parse(source)), "a module needs a docstring"


LIBRARY = ROOT / "edge/__init__.py"
"""Holds `edge.open`, the one name that other people's programs import (docs/library.md)."""


@pytest.mark.parametrize(
    "path",
    [path for path in SHIPPED if path.name == "__init__.py" and path != LIBRARY],
    ids=named,
)
def test_a_package_holds_only_its_docstring(path: Path):
    assert holds_only_a_docstring(path.read_text())


@pytest.mark.parametrize(
    "path",
    [path for path in SHIPPED if path.relative_to(ROOT).parts[:1] == ("overlay",)
     and path.relative_to(ROOT).parts[1] in CORES],
    ids=named,
)  # fmt: skip
def test_a_core_has_no_way_to_the_world(path: Path):
    assert forbidden(path.read_text()) == set()


def says_pure(path: Path) -> bool:
    """A module of a program that calls itself a core."""
    return "Pure." in (ast.get_docstring(ast.parse(path.read_text())) or "")


@pytest.mark.parametrize("path", [path for path in SHIPPED if says_pure(path)], ids=named)
def test_what_calls_itself_pure_is(path: Path):
    source = path.read_text()
    assert forbidden(source) == set()
    assert not [name for name in imported(source) if name.startswith("overlay.aio")]


@pytest.mark.parametrize("path", sorted((ROOT / "controller/cli").rglob("*.py")), ids=named)
def test_the_command_line_speaks_only_to_the_api(path: Path):
    assert foreign_to_cli(path.read_text()) == set()


def test_every_core_was_looked_at():
    assert {core for core in CORES if (ROOT / "overlay" / core).is_dir()} == set(CORES)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time", {"time"}),
        ("import os.path as p", {"os.path"}),
        ("from asyncio import timeout", {"asyncio.timeout"}),
        ("def f():\n    from random import choice", {"random.choice"}),
        ("from datetime import datetime\nimport timeit", set()),
    ],
)
def test_what_the_core_check_finds(source: str, found: set[str]):
    assert forbidden(source) == found


@pytest.mark.parametrize(
    ("source", "fine"),
    [
        ('"""Words."""\n', True),
        ("", False),
        ('"""Words."""\nfrom overlay import wire\n', False),
        ("x = 1\n", False),
    ],
)
def test_what_the_package_check_finds(source: str, fine: bool):
    assert holds_only_a_docstring(source) is fine


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from controller.cli.output import table", set()),
        ("from overlay.policy.names import Name", set()),
        ("from controller.store import tables", {"controller.store.tables"}),
        ("import controller.store", {"controller.store"}),
        ("from controller import store", {"controller.store"}),
    ],
)
def test_what_the_command_line_check_finds(source: str, found: set[str]):
    assert foreign_to_cli(source) == found
