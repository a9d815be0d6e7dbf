"""A plant of real processes on loopback, built only with the documented commands, for the demo and the system tests."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from deploy.demo.ports import free_port

COMMANDS = Path(sys.executable).parent
PASSWORD = "correct horse battery staple 42"


class CommandFailed(RuntimeError):
    """A command ended with another exit code than expected."""


LOADED = 6
"""A machine that does other things as well may take so many times as long as an idle one."""


def until(check: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until `check()` is true and return how many seconds that took.

    `seconds` is how long an idle machine may need. Who wants to know how long it took looks at the answer: what is
    waited for comes or does not, so a loaded machine gets `LOADED` times as long.

    Raises:
        TimeoutError: it was not true in all that time.
    """
    begun = time.monotonic()
    while True:
        if check():
            return time.monotonic() - begun
        if time.monotonic() - begun > seconds * LOADED:
            raise TimeoutError(f"{what}: not within {seconds * LOADED:.0f} s")
        time.sleep(0.02)


def listening(port: int, transport: str = "tcp", pid: int | str = "self") -> bool:
    """Whether somebody listens on loopback where process `pid` lives, seen without making an attempt."""
    state = {"tcp": "0A", "udp": "07"}[transport]
    table = Path(f"/proc/{pid}/net/{transport}").read_text()
    rows = [line.split() for line in table.splitlines()[1:]]
    return any(row[1] == f"0100007F:{port:04X}" and row[3] == state for row in rows)


class Operator(Protocol):
    """Runs the operator's command in another way than by starting its program each time.

    Args:
        prefix: what stands before commands of the plant's operator.
    """

    def __init__(self, prefix: Sequence[str]) -> None: ...

    def call(
        self, words: Sequence[str], environment: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `ferrule` with these words to its end. Raises: subprocess.TimeoutExpired."""
        ...

    def close(self) -> None:
        """It is needed no more."""
        ...


class Plant:
    """A controller, routers `router-1`..., and edges, as processes under one folder; leaves nothing behind on exit."""

    operator: ClassVar[type[Operator] | None] = None
    """None: the operator's program is started for each command."""

    def __init__(
        self,
        *,
        routers: int = 1,
        edges: tuple[str, ...] = ("edge-a", "edge-b"),
        folder: Path | None = None,
    ) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="ferrule-plant-"))
        self.programs: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "FERRULE_HOME": str(self.folder / "home")}
        self.router_names = [f"router-{number}" for number in range(1, routers + 1)]
        self.edge_names = list(edges)
        self.api_port = free_port()
        self.router_ports = {name: free_port() for name in self.router_names}
        self.router_host = "127.0.0.1"
        self.dials: dict[str, list[str]] = {}
        """The routers that a router dials itself."""
        self.keep = False
        self.own_sessions = False
        """Programs do not hear Ctrl-C at the terminal; whoever started them ends them in order."""
        self.started: dict[str, list[str]] = {}
        self.begun: dict[str, str] = {}
        """When each program was started last, as the plant writes times."""
        self._operator: Operator | None = None
        self._first = threading.Lock()
        self._logged: dict[str, int] = {}
        """How long each program's log was then."""

    def __enter__(self) -> Self:
        try:
            self.build()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def build(self) -> None:
        """From nothing to a plant in which every node is connected."""
        password = self.folder / "password"
        password.write_text(PASSWORD + "\n")
        self.run(
            "ferrule-controller",
            "init",
            "--dir",
            self.path("controller"),
            "--plant",
            "mill",
            "--admin",
            "ada",
            "--admin-password-file",
            str(password),
        )
        self.start_controller()
        until(self._controller_started, 30, "the controller's start")
        until(lambda: self.login() == 0, 30, "login")
        for name in self.router_names:
            self.ferrule(
                "add",
                "router",
                name,
                "--address",
                self.address_of(name),
                *(word for other in self.dials.get(name, ()) for word in ("--dials", other)),
                "--token-out",
                self.path(f"{name}.token"),
            )
            self.start_router(name)
        for name in self.edge_names:
            self.ferrule("add", "edge", name, "--token-out", self.path(f"{name}.token"))
            self.start_edge(name)
        self.connected()

    def path(self, name: str) -> str:
        """A file or folder of this plant."""
        return str(self.folder / name)

    def address_of(self, router: str) -> str:
        """Where a router listens."""
        return f"{self.router_host}:{self.router_ports[router]}"

    def start_controller(self) -> None:
        """Start the controller's process."""
        self.start(
            "controller",
            "ferrule-controller",
            "run",
            "--dir",
            self.path("controller"),
            "--api",
            f"127.0.0.1:{self.api_port}",
        )

    def start_router(self, name: str) -> None:
        """Start a router's process; it enrols when it is new."""
        self.start(
            name,
            "ferrule-router",
            "run",
            "--dir",
            self.path(name),
            "--listen",
            self.address_of(name),
            "--token",
            self.path(f"{name}.token"),
        )

    def start_edge(self, name: str, *options: str) -> None:
        """Start an edge's process; it enrols when it is new."""
        self.start(
            name,
            "ferrule-edge",
            "run",
            "--dir",
            self.path(name),
            "--token",
            self.path(f"{name}.token"),
            *options,
        )

    def prefix(self, name: str) -> list[str]:
        """What stands before a program's or the operator's command: nothing here, a network namespace in benchmarks."""
        del name
        return []

    def start(self, name: str, command: str, *arguments: str) -> None:
        """Start one program; its log is NAME.log in the plant's folder."""
        self.started[name] = [*self.prefix(name), str(COMMANDS / command), *arguments]
        self.start_again(name)

    def start_again(self, name: str) -> None:
        """Start a program that has ended, exactly as it was started before."""
        self.begun[name] = datetime.now(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
        with open(self.folder / f"{name}.log", "ab") as log:
            self._logged[name] = log.tell()
            self.programs[name] = subprocess.Popen(
                self.started[name],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=self.own_sessions,
            )

    def log(self, name: str) -> str:
        """What a program wrote so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def call(
        self, command: str, *arguments: str, timeout: float = 120, text: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end and return its result, whatever it is."""
        if self.operator is not None and command == "ferrule" and text is None:
            with self._first:
                if self._operator is None:
                    self._operator = self.operator(self.prefix("operator"))
            return self._operator.call(arguments, self.environment, timeout)
        return subprocess.run(
            [*self.prefix("operator"), str(COMMANDS / command), *arguments],
            env=self.environment,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
        )

    def run(self, command: str, *arguments: str, timeout: float = 120) -> str:
        """Run one command that has to succeed and return what it printed.

        Raises:
            CommandFailed: with the command's own words.
        """
        result = self.call(command, *arguments, timeout=timeout)
        if result.returncode:
            raise CommandFailed(
                f"{command} {' '.join(arguments)}: exit {result.returncode}: {result.stderr.strip()}"
            )
        return result.stdout

    def ferrule(self, *arguments: str, timeout: float = 120) -> str:
        """Run the operator's command."""
        return self.run("ferrule", *arguments, timeout=timeout)

    def ferrule_when_up(self, *arguments: str, seconds: float = 20) -> None:
        """Repeat a command until it succeeds: the controller may still be starting.

        Raises:
            TimeoutError: it never did.
        """
        until(
            lambda: self.call("ferrule", *arguments).returncode == 0,
            seconds,
            f"ferrule {' '.join(arguments)}",
        )

    def connected(self) -> None:
        """Wait until every router and edge is connected as the process that runs now.

        Raises:
            TimeoutError: one is not.
        """
        until(self._controller_started, 20, "the controller's start")
        until(self._all_connected, 20, "every node to be connected")

    def _controller_started(self) -> bool:
        """What it says itself, since asking it by a command takes more of the machine than its start does."""
        with open(self.folder / "controller.log", "rb") as log:
            log.seek(self._logged["controller"])
            return b"controller.started" in log.read()

    def _all_connected(self) -> bool:
        answer = self.call("ferrule", "status", "--wait", "10s", "--json")
        if answer.returncode:
            return False
        status = json.loads(answer.stdout)
        return all(
            node["state"] == "revoked" or node["since"] >= self.begun.get(node["name"], "")
            for kind in ("routers", "edges")
            for node in status[kind]
        )

    def json(self, *arguments: str) -> Any:
        """Run the operator's command with --json and read the answer."""
        return json.loads(self.ferrule(*arguments, "--json"))

    def live(self) -> list[dict[str, Any]]:
        """The live sessions, oldest first."""
        return [session for session in self.json("sessions") if not session["ended"]]

    def routers_of(self, edge: str) -> list[str]:
        """The routers that an edge has links to; none while it is still starting."""
        answer = self.call("ferrule-edge", "status", "--dir", self.path(edge), "--json")
        return list(json.loads(answer.stdout)["routers"]) if answer.returncode == 0 else []

    def local(self, edge: str) -> Any:
        """What an edge says of itself, without the controller."""
        return json.loads(self.run("ferrule-edge", "status", "--dir", self.path(edge), "--json"))

    def login(self) -> int:
        """Log the admin in; the command's exit code."""
        result = self.call(
            "ferrule",
            "login",
            f"https://127.0.0.1:{self.api_port}",
            "--user",
            "ada",
            "--password-file",
            self.path("password"),
            "--ca",
            self.path("controller/api-ca.pem"),
        )
        return result.returncode

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a program."""
        self.programs[name].send_signal(number)

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until the process is gone."""
        self.programs[name].kill()
        self.programs[name].wait()

    def terminate(self, name: str, seconds: float = 30) -> int:
        """SIGTERM; the exit code, which is 0 only when it ended by itself in its time."""
        self.programs[name].terminate()
        return self.programs[name].wait(seconds)

    def offer(
        self,
        port: int,
        *,
        who: str = "hmi-a",
        asset: str = "plc-b",
        protocol: str = "modbus",
        via: str = "edge-a",
        host: str = "edge-b",
        address: str = "127.0.0.1",
        transport: str = "tcp",
    ) -> int:
        """An asset behind edge `host` at address:port, a listener for it on edge `via`; the listener's port."""
        listen = free_port()
        known = {entry["name"] for entry in self.json("ls", "asset")}
        for name, edge in ((who, via), (asset, host)):
            if name not in known:
                self.ferrule("add", "asset", name, "--edge", edge, "--address", address)
        service = f"{asset}.{protocol}"
        if service not in {entry["name"] for entry in self.json("ls", "service")}:
            self.ferrule(
                "add", "service", asset, protocol, "--port", str(port), "--transport", transport
            )
        self.ferrule(
            "add", "listener", via, service, "--listen", f"127.0.0.1:{listen}", "--as", who
        )
        pid = self.programs[via].pid
        until(lambda: listening(listen, transport, pid), 10, f"the listener of {via}")
        return listen

    def stop(self) -> None:
        """End every process, then remove the folder unless `keep` is set."""
        if self._operator is not None:
            self._operator.close()
            self._operator = None
        for program in self.programs.values():
            if program.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    program.send_signal(signal.SIGCONT)
                    program.terminate()
        for program in self.programs.values():
            try:
                program.wait(20)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)
