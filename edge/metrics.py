"""An edge's Prometheus metrics. Pure.

None of them names a service, an asset or an address: whoever has an account on the host may read them.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

_GAUGES = {
    "connected": "The control circuit is up.",
    "fresh": "The authority is fresh.",
    "forks": "Forks of the audit log that this edge has seen.",
    "killed": "The local kill switch is pulled.",
    "links": "Routers that there is a link to.",
    "bulk_circuits": "Circuits that are in bulk lanes.",
    "listeners": "Listeners that are bound.",
    "services_down": "Hosted services that are checked and do not answer.",
    "problems": "What `ferrule-edge status` names as a problem.",
    "spool_events": "Events that the controller has not proven to have recorded.",
    "spool_bytes": "Bytes of the audit spool.",
}
_COUNTERS = {
    "resumed": "How often circuits went on by a new path.",
    "resent_bytes": "Bytes that were sent again over a new path.",
    "stalled_seconds": "Seconds that circuits were without any path.",
    "late_paths": "Paths that came after their callers had given them up.",
    "datagrams_dropped": "Datagrams dropped: their queue was full, or no circuit was to be had.",
    "admitted": "Circuits of others that were opened to what this edge hosts.",
    "denied": "Circuits that this edge denied, as the caller's or as the host's.",
    "failed": "Circuits that found no way, or whose asset did not answer.",
}


def families(status: Mapping[str, Any]) -> Iterable[Metric]:
    """What `Edge.status` says, in numbers."""
    for name, value in _gauges(status).items():
        yield GaugeMetricFamily(f"ferrule_edge_{name}", _GAUGES[name], float(value))
    for name, value in _counters(status["circuits"]).items():
        yield CounterMetricFamily(f"ferrule_edge_{name}", _COUNTERS[name], float(value))
    circuits = GaugeMetricFamily(
        "ferrule_edge_circuits", "Circuits that are open.", labels=["side"]
    )
    for side in ("hosting", "calling"):
        circuits.add_metric([side], status["circuits"][side])
    yield circuits
    trips = GaugeMetricFamily(
        "ferrule_edge_round_trip_seconds", "Round trip to a router, smoothed.", labels=["router"]
    )
    for router, milliseconds in status["links"].items():
        if milliseconds is not None:
            trips.add_metric([router], milliseconds / 1000)
    yield trips
    if status.get("interception"):
        yield from _of_interception(status["interception"])


def _gauges(status: Mapping[str, Any]) -> dict[str, float]:
    return {
        "connected": status["state"] == "connected",
        "fresh": status["fresh"],
        "forks": len((status["log"] or {}).get("forks", ())),
        "killed": status["kill"] is not None,
        "links": len(status["links"]),
        "bulk_circuits": status["circuits"]["bulk"],
        "listeners": len(status["listeners"]),
        "services_down": sum(one["state"] == "down" for one in status["health"]),
        "problems": len(status["problems"]),
        "spool_events": status["spool"]["events"],
        "spool_bytes": status["spool"]["bytes"],
    }


def _counters(circuits: Mapping[str, float]) -> dict[str, float]:
    return {
        "resumed": circuits["resumes"],
        "resent_bytes": circuits["resent_bytes"],
        "stalled_seconds": circuits["stalled"],
        "late_paths": circuits["late_paths"],
        "datagrams_dropped": circuits["datagrams_dropped"],
        "admitted": circuits["admitted"],
        "denied": circuits["denied"],
        "failed": circuits["failed"],
    }


def _of_interception(found: Mapping[str, Any]) -> Iterable[Metric]:
    """By mode: the first is where `status` shows it, others are under their names."""
    flows = GaugeMetricFamily(
        "ferrule_edge_intercepted_flows", "Flows that go on.", labels=["mode", "kind"]
    )
    counts = CounterMetricFamily(
        "ferrule_edge_intercepted", "What was not carried, by why.", labels=["mode", "what"]
    )
    first, *others = str(found["mode"] or "").split(" and ")
    for mode, told in ((first, found), *((one, found[one]) for one in others)):
        for kind, number in told.get("flows", {}).items():
            flows.add_metric([mode, kind], number)
        for what, number in told.get("counts", {}).items():
            counts.add_metric([mode, what], number)
    yield flows
    yield counts
