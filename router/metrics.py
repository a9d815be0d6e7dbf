"""A router's Prometheus metrics. Pure."""

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric


def families(facts: Mapping[str, object]) -> Iterable[Metric]:
    """All numbers of a router's facts (`router.program.facts`); those under `counts` are counters."""
    for name, value in facts.items():
        if isinstance(value, bool | int | float):
            yield GaugeMetricFamily(f"ferrule_router_{name}", _WORDS.get(name, name), float(value))
    refused = CounterMetricFamily(
        "ferrule_router_refused", "Circuits that were refused.", labels=["code"]
    )
    counts = facts.get("counts")
    counted = dict.fromkeys(_COUNTED, 0) | (dict(counts) if isinstance(counts, Mapping) else {})
    for name, value in sorted(counted.items()):
        if name.startswith("refused_"):
            refused.add_metric([name.removeprefix("refused_")], value)
        else:
            text = _WORDS.get(str(name), "")
            yield CounterMetricFamily(f"ferrule_router_{name}", text, float(value))
    yield refused
    yield from _of_workers(facts.get("workers"))


def _of_workers(workers: object) -> Iterable[Metric]:
    """Each worker by its lane."""
    if not isinstance(workers, list) or not workers:
        return
    for name, kind in _WORKER.items():
        text = _WORDS[name]
        family: GaugeMetricFamily | CounterMetricFamily
        if kind == "counter":
            family = CounterMetricFamily(f"ferrule_router_worker_{name}", text, labels=["lane"])
        else:
            family = GaugeMetricFamily(f"ferrule_router_worker_{name}", text, labels=["lane"])
        for worker in workers:
            family.add_metric([str(worker["lane"])], float(worker[name]))
        yield family


_WORKER = {
    "up": "gauge",
    "links": "gauge",
    "circuits": "gauge",
    "queued_bytes": "gauge",
    "busy": "gauge",
    "starts": "counter",
    "frames": "counter",
    "bytes": "counter",
}
_COUNTED = (
    "admitted", "resumed", "asked", "sent_away", "suspected", "cut", "shed", "tampered", "misbehaved",
    "handshakes_failed", "handshakes_turned_away",
)  # fmt: skip
"""Counters that are there from the start: the first time that something happens is a rise, too."""
_WORDS = {
    "up": "The worker runs.",
    "starts": "How often the worker was started.",
    "links": "Links that are up.",
    "circuits": "Circuits that pass.",
    "queued_bytes": "Bytes that wait for links to take them.",
    "busy": "Percent of a core that the busiest process, or this worker, uses.",
    "connected": "The control circuit is up.",
    "fresh": "The authority is fresh.",
    "forks": "Forks of the audit log that this router has seen.",
    "frames": "Frames forwarded.",
    "bytes": "Payload bytes of DATA forwarded.",
    "admitted": "Circuits admitted.",
    "resumed": "Circuits that came here on a new path.",
    "asked": "Hosts that asked their callers for another path.",
    "sent_away": "Circuits sent to other paths: this router drains, or the next one does not answer.",
    "suspected": "How often a router at the other end of a link did not answer.",
    "cut": "Circuits cut because their grant was over or void, or by a limit.",
    "shed": "Circuits given up because too much waited.",
    "tampered": "Links ended because a record did not authenticate.",
    "misbehaved": "Links and circuits ended because the other side broke the rules.",
    "handshakes_failed": "Handshakes that failed.",
    "handshakes_turned_away": "Connections closed at once because there was no place.",
    "datagrams_dropped": "Datagrams dropped because their queue was full.",
}
