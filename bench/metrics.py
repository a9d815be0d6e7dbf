"""What each measured figure means: its unit, and which direction is better."""

from typing import NamedTuple


class Metric(NamedTuple):
    """`better` is 1 where more is better, -1 where less is, 0 where it only tells about the measurement itself."""

    title: str
    unit: str
    better: int = 0


METRICS = {
    "gbit_per_s": Metric("throughput", "Gbit/s", 1),
    "up_gbit_per_s": Metric("throughput up", "Gbit/s", 1),
    "down_gbit_per_s": Metric("throughput down", "Gbit/s", 1),
    "jain": Metric("Jain's fairness", "", 1),
    "cpu_s_per_gb": Metric("CPU of the candidate", "s/GB", -1),
    "p50_us": Metric("p50", "µs", -1),
    "p90_us": Metric("p90", "µs", -1),
    "p99_us": Metric("p99", "µs", -1),
    "p99_9_us": Metric("p99.9", "µs", -1),
    "max_us": Metric("max", "µs"),
    "jitter_us": Metric("jitter", "µs", -1),
    "late_p99_us": Metric("generator late, p99", "µs"),
    "polls_per_s": Metric("polls", "1/s", 1),
    "bulk_gbit_per_s": Metric("bulk next to it", "Gbit/s", 1),
    "stream_mbit_per_s": Metric("stream next to it", "Mbit/s", 1),
    "per_s": Metric("connections", "1/s", 1),
    "failed": Metric("failed", "", -1),
    "datagrams_per_s": Metric("datagrams delivered", "1/s", 1),
    "loss_percent": Metric("lost", "%", -1),
    "cpu_percent": Metric("CPU, busiest program", "% of a core", -1),
    "edge_mb": Metric("edge with all open", "MB", -1),
    "router_mb": Metric("router with all open", "MB", -1),
    "edge_kb_idle": Metric("edge, per idle circuit", "KB", -1),
    "router_kb_idle": Metric("router, per idle circuit", "KB", -1),
    "edge_kb_busy": Metric("edge, per busy circuit", "KB", -1),
    "router_kb_busy": Metric("router, per busy circuit", "KB", -1),
    "idle_cpu_percent": Metric("idle CPU, all programs", "% of a core", -1),
    "iperf_gbit_per_s": Metric("iperf3", "Gbit/s", 1),
    "decisions_per_s": Metric("decisions", "1/s", 1),
    "far_mbit_per_s": Metric("throughput", "Mbit/s", 1),
    "plain_mbit_per_s": Metric("plain TCP on the same path", "Mbit/s", 1),
    "of_plain": Metric("of plain TCP", "×", 1),
    "stall_p50_ms": Metric("p50", "ms", -1),
    "stall_p99_ms": Metric("p99", "ms", -1),
    "stall_max_ms": Metric("longest", "ms", -1),
    "faults": Metric("faults", ""),
    "decision_p99_us": Metric("one decision, p99", "µs", -1),
}
