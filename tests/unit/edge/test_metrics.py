"""An edge's metrics: every number of its status, and nobody's name."""

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector

from edge.metrics import families
from overlay.control.messages import Assignments, HostedEntry
from tests.support.edges import ASSET, PORT, Plant, story


def scraped(status: dict[str, Any]) -> dict[str, float]:
    """Every sample by its name and labels, as Prometheus reads them."""

    class Once(Collector):
        def collect(self):
            return families(status)

    registry = CollectorRegistry()
    registry.register(Once())
    lines = generate_latest(registry).decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}


def test_circuits_refusals_links_and_the_spool_are_counted():
    async def test(plant: Plant):
        before = scraped(plant.a.status())
        assert before["ferrule_edge_denied_total"] == 0, "there from the start"
        denied = await plant.dial()
        await asyncio.sleep(0.1)
        assert denied.gone
        plant.allow()
        await plant.poll()
        plant.a.events.failed(plant.a.endpoint.streams()[0], "no way")
        found, host = scraped(plant.a.status()), scraped(plant.b.status())
        assert found["ferrule_edge_denied_total"] == found["ferrule_edge_failed_total"] == 1
        assert (found["ferrule_edge_admitted_total"], host["ferrule_edge_admitted_total"]) == (0, 1)
        assert found['ferrule_edge_circuits{side="calling"}'] == 1
        assert host['ferrule_edge_circuits{side="hosting"}'] == 1
        assert found["ferrule_edge_links"] == 2
        assert found['ferrule_edge_round_trip_seconds{router="router-1"}'] == 0.0015
        assert 'ferrule_edge_round_trip_seconds{router="router-2"}' not in found, "not measured yet"
        assert found["ferrule_edge_listeners"] == found["ferrule_edge_connected"] == 1
        assert found["ferrule_edge_spool_events"] == len(plant.a.agent.events) == 2
        assert not any(name in key for key in found for name in ("plc-b", "hmi-a", "edge-"))

    story(test)


def test_new_paths_and_what_they_cost():
    async def test(plant: Plant):
        plant.allow()
        client = await plant.poll()
        plant.router.links["edge-a"].cut()
        await asyncio.sleep(0.2)
        plant.attach("edge-a")
        client.connection.write((b"again",))
        await client.expect(b"again")
        status = plant.a.status()["circuits"]
        found = scraped(plant.a.status())
        assert found["ferrule_edge_resumed_total"] == status["resumes"] == 1
        assert found["ferrule_edge_stalled_seconds_total"] == status["stalled"] > 0
        assert found["ferrule_edge_resent_bytes_total"] == status["resent_bytes"]

    story(test)


def test_an_asset_that_is_silent_and_a_switch_that_is_pulled_are_seen():
    async def test(plant: Plant):
        plant.b.assigned(
            Assignments(
                2, b"", (), (HostedEntry("plc-b.modbus", ASSET, ASSET, PORT, PORT, 0, 0, 10),)
            )
        )
        plant.sim.net.cut("edge-b", ASSET)
        await asyncio.sleep(30)
        await plant.b.pull("smoke")
        found = scraped(plant.b.status())
        assert found["ferrule_edge_services_down"] == found["ferrule_edge_killed"] == 1

    story(test)


def test_what_is_intercepted_is_told_by_mode():
    status: dict[str, Any] = {
        "state": "lost", "kill": None, "links": {}, "fresh": False, "log": None, "listeners": [],
        "health": [], "problems": ["x"], "spool": {"events": 0, "bytes": 0},
        "circuits": dict.fromkeys(
            (
                "hosting", "calling", "bulk", "resumes", "resent_bytes", "stalled", "late_paths",
                "datagrams_dropped", "admitted", "denied", "failed",
            ), 0,
        ),
        "interception": {
            "mode": "tun and tproxy", "flows": {"tcp": 2}, "counts": {"denied": 3},
            "tproxy": {"flows": {"tcp": 5}, "counts": {"denied": 7}},
        },
    }  # fmt: skip
    found = scraped(status)
    assert found['ferrule_edge_intercepted_flows{kind="tcp",mode="tun"}'] == 2
    assert found['ferrule_edge_intercepted_flows{kind="tcp",mode="tproxy"}'] == 5
    assert found['ferrule_edge_intercepted_total{mode="tun",what="denied"}'] == 3
    assert found['ferrule_edge_intercepted_total{mode="tproxy",what="denied"}'] == 7
    assert found["ferrule_edge_problems"] == 1
    status["interception"] = {"mode": None, "why": "it is being set up"}
    assert "ferrule_edge_intercepted_flows" not in "".join(scraped(status))
