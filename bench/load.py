"""Runs the load generator (bench/generator, in C) in the namespaces, and watches what the candidate uses meanwhile.

All processes of one measurement get the same two points of CLOCK_MONOTONIC: only what happens between them counts.
CPU time is read at the same two points.
"""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import processes
from bench.candidates.base import Address, Candidate
from bench.errors import BenchError
from bench.path import SERVER_PORT, inside

SOURCES = Path(__file__).parent / "generator"
PATIENCE = 90.0
"""Seconds after its end that a load may still drain what a candidate has buffered."""

NOT_UP = "not up before the measurement began"
"""What `client.c` says when connections took longer than expected."""
MORE_TIME = 4


class Load(NamedTuple):
    """One process of the generator: `kind` and arguments as in `client.c`, and where it connects to."""

    kind: str
    arguments: tuple[str, ...]
    address: Address


class Watched(NamedTuple):
    """What was used between the two points, in seconds of CPU (`steal`, `others`, `background`: in cores)."""

    cpu: dict[str, float]
    generator: float
    others: float
    background: float
    steal: float
    memory: dict[str, int]


class Generator:
    """The compiled load generator, and its server in namespace `b`."""

    def __init__(self, folder: Path, warm_up: float) -> None:
        self.program = str(folder / "load")
        self.warm_up = warm_up
        self.server: subprocess.Popen[bytes] | None = None

    def build(self) -> None:
        """Compile it.

        Raises:
            BenchError: there is no C compiler, or it refuses.
        """
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise BenchError(
                "the load generator needs a C compiler: as root, run apt-get install gcc libc6-dev"
            )
        sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
        done = subprocess.run(
            [compiler, "-O2", "-pthread", "-o", self.program, *sources],
            check=False,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise BenchError(f"the load generator does not compile: {done.stderr.strip()[-400:]}")

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """The server runs in namespace `b`."""
        self.server = subprocess.Popen(
            [*inside("b"), self.program, "serve", str(SERVER_PORT)], start_new_session=True
        )
        try:
            deadline = time.monotonic() + 10
            while not self.answers(("127.0.0.1", SERVER_PORT), "b"):
                if time.monotonic() > deadline:
                    raise BenchError("the load generator's server does not answer")
            yield
        finally:
            self.server.kill()
            self.server.wait()

    def answers(self, address: Address, side: str = "a") -> bool:
        """Whether a poll comes back from there."""
        start = time.monotonic_ns()
        command = self.command(
            Load("poll", ("1", "0"), address), start + 300_000_000, start + 301_000_000, side
        )
        try:
            done = subprocess.run(command, check=False, capture_output=True, timeout=5)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def command(self, load: Load, begin: int, end: int, side: str = "a") -> list[str]:
        """The command line of one load."""
        host, port = load.address
        return [
            *inside(side),
            self.program,
            load.kind,
            host,
            str(port),
            str(begin),
            str(end),
            *load.arguments,
        ]

    def run(
        self, candidate: Candidate, loads: Sequence[Load], seconds: float, set_up: float = 0.0
    ) -> tuple[list[dict[str, Any]], Watched]:
        """Run loads at the same time; what each printed, and what the candidate used between the two points.

        `set_up`: seconds that opening the connections may take besides the warm-up; when they take longer, all is done
        once more with more time.

        Raises:
            BenchError: a load failed; with its words.
        """
        try:
            return self.run_once(candidate, loads, seconds, set_up)
        except BenchError as error:
            if NOT_UP not in str(error):
                raise
        return self.run_once(candidate, loads, seconds, set_up * MORE_TIME + MORE_TIME)

    def run_once(
        self, candidate: Candidate, loads: Sequence[Load], seconds: float, set_up: float
    ) -> tuple[list[dict[str, Any]], Watched]:
        """One try of `run`."""
        begin = time.monotonic_ns() + int((self.warm_up + 0.1 + set_up) * 1e9)
        end = begin + int(seconds * 1e9)
        running = [
            subprocess.Popen(
                self.command(load, begin, end),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for load in loads
        ]
        try:
            clients = [process.pid for process in running]
            watched = self.watch(candidate, clients, begin, end)
            results = []
            for load, process in zip(loads, running, strict=True):
                try:
                    out, err = process.communicate(timeout=PATIENCE)
                except subprocess.TimeoutExpired:
                    raise BenchError(
                        f"{load.kind}: what was sent had not arrived {PATIENCE:.0f} s later"
                    ) from None
                if process.returncode:
                    raise BenchError(f"{load.kind}: {err.strip() or process.returncode}")
                results.append(json.loads(out))
            return results, watched
        finally:
            for process in running:
                if process.poll() is None:
                    process.kill()
                process.wait()

    def watch(self, candidate: Candidate, clients: list[int], begin: int, end: int) -> Watched:
        """Read what everybody used at the two points. The walk through /proc takes some milliseconds at each."""
        me = os.getpid()
        mine = {me, *clients, *([self.server.pid] if self.server else [])}
        wait_until(begin)
        first, stolen = processes.all_processes(), processes.stolen()
        wait_until(end)
        second, seconds = processes.all_processes(), (end - begin) / 1e9
        roots = {name: [pid] for name, pid in candidate.pids().items()}

        def used(pids_of: Any) -> float:
            return processes.cpu(second, pids_of(second)) - processes.cpu(first, pids_of(first))

        trees = {
            name: processes.tree(second, pids) | processes.tree(first, pids)
            for name, pids in roots.items()
        }
        cpu = {
            name: processes.cpu(second, pids) - processes.cpu(first, pids)
            for name, pids in trees.items()
        }
        generator = used(lambda now: processes.tree(now, mine - {me}))
        return Watched(
            cpu=cpu,
            generator=generator,
            others=max(0.0, used(lambda now: processes.strangers(now, me))) / seconds,
            background=max(
                0.0, used(lambda now: processes.tree(now, [me])) - generator - sum(cpu.values())
            )
            / seconds,
            steal=(processes.stolen() - stolen) / seconds,
            memory={name: processes.resident(pids) for name, pids in trees.items()},
        )


def wait_until(when: int) -> None:
    """Sleep until a point of CLOCK_MONOTONIC, in nanoseconds."""
    while (left := when - time.monotonic_ns()) > 0:
        time.sleep(left / 1e9)
