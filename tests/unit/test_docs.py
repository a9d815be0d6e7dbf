"""The check of the documents is seen to find each kind of drift."""

from pathlib import Path

import pytest

from tests.support import docs


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    files = {
        "README.md": "Run `make demo`.\n",
        "ARCHITECTURE.md": "See `overlay/wire/__init__.py` and `overlay.wire`.\n",
        "CONTRIBUTING.md": "Words.\n",
        "docs/glossary.md": "| frame | `overlay.wire` |\n",
        "docs/protocol/link.md": "# Link\n\n**LINK-1** An end MUST.\n- **LINK-2**: MUST NOT.\n",
        "overlay/wire/__init__.py": '"""LINK-1, and AES-256 is no requirement."""\n',
        "tests/unit/test_link.py": "# LINK-2\n",
        "Makefile": "demo: venv ## look\nvenv:\n",
        "pyproject.toml": '[project.scripts]\nferrule = "controller.cli.main:main"\n',
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_true_tree_has_no_problem(tree: Path):
    assert docs.problems(tree) == []


@pytest.mark.parametrize(
    ("page", "text", "problem"),
    [
        ("docs/protocol/link.md", "**LINK-3** new.\n", "no test and no source file cites LINK-3"),
        ("docs/protocol/link.md", "| LINK-1 | again |\n", "LINK-1 is stated 2 times"),
        ("tests/unit/test_link.py", "# LINK-9\n", "cites LINK-9, which"),
        ("docs/glossary.md", "`overlay.wire.NoSuchClass`\n", "overlay.wire.NoSuchClass does not"),
        ("docs/glossary.md", "`overlay.nowhere.Thing`\n", "overlay.nowhere.Thing does not exist"),
        ("ARCHITECTURE.md", "`overlay/link/gone.py`\n", "overlay/link/gone.py does not exist"),
        ("README.md", "```sh\nmake magic\n```\n", "`make magic`, and the Makefile"),
        ("README.md", "`ferrule-magic run`\n", "`ferrule-magic run`, and pyproject.toml"),
    ],
)
def test_drift_is_found(tree: Path, page: str, text: str, problem: str):
    with (tree / page).open("a") as file:
        file.write(text)
    found = docs.problems(tree)
    assert len(found) == 1
    assert problem in found[0]


def test_a_missing_page_and_a_protocol_without_requirements_are_found(tree: Path):
    (tree / "docs/protocol/link.md").unlink()
    (tree / "docs/glossary.md").unlink()
    assert sorted(docs.problems(tree)) == [
        "docs/glossary.md is missing",
        "docs/protocol states no numbered requirement",
    ]


def test_commands_are_cut_before_their_options():
    page = (
        "`make test`, and:\n\n```console\n$ .venv/bin/ferrule allow hmi-a plc-b modbus --for 2h\n"
        "ferrule audit verify\nferrule-edge kill --dir DIR\nmake demo KEEP=1\nls\n```\n"
    )
    assert docs.commands(page) == {
        ("make", "test"),
        ("make", "demo"),
        ("ferrule", "allow", "hmi-a"),
        ("ferrule", "audit", "verify"),
        ("ferrule-edge", "kill"),
    }
