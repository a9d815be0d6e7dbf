"""The measured path: three network namespaces in a row, and what is measured on it.

::

    [ a: client, edge-a ]──veth──[ r: router, controller ]──veth──[ b: edge-b, server ]

Forwarding is off, so nothing passes `r` but through a program. The router listens on 10.77.0.1, which both sides reach.
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.demo.plant import Plant, free_port, until

ROUTER = "10.77.0.1"
SERVER_PORT = 5201
RELAY_PORT = 7001
NAMES = {side: f"ferrule-{side}" for side in "arb"}


def ip(*arguments: str) -> None:
    """Run `ip`, which has to succeed."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def inside(side: str) -> list[str]:
    """The prefix that runs a command in one of the namespaces."""
    return ["ip", "netns", "exec", NAMES[side]]


@contextlib.contextmanager
def namespaces() -> Iterator[None]:
    """Make the three namespaces, and remove them whatever happens."""
    clear()
    try:
        for name in NAMES.values():
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", NAMES["r"], "address", "add", f"{ROUTER}/32", "dev", "lo")
        for number, side in enumerate("ab", 1):
            ip(
                "link",
                "add",
                f"fer{side}",
                "netns",
                NAMES[side],
                "type",
                "veth",
                "peer",
                f"fer{side}",
                "netns",
                NAMES["r"],
            )
            for place, host in ((side, 2), ("r", 1)):
                ip(
                    "-n",
                    NAMES[place],
                    "address",
                    "add",
                    f"10.77.{number}.{host}/24",
                    "dev",
                    f"fer{side}",
                )
                ip("-n", NAMES[place], "link", "set", f"fer{side}", "up")
            ip("-n", NAMES[side], "route", "add", f"{ROUTER}/32", "via", f"10.77.{number}.1")
        yield
    finally:
        clear()


def clear() -> None:
    """Remove the namespaces, where they are."""
    for name in NAMES.values():
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class Relay:
    """Three haproxy processes with one thread each and no cryptography: the same shape, nothing of ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        hops = {
            "a": ("127.0.0.1", f"{ROUTER}:{RELAY_PORT}"),
            "r": (ROUTER, f"10.77.2.2:{RELAY_PORT}"),
            "b": ("10.77.2.2", f"127.0.0.1:{SERVER_PORT}"),
        }
        for side, (listen, to) in hops.items():
            configuration = folder / f"haproxy-{side}.cfg"
            configuration.write_text(
                "global\n  nbthread 1\ndefaults\n  mode tcp\n"
                "  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
                f"listen relay\n  bind {listen}:{RELAY_PORT}\n  server next {to}\n"
            )
            self.processes.append(
                subprocess.Popen([*inside(side), "haproxy", "-q", "-f", str(configuration)])
            )
        self.port = RELAY_PORT

    def stop(self) -> None:
        """End the three processes."""
        for process in self.processes:
            process.terminate()
            process.wait(10)


class BenchPlant(Plant):
    """A plant whose programs live in the namespaces; `records` is the record mode of its edges' links."""

    def __init__(self, records: str) -> None:
        super().__init__()
        self.router_host = ROUTER
        self.records = records
        self.port = 0

    def prefix(self, name: str) -> list[str]:
        return inside({"edge-a": "a", "edge-b": "b"}.get(name, "r"))

    def start_edge(self, name: str, *options: str) -> None:
        super().start_edge(name, "--records", self.records, *options)

    def offer_server(self) -> None:
        """Everything until a connection to `port` in namespace a reaches the server in namespace b."""
        self.port = free_port()
        for name, edge in (("client", "edge-a"), ("server", "edge-b")):
            self.ferrule("add", "asset", name, "--edge", edge, "--address", "127.0.0.1")
        self.ferrule("add", "service", "server", "bulk", "--port", str(SERVER_PORT))
        self.ferrule(
            "add",
            "listener",
            "edge-a",
            "server.bulk",
            "--listen",
            f"127.0.0.1:{self.port}",
            "--as",
            "client",
        )
        self.ferrule("allow", "client", "server", "bulk", "--for", "3h")
        probe = [
            *inside("a"),
            sys.executable,
            "-m",
            "bench.load",
            "echo",
            "127.0.0.1",
            str(self.port),
            "0.01",
        ]
        until(
            lambda: subprocess.run(probe, check=False, capture_output=True).returncode == 0,
            20,
            "the first connection through the overlay",
        )

    def processes(self) -> list[int]:
        """Process numbers of the three programs on the path."""
        return [self.programs[name].pid for name in ("edge-a", "router-1", "edge-b")]


def cpu_seconds(pids: list[int]) -> float:
    """User and system time that processes and their children have used so far."""
    total = 0.0
    for pid in pids:
        for line in subprocess.run(
            ["ps", "--ppid", str(pid), "-p", str(pid), "-o", "cputimes=", "-o", "pid="],
            check=False,
            capture_output=True,
            text=True,
        ).stdout.splitlines():
            fields = Path(f"/proc/{line.split()[1]}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / 100
    return total


def wait_for_server() -> None:
    """The server in namespace b accepts."""
    probe = [
        *inside("b"),
        sys.executable,
        "-m",
        "bench.load",
        "echo",
        "127.0.0.1",
        str(SERVER_PORT),
        "0.01",
    ]
    until(
        lambda: subprocess.run(probe, check=False, capture_output=True).returncode == 0,
        10,
        "the server",
    )
    time.sleep(0.1)
