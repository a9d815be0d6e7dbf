"""The leak check itself is seen to fail."""

from pathlib import Path

import pytest

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


def test_a_task_left_running_fails_its_test(pytester: pytest.Pytester):
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
    )
    pytester.makeconftest(CONFTEST.read_text().replace('pytest_plugins = ["pytester"]\n', ""))
    pytester.makepyfile(PROBE)
    result = pytester.runpytest("-p", "no:cacheprovider")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*the test left 1 task(s) running*", "ERROR *test_leaves_a_task*"])
