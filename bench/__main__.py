"""`make bench`: Ferrule next to its peers on one path, in one run. `python -m bench compare A B` compares two runs."""

import argparse
import contextlib
import os
import resource
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType

from bench.candidates import registry
from bench.compare import different_machines, explain
from bench.errors import BenchError
from bench.options import add_to, plan
from bench.progress import Progress
from bench.report.page import page
from bench.report.text import summary
from bench.results import Result, read, write
from bench.run import Run
from bench.scenarios.registry import SCENARIOS

INTERRUPTED = 130
OPEN_FILES = 65_536
"""What the candidates may open, each: as many as a server's operator would allow."""


def stop(number: int, frame: FrameType | None) -> None:
    """SIGTERM ends a run as Ctrl-C does: in order."""
    raise KeyboardInterrupt


def show_list() -> None:
    """Candidates and scenarios, for --candidates and --scenarios."""
    print("candidates:", *registry.NAMES, sep="\n  ")
    print("scenarios:")
    width = max(len(scenario.name) for scenario in SCENARIOS)
    for scenario in SCENARIOS:
        print(f"  {scenario.name:{width}}  {scenario.title}")


def run(options: argparse.Namespace) -> int:
    """Measure, and write the reports."""
    if options.list:
        show_list()
        return 0
    if os.geteuid():
        raise BenchError("the benchmark makes network namespaces: run it as root")
    if shutil.which("ip") is None:
        raise BenchError("the benchmark needs `ip`: as root, run apt-get install iproute2")
    signal.signal(signal.SIGTERM, stop)
    allow_open_files()
    chosen = plan(options)
    try:
        chosen.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BenchError(f"{chosen.output}: no folder for the reports: {error.strerror}") from None
    one = Run(chosen, Progress())
    try:
        one.execute()
    except KeyboardInterrupt:
        print("stopped; programs and namespaces are gone", file=sys.stderr)
        if not one.result.measurements:
            return INTERRUPTED
    write_reports(one.result, chosen.output)
    return 0 if one.result.complete else INTERRUPTED


def allow_open_files() -> None:
    """As many open files as this system grants, for ourselves and all that we start."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for limit in (OPEN_FILES, hard):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, max(limit, hard)))
            return


def write_reports(result: Result, folder: Path) -> None:
    """JSON, HTML and text beside one another; the text is printed as well."""
    text = summary(result)
    write(result, folder / "result.json")
    (folder / "report.html").write_text(page(result))
    (folder / "summary.txt").write_text(text)
    print(text)
    print(f"written: {folder / 'report.html'}, {folder / 'result.json'}, {folder / 'summary.txt'}")


def compare(options: argparse.Namespace) -> int:
    """Two results next to each other."""
    first, second = read(options.first), read(options.second)
    apart = different_machines(first, second)
    if apart and not options.across_machines:
        raise BenchError(
            f"these are results of different machines ({'; '.join(apart)}), whose values cannot be compared: "
            "--across-machines compares ratios to each run's own relay chain"
        )
    if apart:
        print(f"DIFFERENT MACHINES ({'; '.join(apart)}): ratios only\n")
    print("\n".join(explain(first, second, as_ratios=bool(apart))))
    return 0


def arguments() -> argparse.Namespace:
    """The command line."""
    if sys.argv[1:2] == ["compare"]:
        parser = argparse.ArgumentParser(
            prog="python -m bench compare",
            description="Say which differences of two runs are noise.",
        )
        parser.add_argument("first", type=Path, help="result.json of the run before")
        parser.add_argument("second", type=Path, help="result.json of the run after")
        parser.add_argument("--across-machines", action="store_true", help="compare ratios only")
        parser.set_defaults(do=compare)
        return parser.parse_args(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    add_to(parser)
    parser.set_defaults(do=run)
    return parser.parse_args()


def main() -> int:
    """Do what the command line says; what is wrong is said in one sentence."""
    options = arguments()
    try:
        return int(options.do(options))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
