"""docs/operations.md tells people to type commands; each is one that our programs take, with those options."""

import re
import shlex
from pathlib import Path

import click
import pytest

from controller.cli.main import root
from edge.intercept.plan import supports
from overlay.policy.interception import MODES
from overlay.wire.bodies import DATAGRAMS, STREAM
from tests.support.programs import CARRIES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text()
_FENCE = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")

LINES = [line for block in _FENCE.findall(PAGE) for line in block.splitlines() if line.strip()]


def words(line: str) -> list[str]:
    found = shlex.split(line, comments=True)
    while _ASSIGNMENT.fullmatch(found[0]):
        del found[0]
    return found


def parse(said: list[str]) -> None:
    """Parse as `ferrule` would, and run nothing.

    Raises:
        click.UsageError: it would be refused with exit code 2.
    """
    command: click.Command = root
    context = click.Context(root, info_name="ferrule")
    rest = said
    while isinstance(command, click.Group):
        _, found, rest = command.resolve_command(context, list(rest))
        assert found is not None
        command = found
        context = click.Context(command, parent=context, info_name=command.name)
    command.make_context(command.name, list(rest), parent=context.parent)


OURS = [line for line in LINES if words(line)[0] == "ferrule"]
PROGRAMS = [line for line in LINES if words(line)[0].startswith("ferrule-")]


def test_the_page_has_commands_of_all_programs():
    assert set(OURS) | set(PROGRAMS) == set(LINES)
    assert {words(line)[0] for line in PROGRAMS} == {
        "ferrule-controller", "ferrule-router", "ferrule-edge",
    }  # fmt: skip
    said = {words(line)[1] for line in OURS}
    assert said >= set(root.commands) - {"logout"}


@pytest.mark.parametrize("line", OURS)
def test_a_command_of_ferrule_is_taken(line: str):
    parse(words(line)[1:])


@pytest.mark.parametrize(
    "line",
    ["ferrule ad edge", "ferrule add edge edge-a", "ferrule ls edges --colour", "ferrule apply x"],
)
def test_what_the_check_finds(line: str):
    with pytest.raises(click.UsageError):
        parse(words(line)[1:])


def test_the_page_says_what_each_mode_carries():
    """As the system tests show it with programs, and as the edge decides."""
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", PAGE, re.MULTILINE)
    said = {mode: tuple(what.split(", ")) for mode, what in rows if mode in CARRIES}
    assert said == CARRIES
    assert set(MODES) - {"auto"} | {"proxy"} == set(CARRIES)
    for mode in set(MODES) - {"auto"}:
        assert supports(mode, STREAM) == ("TCP" in CARRIES[mode])
        assert supports(mode, DATAGRAMS) == ("UDP" in CARRIES[mode])
