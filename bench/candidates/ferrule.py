"""Ferrule itself: the three real programs and a real controller, set up with the documented commands only.

Variants: the record mode of the edges' links, the integrity of the circuit, how the edge catches traffic. Variants that
differ only in how a service is reached share one plant.
"""

import subprocess
from pathlib import Path
from typing import NamedTuple

from bench.candidates.base import Address, Candidate
from bench.errors import BenchError
from bench.path import IPERF_PORT, ROUTER, SERVER_PORT, inside
from deploy.demo.plant import COMMANDS, CommandFailed, Plant, listening, until
from deploy.demo.ports import free_port

LOCAL = "127.0.0.1"
SIDES = {"edge-a": "a", "edge-b": "b"}
INTERCEPTED = {"tun": "198.18.7.1", "tproxy": "198.18.7.2", "redirect": "198.18.7.3"}
"""The address that namespace `a` connects to in each mode of `ferrule add intercept`; from the range for benchmarks."""


class BenchPlant(Plant):
    """A plant whose programs live in the namespaces; `records` is the record mode of its edges' links."""

    def __init__(self, folder: Path, records: str) -> None:
        super().__init__(folder=folder)
        self.router_host = ROUTER
        self.records = records
        self.keep = True  # the folder belongs to the run
        self.own_sessions = True
        self.up = False

    def prefix(self, name: str) -> list[str]:
        """The namespace of a program; the operator and the controller are where the router is."""
        return inside(SIDES.get(name, "r"))

    def start_edge(self, name: str, *options: str) -> None:
        """Start an edge with the plant's record mode; whom this machine asks for names stays as it is."""
        super().start_edge(name, "--records", self.records, "--names", "none", *options)

    def start_once(self) -> None:
        """Build it, with a client and a server that may talk over `normal` and over `strict` conduits."""
        if self.up:
            return
        self.up = True
        self.build()
        self.asset("client", "edge-a")
        self.asset("server", "edge-b")

    def asset(self, name: str, edge: str) -> None:
        """An asset on the edge's own host."""
        self.ferrule("add", "asset", name, "--edge", edge, "--address", LOCAL)

    def service(
        self,
        name: str,
        port: int,
        *,
        transport: str = "tcp",
        strict: bool = False,
        asset: str = "server",
    ) -> None:
        """The service `ASSET.NAME`, and a conduit for the client. Whoever catches a connection answers it at once, as
        relays and the proxy listener do.
        """
        where = ["--port", str(port), "--transport", transport, "--connect", "at-once"]
        self.ferrule("add", "service", asset, name, *where)
        integrity = ["--strict"] if strict else []
        self.ferrule("allow", "client", asset, name, "--for", "12h", *integrity)

    def listener(self, service: str, transport: str = "tcp") -> Address:
        """A `proxy` listener of edge-a for `server.SERVICE`; where it is."""
        port = free_port()
        address = ["--listen", f"{LOCAL}:{port}", "--as", "client"]
        self.ferrule("add", "listener", "edge-a", f"server.{service}", *address)
        pid = self.programs["edge-a"].pid
        until(lambda: listening(port, transport, pid), 20, f"the listener for {service}")
        return LOCAL, port

    def stop(self) -> None:
        """End its processes, once."""
        if self.up:
            self.up = False
            super().stop()


class Variant(NamedTuple):
    """What is special about one of our candidates."""

    name: str
    what: str
    records: str = "header"
    strict: bool = False
    intercept: str = "proxy"


VARIANTS = (
    Variant("ferrule", "the three programs: record mode header, normal integrity, proxy listener"),
    Variant(
        "ferrule strict", "the same, every frame signed and verified before delivery", strict=True
    ),
    Variant(
        "ferrule full", "record mode full: payload sealed once more on each hop", records="full"
    ),
    Variant(
        "ferrule tls", "record mode tls: plain TLS on each hop, for middleboxes", records="tls"
    ),
    Variant("ferrule tun", "caught by the edge's TUN device", intercept="tun"),
    Variant("ferrule tproxy", "caught by nftables TPROXY", intercept="tproxy"),
    Variant("ferrule redirect", "caught by nftables REDIRECT", intercept="redirect"),
)


class Ferrule(Candidate):
    """One variant, on a plant that it may share with others."""

    name = "ferrule"
    what = ""

    def __init__(self, folder: Path, variant: Variant, plant: BenchPlant) -> None:
        self.name = variant.name
        self.what = variant.what
        super().__init__(folder)
        self.variant = variant
        self.plant = plant
        if variant.intercept != "proxy":
            self.patience = 10.0  # the plant is up by then: what is not caught now never is

    def start(self) -> None:
        service = "bench-" + self.name.replace(" ", "-")
        try:
            self.plant.start_once()
            if self.variant.intercept == "proxy":
                self.plant.service(service, SERVER_PORT, strict=self.variant.strict)
                self.address = self.plant.listener(service)
            else:
                self.intercept()
            if self.variant.name == "ferrule":
                self.plant.service("bench-udp", SERVER_PORT, transport="udp")
                self.datagram_address = self.plant.listener("bench-udp", "udp")
                self.plant.service("bench-iperf", IPERF_PORT)
                self.iperf_address = self.plant.listener("bench-iperf")
        except (CommandFailed, TimeoutError, subprocess.TimeoutExpired) as error:
            raise BenchError(str(error)[-400:]) from None

    def intercept(self) -> None:
        """Let edge-a catch what `a` sends to an address of its own; UDP, too, where the mode carries it."""
        mode, plant = self.variant.intercept, self.plant
        asset, place = f"server-{mode}", (INTERCEPTED[mode], SERVER_PORT)
        plant.asset(
            asset, "edge-b"
        )  # each has a place in the pool, where one port leads to one service
        plant.service("bench", SERVER_PORT, asset=asset)
        plant.service("bench-iperf", IPERF_PORT, asset=asset)
        if mode != "redirect":
            plant.service("bench-udp", SERVER_PORT, transport="udp", asset=asset)
            self.datagram_address = place
        caught = ["--mode", mode, "--address", place[0], "--as", "client"]
        plant.ferrule("add", "intercept", "edge-a", asset, *caught)
        self.address, self.iperf_address = place, (place[0], IPERF_PORT)

    def missing(self) -> str | None:
        mode = self.variant.intercept
        return None if mode == "proxy" else has_intercept(mode)

    def stop(self) -> None:
        self.plant.stop()

    def give_up(self) -> None:
        """The plant stays for the variants that share it; the run ends it."""

    def version(self) -> str:
        return self.plant.run("ferrule-edge", "--version").strip()

    def pids(self) -> dict[str, int]:
        short = {"edge-a": "a", "edge-b": "b", "router-1": "r", "controller": "controller"}
        return {short[name]: process.pid for name, process in self.plant.programs.items()}

    def edge(self) -> str | None:
        return "a"

    def last_words(self) -> str:
        for name, process in self.plant.programs.items():
            if process.poll() is not None:
                return f"{name} ended with {process.returncode}: {self.plant.log(name)[-300:]}"
        return ""


def has_intercept(mode: str) -> str | None:
    """Why this build cannot catch traffic in a mode, None when it can."""
    done = subprocess.run(
        [str(COMMANDS / "ferrule"), "add", "intercept", "--help"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode or mode not in done.stdout:
        return f"this build has no `ferrule add intercept --mode {mode}`"
    return None


def variants(folder: Path) -> list[Ferrule]:
    """All of ours; those with the same record mode share a plant."""
    plants: dict[str, BenchPlant] = {}
    made = []
    for variant in VARIANTS:
        if variant.records not in plants:
            place = folder / f"plant-{variant.records}"
            place.mkdir(mode=0o700, exist_ok=True)
            plants[variant.records] = BenchPlant(place, variant.records)
        made.append(Ferrule(folder, variant, plants[variant.records]))
    return made
