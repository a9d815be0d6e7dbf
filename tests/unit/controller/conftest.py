"""Fixtures of the action layer: an empty plant, and a small one."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.controllers import Controller, Mill, controller, filled


@pytest.fixture
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Controller]:
    """A plant with its controller and nothing else."""
    async with controller(Path(tmp_path_factory.mktemp("plant"))) as made:
        yield made


@pytest.fixture
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mill]:
    """`hmi-a` behind `edge-a`, `plc-b.modbus` behind `edge-b`, one router; nothing is allowed."""
    async with filled(Path(tmp_path_factory.mktemp("plant"))) as plant:
        yield plant
