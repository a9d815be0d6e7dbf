"""`make bench`: the three programs next to a plain relay chain of the same shape, interleaved in one run.

Options: --seconds N (of each measurement), --rounds N, --output FILE (JSON).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.path import (
    SERVER_PORT,
    BenchPlant,
    Relay,
    cpu_seconds,
    inside,
    namespaces,
    wait_for_server,
)

MODES = ("header", "full", "tls")
WHAT = ("bulk 1", "bulk 8", "echo")
Result = dict[str, float]


def load(*arguments: str) -> Result:
    """One run of a load program in namespace a."""
    command = [*inside("a"), sys.executable, "-m", "bench.load", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: {done.stderr.strip()[-300:]}")
    result: Result = json.loads(done.stdout)
    return result


def measure(what: str, port: int, pids: list[int], seconds: float) -> Result:
    """One measurement of one candidate, with the CPU time that its programs used."""
    before = cpu_seconds(pids)
    kind, *streams = what.split()
    result = load(kind, "127.0.0.1", str(port), *streams, str(seconds))
    used = cpu_seconds(pids) - before
    if "bytes" in result:
        result["cpu_s_per_gb"] = used / (result["bytes"] / 1e9)
    return result


def report(results: dict[str, dict[str, list[Result]]]) -> None:
    """Medians and ranges, and ratios against the relay chain of the same run."""
    rows = (
        ("bulk 1", "gbit_per_s"),
        ("bulk 1", "cpu_s_per_gb"),
        ("bulk 8", "gbit_per_s"),
        ("bulk 8", "jain"),
        ("echo", "p50_us"),
        ("echo", "p99_us"),
    )
    names = list(results)
    print(f"\n{'':24}" + "".join(f"{name:>34}" for name in names))
    for what, figure in rows:
        cells = []
        base = statistics.median(run[figure] for run in results["relay"][what])
        for name in names:
            values = [run[figure] for run in results[name][what]]
            middle = statistics.median(values)
            cells.append(
                f"{middle:.3g} ({min(values):.3g} to {max(values):.3g}), ×{middle / base:.2f}"
            )
        print(f"{what + ' ' + figure:24}" + "".join(f"{cell:>34}" for cell in cells))


def main() -> None:
    """Build the path, measure in turns, report."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("bench-result.json"))
    options = parser.parse_args()
    if os.geteuid():
        sys.exit("the benchmarks make network namespaces: run them as root")
    results: dict[str, dict[str, list[Result]]] = {}
    with tempfile.TemporaryDirectory() as folder, namespaces():
        server = subprocess.Popen(
            [
                *inside("b"),
                sys.executable,
                "-m",
                "bench.load",
                "serve",
                "127.0.0.1",
                str(SERVER_PORT),
            ]
        )
        wait_for_server()
        relay = Relay(Path(folder))
        plants = {f"ferrule {mode}": BenchPlant(mode) for mode in MODES}
        try:
            candidates = {"relay": (relay.port, [process.pid for process in relay.processes])}
            for name, plant in plants.items():
                print(f"starting {name}", flush=True)
                plant.build()
                plant.offer_server()
                candidates[name] = (plant.port, plant.processes())
            for round_number in range(options.rounds):
                for what in WHAT:
                    for name, (port, pids) in candidates.items():
                        outcome = measure(what, port, pids, options.seconds)
                        results.setdefault(name, {}).setdefault(what, []).append(outcome)
                        print(
                            f"round {round_number + 1}/{options.rounds}  {what:8} {name:16} "
                            + "  ".join(f"{key} {value:.4g}" for key, value in outcome.items()),
                            flush=True,
                        )
        finally:
            for plant in plants.values():
                plant.stop()
            relay.stop()
            server.kill()
            server.wait()
    machine = {
        "machine": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    options.output.write_text(json.dumps({"machine": machine, "results": results}, indent=1))
    report(results)
    print(f"\nwritten to {options.output}")


if __name__ == "__main__":
    main()
