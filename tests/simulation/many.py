"""Many seeds in many processes: how far it is, how many ran, which failed."""

import signal
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import NoReturn

from tests.simulation.run import Result, run

SAYS_EVERY = 10.0
"""Seconds between two lines of progress."""
AHEAD = 4
"""Seeds that wait for each process."""
INTERRUPTED = 130
RENEWED_AFTER = 200
"""Seeds after which a process makes room for a new one: it has some 300 MB then, and grows slowly."""


@dataclass
class Tally:
    """What came of the seeds so far."""

    wanted: int
    began: float = field(default_factory=time.monotonic)
    ran: int = 0
    failed: list[Result] = field(default_factory=list)
    seconds: float = 0.0
    well: int = 0
    conversations: int = 0
    crossed: Counter[int] = field(default_factory=Counter)

    def add(self, result: Result) -> None:
        self.ran += 1
        self.seconds += result.seconds
        self.well += result.well
        self.conversations += result.conversations
        self.crossed += result.crossed
        if result.kind:
            self.failed.append(result)
            print(result, flush=True)

    def progress(self) -> str:
        took = time.monotonic() - self.began
        rate = self.ran / took if took else 0.0
        left = f"{(self.wanted - self.ran) / rate / 60:.0f} min left" if rate else "just begun"
        return f"{self.ran} of {self.wanted} seeds, {len(self.failed)} failed; {rate:.2f} a second, {left}"

    def summary(self) -> str:
        crossed = ", ".join(
            f"{many} over {routers}" for routers, many in sorted(self.crossed.items())
        )
        told = (
            f"{self.ran} of {self.wanted} seeds ran, {len(self.failed)} failed; "
            f"{self.seconds / 3600:.1f} hours of plants in {time.monotonic() - self.began:.0f} s; "
            f"{self.well} of {self.conversations} conversations ended well; "
            f"circuits by routers: {crossed or 'none'}"
        )
        if self.failed:
            kinds = Counter(result.kind for result in self.failed)
            told += "".join(f"\n  {many} × {kind}" for kind, many in kinds.most_common())
            seeds = sorted(result.seed for result in self.failed)
            told += f"\nfailed: {' '.join(map(str, seeds))}"
            told += f"\nmake simulate SEED={seeds[0]} tells how"
        return told


def many(seeds: range, jobs: int, *, brief: bool) -> int:
    """Run them in so many processes, and tell; the code with which the program ends."""
    tally = Tally(len(seeds))
    signal.signal(signal.SIGTERM, _interrupted)
    pool = None
    done = False
    try:
        said = time.monotonic()
        for start in range(0, len(seeds), jobs * RENEWED_AFTER):
            part = seeds[start : start + jobs * RENEWED_AFTER]
            pool = ProcessPoolExecutor(jobs, get_context("spawn"), initializer=_deaf)
            for result in _results(pool, iter(part), jobs, brief=brief):
                if result is not None:
                    tally.add(result)
                if time.monotonic() - said >= SAYS_EVERY:
                    said = time.monotonic()
                    print(tally.progress(), flush=True)
            pool.shutdown()
        done = True
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    except BrokenProcessPool:
        print("a process was killed from outside: is there too little memory?", flush=True)
    finally:
        if pool is not None and not done:
            _end(pool)
    print(tally.summary(), flush=True)
    if tally.failed:
        return 1
    return 0 if done else INTERRUPTED


def _results(
    pool: ProcessPoolExecutor, seeds: Iterator[int], jobs: int, *, brief: bool
) -> Iterator[Result | None]:
    """Of each seed, as they come; None where a while passed without any."""
    waiting: dict[Future[Result], int] = {}
    while True:
        for seed in seeds:
            waiting[pool.submit(_one, seed, brief)] = seed
            if len(waiting) >= jobs * AHEAD:
                break
        if not waiting:
            return
        ready, _ = wait(waiting, timeout=SAYS_EVERY, return_when=FIRST_COMPLETED)
        for future in ready:
            seed = waiting.pop(future)
            error = future.exception()
            yield (
                future.result() if error is None else Result(seed, "it could not run", repr(error))
            )
        if not ready:
            yield None


def _one(seed: int, brief: bool) -> Result:
    result = run(seed, brief=brief)
    result.trace.clear()
    return result


def _deaf() -> None:
    """Ctrl-C goes to the whole group; the first process ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _end(pool: ProcessPoolExecutor) -> None:
    """At once."""
    processes = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.terminate()
