"""Each shared limit is kept by somebody, and some test names it: a number that nobody looks at is a promise that nobody
keeps.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIMITS = ROOT / "overlay/limits.py"
SHIPPED = [
    path
    for package in ("overlay", "edge", "router", "controller")
    for path in (ROOT / package).rglob("*.py")
    if path != LIMITS
]


def named(source: str) -> set[str]:
    """Names and attributes that a source reads."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            found.add(node.id)
    return found


USED = {name for path in (*SHIPPED, LIMITS) for name in named(path.read_text())}
TESTED = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    if path != Path(__file__)
    for name in re.findall(r"\b[A-Z_]+\b", path.read_text())
}
NAMES = [
    target.id
    for node in ast.parse(LIMITS.read_text()).body
    if isinstance(node, ast.Assign)
    for target in node.targets
    if isinstance(target, ast.Name)
]


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_is_kept(name: str):
    assert name in USED


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_is_filled_by_a_test(name: str):
    assert name in TESTED


def test_what_is_seen():
    assert named("from overlay import limits\nx = limits.A + B") == {"limits", "A", "B"}
