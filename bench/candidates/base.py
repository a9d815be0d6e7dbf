"""The one interface of all that is measured side by side."""

import contextlib
import os
import shutil
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import BenchError
from bench.path import inside

if TYPE_CHECKING:
    from bench.load import Generator

Address = tuple[str, int]
SECRETS = 0o600


class Candidate(ABC):
    """A way from namespace `a` to the server in `b`, of programs that it starts itself.

    After `start()`, a connection from `a` to `address` reaches the server. `stop()` ends all its programs, whether or
    not `start()` came to its end. One that cannot start raises, and is left out with that reason.
    """

    name: str
    what: str
    """The set-up in one sentence, for the report."""
    needs: tuple[str, ...] = ()
    """Programs that have to be installed."""
    patience: float = 40.0
    """Seconds after its start within which it has to carry a poll."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name.replace(" ", "-")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.programs: dict[str, subprocess.Popen[bytes]] = {}
        self.address: Address = ("127.0.0.1", 0)
        self.datagram_address: Address | None = None
        """Where datagrams go to, None: it carries none."""
        self.iperf_address: Address | None = None
        """Where iperf3's server is reached, None: it is not."""

    @abstractmethod
    def start(self) -> None:
        """Start the programs; the caller waits until `address` answers.

        Raises:
            BenchError: with the reason in one sentence.
        """

    def answers(self, generator: "Generator") -> bool:
        """Whether a poll comes back through it."""
        return generator.answers(self.address)

    def stop(self) -> None:
        """End the programs."""
        for process in self.programs.values():
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
        for process in self.programs.values():
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def give_up(self) -> None:
        """It did not start: end what there is of it."""
        self.stop()

    @abstractmethod
    def version(self) -> str:
        """Which version of its programs this is."""

    def missing(self) -> str | None:
        """Why it cannot be measured here, None when it can."""
        gone = [name for name in self.needs if shutil.which(name) is None]
        return f"{', '.join(gone)} not installed" if gone else None

    def pids(self) -> dict[str, int]:
        """Its programs' processes by name: all that carries traffic or decides on it. Their children count as well."""
        return {name: process.pid for name, process in self.programs.items()}

    def edge(self) -> str | None:
        """The program in `pids()` that stands before the clients, None: there is no program."""
        return "a" if "a" in self.programs else None

    def run(self, name: str, side: str, *command: str, **environment: str) -> None:
        """Start a program in a namespace; what it says goes to NAME.log."""
        with open(self.folder / f"{name}.log", "ab") as log:
            self.programs[name] = subprocess.Popen(
                [*inside(side), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def call(self, *command: str, text: str | None = None, **environment: str) -> str:
        """Run a command to its end; what it printed.

        Raises:
            BenchError: it failed; with its last words.
        """
        try:
            done = subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                input=text,
                cwd=self.folder,
                env={**os.environ, **environment},
                timeout=60,
            )
        except (FileNotFoundError, subprocess.TimeoutExpired) as error:
            raise BenchError(f"{command[0]}: {error}") from None
        if done.returncode:
            words = (done.stderr or done.stdout).strip()[-300:]
            raise BenchError(f"{' '.join(command[:4])}: {words}")
        return done.stdout

    def write(self, name: str, text: str) -> str:
        """Write a file that may hold secrets; its path."""
        path = self.folder / name
        path.touch(mode=SECRETS)
        path.write_text(text)
        return str(path)

    def last_words(self) -> str:
        """A program that has ended by itself, with the end of its log; empty when all run."""
        for name, process in self.programs.items():
            if process.poll() is not None:
                log = self.folder / f"{name}.log"
                words = log.read_text(errors="replace").strip() if log.exists() else ""
                return f"{name} ended with {process.returncode}: {words[-300:]}"
        return ""


def first_line(command: Sequence[str], line: int = 0) -> str:
    """One line of what a command prints about its version, wherever it prints it."""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    lines = [text for text in (done.stdout + done.stderr).splitlines() if text.strip()]
    return lines[line].strip() if len(lines) > line else "unknown"
