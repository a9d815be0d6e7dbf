"""Two edges before one asset share who calls it by their weights, and either does alone when the other dies (F-15)."""

import asyncio

import pytest

import edge
from deploy.demo.plant import Plant, until
from edge.library import Plant as Library
from tests.support.traffic import Echo

pytestmark = pytest.mark.timeout(400)

CALLS = 40
WEIGHTS = {"edge-a": 1, "edge-b": 3}
"""In the order of the grant's hosts."""


def due(circuit: str) -> str:
    """Whose part of the sum the circuit's id falls into."""
    draw = int.from_bytes(bytes.fromhex(circuit)[8:14], "big") / (1 << 48)
    return "edge-a" if draw < WEIGHTS["edge-a"] / sum(WEIGHTS.values()) else "edge-b"


def sessions(plant: Plant) -> dict[str, str]:
    """The edge that hosted each circuit."""
    return {one["id"]: one["path"][-1] for one in plant.json("sessions", "--history")}


async def call(there: Library) -> None:
    """As one who has never called before: it is associations that are shared out (C-04)."""
    assert there._edge is not None
    there._edge.endpoint.forget(lambda _: True)
    reader, writer = await there.connect("plc-w.echo")
    writer.write(b"poll")
    assert await reader.readexactly(4) == b"poll"
    writer.close()
    await writer.wait_closed()


async def test_weights_share_callers_and_the_one_that_is_left_takes_all(plant: Plant, echo: Echo):
    fronts = [word for name, weight in WEIGHTS.items() for word in ("--edge", f"{name}:1:{weight}")]
    plant.ferrule("add", "asset", "plc-w", *fronts, "--address", "127.0.0.1")
    plant.ferrule("add", "service", "plc-w", "echo", "--port", str(echo.port))
    plant.ferrule("add", "edge", "bench", "--token-out", plant.path("bench.token"))
    plant.ferrule("allow", "bench", "plc-w", "echo")
    async with edge.open(plant.path("bench"), token=plant.path("bench.token")) as there:
        for _ in range(CALLS):
            await call(there)
        await asyncio.to_thread(until, lambda: len(sessions(plant)) == CALLS, 60, "all sessions")
        found = sessions(plant)
        assert found == {circuit: due(circuit) for circuit in found}
        assert set(found.values()) == set(WEIGHTS), "one run in 100,000 has one edge only"
        for dies, stays in (("edge-b", "edge-a"), ("edge-a", "edge-b")):
            plant.kill(dies)
            async with asyncio.timeout(120):
                for _ in range(5):
                    await call(there)
            known = len(found) + 5
            await asyncio.to_thread(until, lambda: len(sessions(plant)) == known, 60, "sessions")  # noqa: B023
            new = {one: host for one, host in sessions(plant).items() if one not in found}
            assert set(new.values()) == {stays}
            found |= new
            plant.start_again(dies)
            await asyncio.to_thread(plant.connected)
