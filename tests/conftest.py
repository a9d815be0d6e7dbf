"""Hypothesis profiles, event loops and the leak check that every test runs under."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.support.secluded import Secluded

HERE = Path(__file__).parent

pytest_plugins = ["pytester"]

settings.register_profile("fast", max_examples=50, deadline=None, print_blob=True)
settings.register_profile(
    "deep",
    max_examples=5_000,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


BOTH_LOOPS = ("test_lanes.py", "test_link.py", "test_splicing.py", "test_system.py")
"""What stands between event loops and everything else."""


_SECLUDED = pytest.StashKey[Secluded]()


def pytest_configure(config: pytest.Config) -> None:
    """Before anything runs: no test gets at this machine's resolv.conf."""
    config.stash[_SECLUDED] = Secluded()


def pytest_unconfigure(config: pytest.Config) -> None:
    """The other end."""
    config.stash[_SECLUDED].close()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, None, None]:
    """Fails the test in or after which somebody wrote what would be this machine's resolv.conf."""
    yield
    said = item.config.stash[_SECLUDED].written()
    if said:
        pytest.fail(said, pytrace=False)


def _is_in(item: pytest.Item, folder: str) -> bool:
    return item.path.is_relative_to(HERE / folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under tests/system starts real processes, whoever forgets to say so."""
    for item in items:
        if _is_in(item, "system"):
            item.add_marker(pytest.mark.system)


def pytest_make_parametrize_id(val: object) -> str | None:
    """No "::" of an IPv6 address in a test's name: `--dist loadscope` takes what is before the last one for its module,
    and so runs that test elsewhere, or after others that it has to come before."""
    return val.replace("::", "..") if isinstance(val, str) and "::" in val else None


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests with real sockets run on the loop of the programs, those of the sockets themselves on asyncio's, too."""
    if not _is_in(item, "integration"):
        return {"asyncio": asyncio.new_event_loop}
    if item.path.name not in BOTH_LOOPS:
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture
async def no_task_left() -> AsyncIterator[None]:
    """Fails the test that leaves a task behind; it is torn down after the test's own fixtures."""
    yield
    await asyncio.sleep(0)  # a task that was just cancelled or has just returned ends now
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    if left:
        names = ", ".join(sorted(f"{task.get_name()} {task.get_coro()!r}" for task in left))
        pytest.fail(f"the test left {len(left)} task(s) running: {names}")


@pytest.fixture(autouse=True)
def _leak_check(request: pytest.FixtureRequest) -> None:
    """Gives each asynchronous test the check; the others need no event loop for it."""
    if request.node.get_closest_marker("asyncio") is not None:
        request.getfixturevalue("no_task_left")
