"""A node that stops takes no circuit any more, though its links stay for the last words of the others."""

import asyncio

import pytest

from overlay.aio.circuit_roles import Refused
from overlay.errors import Code
from tests.support.circuits import LATENCY, Plant
from tests.unit.aio.test_endpoint import story


def test_nothing_is_opened_on_a_node_that_stops():
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        plant.b.endpoint.close()
        assert plant.b.endpoint.streams() == []
        with pytest.raises(Refused) as caught:
            await plant.a.endpoint.dial("plc-b.modbus", plant.grant())
        assert caught.value.code is Code.GOING_AWAY
        assert plant.b.endpoint.streams() == []
        assert len(plant.b.hosted) == 1

    story(test)


@pytest.mark.parametrize("steps", range(1, 9))
def test_no_circuit_comes_of_a_handshake_that_goes_on(steps: int):
    async def test(plant: Plant):
        plant.b.serve = plant.b.echo
        stream = plant.a.endpoint.open("plc-b.modbus", plant.grant())
        await asyncio.sleep(steps * LATENCY)
        hosted = len(plant.b.hosted)
        plant.b.endpoint.close()
        await asyncio.sleep(1)
        assert plant.b.endpoint.streams() == []
        assert len(plant.b.hosted) == hosted
        stream.abort(Code.NORMAL, "enough")

    story(test)
