"""How long an edge takes to load 10,000 intercepts, and to match one flow: `python -m bench.intercepts`.

Each intercept is an asset with one service, its place in both pools and one subnet. CPU seconds, medians of five.
"""

import ipaddress
import statistics
import time

from edge.intercept.table import Table
from overlay.control.messages import Assignments, InterceptEntry, ServicePorts
from overlay.policy.interception import Pools
from overlay.wire.bodies import STREAM
from overlay.wire.codec import decode, encode

COUNT = 10_000
ROUNDS = 5


def main() -> None:
    """Measure, and print two lines."""
    pools = Pools.of((), bytes(32))
    message = encode(
        Assignments(1, b"", (), (), tuple(
            InterceptEntry(
                f"plc-{n}", 16 + n, (ServicePorts(f"plc-{n}.modbus", 502, 502, STREAM),), "edge-a", 0,
                (f"10.{n // 250}.{n % 250}.0/24",),
            )
            for n in range(COUNT)
        ))
    )  # fmt: skip
    destinations = [ipaddress.ip_address(f"10.{n // 250}.{n % 250}.7").packed for n in range(COUNT)]
    loads, matches = [], []
    for _ in range(ROUNDS):
        begun = time.process_time()
        table = Table(decode(Assignments, message).intercepts, (), pools, "edge-a")
        loads.append(time.process_time() - begun)
        begun = time.process_time()
        found = sum(bool(table.match(STREAM, one, 502).service) for one in destinations)
        matches.append((time.process_time() - begun) / COUNT)
        if found != COUNT:
            raise SystemExit(f"{COUNT - found} were not found")
    print(f"load {COUNT:,} intercepts: {statistics.median(loads):.2f} CPU s")
    print(f"match one flow: {statistics.median(matches) * 1e6:.1f} CPU µs")


if __name__ == "__main__":
    main()
