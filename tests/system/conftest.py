"""A plant of real processes per module; when a test fails, its programs' last words are in the report."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from deploy.demo.plant import Plant
from tests.support import seen
from tests.support.operator import Operator
from tests.support.traffic import Echo

LOG_LINES = 30


@pytest.fixture(scope="session", autouse=True)
def _operator() -> Iterator[None]:
    """Commands of operators are forked, not started; tests/system/test_docs_examples.py starts the program itself."""
    Plant.operator = Operator
    yield
    Plant.operator = None


@pytest.fixture(scope="module")
def plant(request: pytest.FixtureRequest) -> Iterator[Plant]:
    """One router, edges `edge-a` (callers) and `edge-b` (assets); a module may say otherwise in `PLANT`."""
    made = Plant(**getattr(request.module, "PLANT", {}))
    request.config.stash[_PLANT] = made
    with made:
        yield made


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    """The asset: it sends back what it gets."""
    with Echo() as server:
        yield server


@pytest.fixture(scope="module")
def port(plant: Plant, echo: Echo) -> int:
    """The port at which edge-a offers `plc-b.echo` to hmi-a."""
    return plant.offer(echo.port, protocol="echo")


@pytest.fixture
def calm(plant: Plant) -> Iterator[Plant]:
    """The module's plant, without conduits and kills before and after the test."""
    seen.calm(plant)
    yield plant
    seen.calm(plant)


_PLANT = pytest.StashKey[Plant]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds the end of each program's log to the report of a failed test."""
    del call
    report = yield
    plant = item.config.stash.get(_PLANT, None)
    if report.failed and plant is not None:
        for log in sorted(Path(plant.folder).glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            report.sections.append((log.name, "\n".join(lines)))
    return report
