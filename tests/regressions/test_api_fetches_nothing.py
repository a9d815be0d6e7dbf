"""A peer fetched addresses that an administrator had typed, without time-out or limits on where they lead.

So: nothing behind the API opens a connection to an address from a request. It has no client to do it with.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENTS = {"ClientSession", "request", "urlopen", "HTTPConnection", "HTTPSConnection",
           "open_connection", "create_connection"}  # fmt: skip
SOURCES = sorted(
    path
    for part in ("api", "actions", "store")
    for path in (ROOT / "controller" / part).rglob("*.py")
)


def clients(source: str) -> set[str]:
    """What a source imports or calls that could fetch something."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found.add(node.func.attr)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("urllib.request")}
    return found & (CLIENTS | {"urllib.request"})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_has_a_client(path: Path):
    assert clients(path.read_text()) == set()


@pytest.mark.parametrize(
    "source",
    ["from aiohttp import ClientSession", "import urllib.request", "asyncio.open_connection(h, 1)",
     "loop.create_connection(f, h, 1)", "http.client.HTTPConnection(h)"],
)  # fmt: skip
def test_what_the_check_finds(source: str):
    assert clients(source)
