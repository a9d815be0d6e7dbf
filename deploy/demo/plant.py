"""A plant of real processes on loopback, built only with the documented commands. Used by the demo and the system tests."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

COMMANDS = Path(sys.executable).parent
PASSWORD = "correct horse battery staple 42"


class CommandFailed(RuntimeError):
    """A command ended with another exit code than expected."""


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(check: Callable[[], object], seconds: float, what: str) -> float:
    """Wait until `check()` is true and return how many seconds that took.

    Raises:
        TimeoutError: it was not true within `seconds`.
    """
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        if check():
            return time.monotonic() - begun
        time.sleep(0.02)
    raise TimeoutError(f"{what}: not within {seconds:.0f} s")


class Plant:
    """A controller, routers `router-1`..., and edges, as processes under one folder; leaves nothing behind on exit."""

    def __init__(self, *, routers: int = 1, edges: tuple[str, ...] = ("edge-a", "edge-b"), folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="ferrule-plant-"))
        self.programs: dict[str, subprocess.Popen[bytes]] = {}
        self.environment = {**os.environ, "FERRULE_HOME": str(self.folder / "home")}
        self.router_names = [f"router-{number}" for number in range(1, routers + 1)]
        self.edge_names = list(edges)
        self.api_port = free_port()
        self.router_ports = {name: free_port() for name in self.router_names}
        self.router_host = "127.0.0.1"
        self.keep = False

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
        self.run("ferrule-controller", "init", "--dir", self.path("controller"), "--plant", "mill",
                 "--admin", "ada", "--admin-password-file", str(password))  # fmt: skip
        self.start_controller()
        until(lambda: self.login() == 0, 30, "login")
        for name in self.router_names:
            self.ferrule("add", "router", name, "--address", f"{self.router_host}:{self.router_ports[name]}",
                         "--token-out", self.path(f"{name}.token"))  # fmt: skip
            self.start_router(name)
        for name in self.edge_names:
            self.ferrule("add", "edge", name, "--token-out", self.path(f"{name}.token"))
            self.start_edge(name)
        self.ferrule("status", "--wait", "40s")

    def path(self, name: str) -> str:
        """A file or folder of this plant."""
        return str(self.folder / name)

    def start_controller(self) -> None:
        """Start the controller's process."""
        self.start("controller", "ferrule-controller", "run", "--dir", self.path("controller"), "--api", f"127.0.0.1:{self.api_port}")

    def start_router(self, name: str) -> None:
        """Start a router's process; it enrols when it is new."""
        self.start(name, "ferrule-router", "run", "--dir", self.path(name), "--listen",
                   f"{self.router_host}:{self.router_ports[name]}", "--token", self.path(f"{name}.token"))  # fmt: skip

    def start_edge(self, name: str, *options: str) -> None:
        """Start an edge's process; it enrols when it is new."""
        self.start(name, "ferrule-edge", "run", "--dir", self.path(name), "--token", self.path(f"{name}.token"), *options)

    def prefix(self, name: str) -> list[str]:  # noqa: ARG002
        """What stands before a program's or the operator's command: here nothing; a network namespace in the benchmarks."""
        return []

    def start(self, name: str, command: str, *arguments: str) -> None:
        """Start one program; its log is NAME.log in the plant's folder."""
        with open(self.folder / f"{name}.log", "ab") as log:
            self.programs[name] = subprocess.Popen(
                [*self.prefix(name), str(COMMANDS / command), *arguments],
                env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )

    def log(self, name: str) -> str:
        """What a program wrote so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def call(self, command: str, *arguments: str, timeout: float = 60, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run one command to its end and return its result, whatever it is."""
        return subprocess.run(
            [*self.prefix("operator"), str(COMMANDS / command), *arguments], env=self.environment, text=True, capture_output=True, timeout=timeout,
            input=text, stdin=subprocess.DEVNULL if text is None else None,
        )  # fmt: skip

    def run(self, command: str, *arguments: str, timeout: float = 60) -> str:
        """Run one command that has to succeed and return what it printed.

        Raises:
            CommandFailed: with the command's own words.
        """
        result = self.call(command, *arguments, timeout=timeout)
        if result.returncode:
            raise CommandFailed(f"{command} {' '.join(arguments)}: exit {result.returncode}: {result.stderr.strip()}")
        return result.stdout

    def ferrule(self, *arguments: str, timeout: float = 60) -> str:
        """Run the operator's command."""
        return self.run("ferrule", *arguments, timeout=timeout)

    def ferrule_when_up(self, *arguments: str, seconds: float = 20) -> None:
        """Repeat a command until it succeeds: the controller may still be starting.

        Raises:
            TimeoutError: it never did.
        """
        until(lambda: self.call("ferrule", *arguments).returncode == 0, seconds, f"ferrule {' '.join(arguments)}")

    def json(self, *arguments: str) -> Any:
        """Run the operator's command with --json and read the answer."""
        return json.loads(self.ferrule(*arguments, "--json"))

    def local(self, edge: str) -> Any:
        """What an edge says of itself, without the controller."""
        return json.loads(self.run("ferrule-edge", "status", "--dir", self.path(edge), "--json"))

    def login(self) -> int:
        """Log the admin in; the command's exit code."""
        return self.call("ferrule", "login", f"https://127.0.0.1:{self.api_port}", "--user", "ada", "--password-file",
                         self.path("password"), "--ca", str(self.folder / "controller" / "api-ca.pem")).returncode  # fmt: skip

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a program."""
        self.programs[name].send_signal(number)

    def kill(self, name: str) -> None:
        """SIGKILL, and wait until the process is gone."""
        self.programs[name].kill()
        self.programs[name].wait()

    def terminate(self, name: str, seconds: float = 10) -> int:
        """SIGTERM; the exit code."""
        self.programs[name].terminate()
        return self.programs[name].wait(seconds)

    def offer(self, port: int, *, who: str = "hmi-a", asset: str = "plc-b", protocol: str = "modbus") -> int:
        """An asset behind edge-b on loopback:port, a listener for it on edge-a; the listener's port."""
        listen = free_port()
        known = {entry["name"] for entry in self.json("ls", "asset")}
        for name, edge in ((who, "edge-a"), (asset, "edge-b")):
            if name not in known:
                self.ferrule("add", "asset", name, "--edge", edge, "--address", "127.0.0.1")
        self.ferrule("add", "service", asset, protocol, "--port", str(port))
        self.ferrule("add", "listener", "edge-a", f"{asset}.{protocol}", "--listen", f"127.0.0.1:{listen}", "--as", who)
        return listen

    def stop(self) -> None:
        """End every process, then remove the folder unless `keep` is set."""
        for program in self.programs.values():
            if program.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    program.send_signal(signal.SIGCONT)
                    program.terminate()
        for program in self.programs.values():
            try:
                program.wait(10)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()
        if not self.keep:
            shutil.rmtree(self.folder, ignore_errors=True)
