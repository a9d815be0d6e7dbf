"""The leak check itself is seen to fail, and no test has a name that workers misread."""

import subprocess
from pathlib import Path

import pytest

from tests.support.needs import missing, need_program, need_root

CONFTEST = Path(__file__).parents[1] / "conftest.py"

PROBE = """
import asyncio
import pytest

@pytest.fixture
async def worker():
    task = asyncio.get_running_loop().create_task(asyncio.sleep(50))
    yield
    task.cancel()

async def test_leaves_a_task():
    test_leaves_a_task.task = asyncio.get_running_loop().create_task(asyncio.sleep(50))

async def test_fixture_cleans_up(worker):
    pass

def test_without_a_loop():
    pass
"""


NAMED = """
import pytest

@pytest.mark.parametrize("host", ["fd64::7", "192.0.2.1"])
def test_one(host):
    assert "." in host or "::" in host
"""


WRITER = """
from pathlib import Path
import pytest

@pytest.fixture(scope="module", params=[1])
def other():
    yield
    Path("/etc/resolv.conf").write_text("nameserver 100.64.0.2\\n")

def test_one():
    Path("/etc/resolv.conf").write_text("nameserver 100.64.0.1\\n")

def test_two(other):
    assert "100.64" not in Path("/etc/resolv.conf").read_text()

def test_three():
    pass
"""


def prepare(pytester: pytest.Pytester) -> None:
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    pytester.makeconftest(CONFTEST.read_text().replace('pytest_plugins = ["pytester"]\n', ""))


def test_an_address_does_not_part_a_test_from_its_module(pytester: pytest.Pytester):
    prepare(pytester)
    path = pytester.makepyfile(NAMED)
    result = pytester.runpytest("-p", "no:cacheprovider", "--collect-only", "-q")
    names = [line for line in result.outlines if "test_one" in line]
    assert len(names) == 2
    assert {name.rsplit("::", 1)[0] for name in names} == {path.name}, "the scope of pytest-xdist"
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(passed=2)


def test_who_writes_resolv_conf_is_told_so_and_the_machine_keeps_its_own(pytester: pytest.Pytester):
    """The last one is written by what ends between two tests. Our own file is that of the machine for a run within ours."""
    need_root()
    if subprocess.run(
        [need_program("unshare", "util-linux"), "--mount", "true"], check=False
    ).returncode:
        missing("This test needs a mount namespace, which this machine does not allow.")
    machine = Path("/etc/resolv.conf")
    before = machine.read_bytes()
    prepare(pytester)
    pytester.makepyfile(WRITER)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, errors=2)
    words = ("*teardown of test_one*", "*100.64.0.1*", "*teardown of test_three*", "*100.64.0.2*")
    result.stdout.fnmatch_lines(words)
    assert machine.read_bytes() == before


def test_a_task_left_running_fails_its_test(pytester: pytest.Pytester):
    prepare(pytester)
    pytester.makepyfile(PROBE)
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*the test left 1 task(s) running*", "ERROR *test_leaves_a_task*"])
