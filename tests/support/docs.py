"""Finds documents that no longer say what the code does: `python -m tests.support.docs --check`.

Three promises are kept. Each numbered requirement of the protocol (`LINK-7`) is stated once and
cited by a test or a source file, and nothing cites a number that is not there. Each name in
backticks that looks like ours (`overlay.link.core.Link`, `overlay/link/core.py`) exists. Each
command in the documents that people follow can be run.
"""

import importlib
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("overlay", "edge", "router", "controller")

# Looks like the number of a requirement, and is the name of an algorithm, a format or a document.
NOT_A_REQUIREMENT = frozenset(
    {"AES", "BLAKE", "CVE", "ISO", "IEC", "P", "RFC", "SHA", "TLS", "UTF"}
)

_NUMBER = r"[A-Z]{1,12}-\d{1,3}"
# `**LINK-7** ...`, `- **LINK-7**: ...`, `| LINK-7 | ...`, `### LINK-7 ...`, `LINK-7: ...`
_STATED = re.compile(
    rf"^\s*(?:[-*|]\s+|#+\s+)?(?:\*\*|`)?({_NUMBER})\b[.:]?(?:\*\*|`|:|\s+\||\s*$)"
)
_STATED_IN_HEADING = re.compile(rf"^#+\s+({_NUMBER})\b")
_CITED = re.compile(rf"(?<![\w-])({_NUMBER})(?![\w-])")
_CODE = re.compile(r"`([^`\n]+)`")
_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_DOTTED = re.compile(rf"(?:{'|'.join(PACKAGES)})(?:\.\w+)+")
_PATH = re.compile(rf"(?:{'|'.join(PACKAGES)}|tests|docs|deploy|bench)(?:/[\w.-]+)+/?")
_MAKE = re.compile(r"make ([a-z]+)(?:\s|$)")
_WORD = re.compile(r"[a-z][a-z-]*")


def _is_number(text: str) -> bool:
    return text.split("-", maxsplit=1)[0] not in NOT_A_REQUIREMENT


def stated(root: Path) -> Counter[str]:
    """Requirement numbers that docs/protocol states, with how often."""
    numbers: Counter[str] = Counter()
    for page in sorted((root / "docs/protocol").glob("*.md")):
        for line in page.read_text().splitlines():
            match = _STATED.match(line) or _STATED_IN_HEADING.match(line)
            if match and _is_number(match[1]):
                numbers[match[1]] += 1
    return numbers


def cited(root: Path) -> dict[str, str]:
    """Everything that looks like a requirement's number in sources and tests: number, one place."""
    places: dict[str, str] = {}
    for folder in (*PACKAGES, "tests"):
        for path in sorted((root / folder).rglob("*.py")):
            if path == Path(__file__) or path.name == "test_docs.py":
                continue  # their examples are no citations
            for number in _CITED.findall(path.read_text()):
                places.setdefault(number, str(path.relative_to(root)))
    return places


def requirement_problems(root: Path) -> Iterator[str]:
    """Requirements that are missing, stated twice, cited by nothing, or cited and not stated."""
    numbers, places = stated(root), cited(root)
    if not numbers:
        yield "docs/protocol states no numbered requirement"
    for number, times in sorted(numbers.items()):
        if times > 1:
            yield f"docs/protocol: {number} is stated {times} times"
        if number not in places:
            yield f"docs/protocol: no test and no source file cites {number}"
    families = {number.split("-")[0] for number in numbers}
    for number, place in sorted(places.items()):
        if number.split("-")[0] in families and number not in numbers:
            yield f"{place}: cites {number}, which docs/protocol does not state"


def resolves(name: str) -> bool:
    """Whether a dotted name leads to a module, or to something inside one."""
    parts = name.split(".")
    for split in range(len(parts), 0, -1):
        module = ".".join(parts[:split])
        try:
            found: object = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not (
                module == error.name or module.startswith(error.name + ".")
            ):
                raise  # it exists, and something that it needs does not
            continue
        for attribute in parts[split:]:
            if attribute not in getattr(found, "__annotations__", {}) and not hasattr(
                found, attribute
            ):
                return False
            found = getattr(found, attribute, None)
        return True
    return False


def name_problems(root: Path) -> Iterator[str]:
    """Names and paths in backticks that lead nowhere."""
    pages = [root / "README.md", root / "ARCHITECTURE.md", root / "CONTRIBUTING.md"]
    for page in [*pages, root / "docs/glossary.md", *sorted((root / "docs/protocol").glob("*.md"))]:
        where = page.relative_to(root)
        if not page.exists():
            yield f"{where} is missing"
            continue
        for code in _CODE.findall(page.read_text()):
            text = code.removesuffix("()")
            if _PATH.fullmatch(text):
                if not (root / text).exists():
                    yield f"{where}: {text} does not exist"
            elif _DOTTED.fullmatch(text) and not resolves(text):
                yield f"{where}: {text} does not exist"


def commands(text: str) -> set[tuple[str, ...]]:
    """The commands that a page tells people to type, the program and at most two words."""
    lines = [line for block in _FENCE.findall(text) for line in block.splitlines()]
    lines += _CODE.findall(_FENCE.sub("", text))
    found: set[tuple[str, ...]] = set()
    for line in lines:
        words = line.strip().removeprefix("$ ").split()
        if not words:
            continue
        program = words[0].removeprefix(".venv/bin/")
        if program == "make" and len(words) > 1 and _MAKE.match(f"make {words[1]} "):
            found.add(("make", words[1]))
        elif program == "ferrule" or program.startswith("ferrule-"):
            subcommand = []
            for word in words[1:3]:
                if not _WORD.fullmatch(word):
                    break
                subcommand.append(word)
            if subcommand:
                found.add((program, *subcommand))
    return found


def command_problems(root: Path) -> Iterator[str]:
    """Commands in the documents that make or our programs do not know."""
    targets = set(re.findall(r"^([a-z]+):", (root / "Makefile").read_text(), re.MULTILINE))
    scripts = tomllib.loads((root / "pyproject.toml").read_text())["project"]["scripts"]
    pages = ("README.md", "CONTRIBUTING.md", "deploy/README.md")
    asked: set[tuple[str, ...]] = set()
    for page in pages:
        if (root / page).exists():
            asked |= commands((root / page).read_text())
    for command in sorted(asked):
        said = " ".join(command)
        if command[0] == "make":
            if command[1] not in targets:
                yield f"the documents say `{said}`, and the Makefile has no such target"
        elif command[0] not in scripts:
            yield f"the documents say `{said}`, and pyproject.toml makes no such command"
        else:
            program = Path(sys.executable).with_name(command[0])
            run = subprocess.run(
                [program, *command[1:], "--help"], capture_output=True, text=True, check=False
            )
            if run.returncode != 0:
                yield f"the documents say `{said}`, and `{said} --help` fails"


def problems(root: Path = ROOT) -> list[str]:
    """All that is wrong, one sentence each."""
    return [*requirement_problems(root), *name_problems(root), *command_problems(root)]


def main() -> int:
    """Returns the exit code: 0 when the documents are true, 1 with the reasons printed."""
    if sys.argv[1:] != ["--check"]:
        print("usage: python -m tests.support.docs --check", file=sys.stderr)
        return 2
    found = problems()
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"documents: {len(found)} problem(s), {len(stated(ROOT))} requirements")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
