"""One run: start everything, measure in turns, end everything."""

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bench import machine, processes
from bench.candidates.base import Candidate
from bench.candidates.registry import make
from bench.errors import BenchError
from bench.load import Generator, Watched
from bench.options import Plan
from bench.path import IPERF_PORT, has_way_past, inside, namespaces
from bench.progress import Progress
from bench.results import FORMAT, Measurement, Result
from bench.scenarios.scenario import Measured, Scenario

NOISE = 0.3
"""Cores. When strangers, or the machine below this virtual one, use more, a measurement is marked."""
LOOK_AROUND = 1.0
TRIES = 2


class Run:
    """The state of one run; `result` grows while it goes on, and is whole or not when it ends."""

    def __init__(self, plan: Plan, progress: Progress) -> None:
        self.plan = plan
        self.progress = progress
        self.result = Result(
            format=FORMAT,
            started=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            profile=plan.profile,
            seconds=plan.seconds,
            rounds=plan.rounds,
            machine=machine.this_machine(),
            version=machine.this_version(),
            versions={},
            what={},
            left_out={},
            failed={},
            measurements=[],
            load_before=machine.load_average(),
        )

    def execute(self) -> None:
        """Measure all of the plan. Everything that was started is ended, also after an exception.

        Raises:
            BenchError: nothing can be measured on this machine; says why.
        """
        begun = time.monotonic()
        self.warn_when_noisy()
        with (
            tempfile.TemporaryDirectory(prefix="ferrule-bench-") as name,
            namespaces(),
            contextlib.ExitStack() as started,
        ):
            if has_way_past():
                raise BenchError(
                    "namespace a reaches b without a program between: nothing would be measured"
                )
            generator = Generator(Path(name), self.plan.warm_up)
            generator.build()
            started.enter_context(generator.serving())
            started.enter_context(iperf_server())
            candidates = [
                candidate
                for candidate in make(Path(name), self.plan.candidates)
                if self.started(candidate, generator, started)
            ]
            if not candidates:
                raise BenchError("none of the candidates could be started")
            try:
                self.rounds(candidates, generator)
                self.result.complete = True
            finally:
                self.result.took = time.monotonic() - begun
                self.result.load_after = machine.load_average()
                self.progress.say("ending all programs")

    def warn_when_noisy(self) -> None:
        """Look whether others use the machine, before there is anything of ours."""
        first, stolen = processes.all_processes(), processes.stolen()
        time.sleep(LOOK_AROUND)
        second = processes.all_processes()
        me = os.getpid()
        others = processes.cpu(second, processes.strangers(second, me)) - processes.cpu(
            first, processes.strangers(first, me)
        )
        lost = processes.stolen() - stolen
        if max(others, lost) / LOOK_AROUND > NOISE:
            self.progress.warn(
                f"THIS MACHINE IS NOT QUIET: others use {others / LOOK_AROUND:.1f} cores, the machine below takes "
                f"{lost / LOOK_AROUND:.1f}. Figures will be wrong; measurements during which it stays so are marked."
            )

    def started(
        self, candidate: Candidate, generator: Generator, stack: contextlib.ExitStack
    ) -> bool:
        """Start a candidate and wait until it carries a poll; one that does not is left out, with the reason."""
        name = candidate.name
        self.result.what[name] = candidate.what
        reason = candidate.missing()
        if reason is None:
            self.progress.say(f"starting {name}")
            stack.callback(candidate.stop)
            try:
                candidate.start()
                self.wait_until_it_answers(candidate, generator)
                self.result.versions[name] = candidate.version()
                return True
            except (BenchError, OSError) as error:
                reason = str(error)
                candidate.give_up()
        self.result.left_out[name] = reason
        self.progress.say(f"left out: {name}: {reason}")
        return False

    def wait_until_it_answers(self, candidate: Candidate, generator: Generator) -> None:
        """Poll through it until an answer comes.

        Raises:
            BenchError: it ended, or no answer came.
        """
        deadline = time.monotonic() + candidate.patience
        while not candidate.answers(generator):
            words = candidate.last_words()
            if words or time.monotonic() > deadline:
                raise BenchError(words or f"carries nothing within {candidate.patience:.0f} s")

    def rounds(self, candidates: list[Candidate], generator: Generator) -> None:
        """All scenarios in each round; candidates take turns, and another one begins each time."""
        self.progress.begin(self.plan.estimate([candidate.name for candidate in candidates]))
        for number in range(1, self.plan.rounds + 1):
            for place, scenario in enumerate(self.plan.scenarios):
                if not self.plan.amount(scenario, number):
                    continue
                turn = (number - 1 + place) % len(candidates)
                for candidate in candidates[turn:] + candidates[:turn]:
                    if (
                        candidate.name in scenario.who
                        and candidate.name not in self.result.left_out
                    ):
                        if scenario.suits(candidate):
                            self.measure(number, scenario, candidate, generator)
                        self.progress.done(self.plan.cost(scenario, number))

    def measure(
        self, number: int, scenario: Scenario, candidate: Candidate, generator: Generator
    ) -> None:
        """One measurement. It is tried twice; when both fail, that is reported, and a candidate that has ended is left
        out from here on.
        """
        amount = self.plan.amount(scenario, number)
        head = f"round {number}/{self.plan.rounds}  {scenario.name:14} {candidate.name:16}"
        for tries in range(1, TRIES + 1):
            try:
                found = scenario.measure(generator, candidate, amount)
            except BenchError as error:
                self.progress.say(f"{head} failed: {error}")
                words = candidate.last_words()
                if words:
                    self.result.left_out[candidate.name] = f"from round {number} on: {words}"
                if words or tries == TRIES:
                    self.result.failed[f"{candidate.name}, {scenario.name}"] = str(error)
                    return
                continue
            self.keep(number, scenario, candidate, found, tries, amount, head)
            return

    def keep(
        self,
        number: int,
        scenario: Scenario,
        candidate: Candidate,
        found: Measured,
        tries: int,
        amount: float,
        head: str,
    ) -> None:
        """Add one measurement to the result, or what it found to that of the rounds before, and say it."""
        if scenario.pooled is not None:
            number, found = self.with_earlier(number, scenario, candidate, found)
        one = Measurement(
            number,
            scenario.name,
            candidate.name,
            found.figures,
            tries,
            0.0 if scenario.pooled else amount,
            ranks=found.ranks or {},
            samples=list(found.samples),
        )
        if found.watched is not None:
            note(one, found.watched)
        self.result.measurements.append(one)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in list(found.figures.items())[:5])
        self.progress.say(f"{head} {shown}{'  NOISY' if one.noisy else ''}")

    def with_earlier(
        self, number: int, scenario: Scenario, candidate: Candidate, found: Measured
    ) -> tuple[int, Measured]:
        """The samples of this round with those of the rounds before, whose measurement goes: its round, and all."""
        assert scenario.pooled is not None
        for before in self.result.measurements:
            if (before.scenario, before.candidate) == (scenario.name, candidate.name):
                self.result.measurements.remove(before)
                return before.round, scenario.pooled([*before.samples, *found.samples])
        return number, found


def note(one: Measurement, watched: Watched) -> None:
    """Add what was used meanwhile."""
    one.cpu = watched.cpu
    one.generator = watched.generator
    one.others, one.background, one.steal = watched.others, watched.background, watched.steal
    one.noisy = max(watched.others, watched.steal) > NOISE


@contextlib.contextmanager
def iperf_server() -> Iterator[None]:
    """iperf3's server in namespace `b`, where it is installed."""
    try:
        server = subprocess.Popen(
            [*inside("b"), "iperf3", "-s", "-p", str(IPERF_PORT)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except FileNotFoundError:
        yield
        return
    try:
        yield
    finally:
        server.kill()
        server.wait()
