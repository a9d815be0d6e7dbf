"""Ferrule in networks of its own that are made bad while it runs: several routers, and one far away.

Nobody else is measured here, but for the kernel's TCP on the very same path.
"""

import contextlib
import subprocess
from pathlib import Path

from bench.candidates.base import Candidate
from bench.errors import BenchError
from bench.impairment.core import Impairment
from bench.impairment.network import Network, network
from bench.impairment.plant import ALONE, RANKS, Links, NetworkPlant, nodes
from bench.load import Generator
from bench.path import PREFIX
from bench.traffic import Polls, Server
from deploy.demo.plant import CommandFailed

LOCAL = "127.0.0.1"
FAR = Impairment(delay=0.05)
"""One way; so a round trip is 100 ms."""


class Fabric(Candidate):
    """A plant in a network of its own, with a server behind edge-b."""

    links: Links

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.stack = contextlib.ExitStack()
        self.bulk_address = (LOCAL, 0)

    def start(self) -> None:
        made = network(f"{PREFIX}-{self.name.split()[-1]}", nodes(self.links))
        self.net: Network = self.stack.enter_context(made)
        self.plant = NetworkPlant(self.net, self.links, self.folder)
        self.plant.own_sessions = True
        self.stack.callback(self.plant.stop)
        self.shape()
        try:
            self.plant.build()
            self.server = self.stack.enter_context(Server(self.net.name("b")))
            ports = {"poll": self.server.poll_port, "bulk": self.server.bulk_port}
            found = {name: self.offer(name, port) for name, port in ports.items()}
        except (CommandFailed, TimeoutError, subprocess.TimeoutExpired) as error:
            raise BenchError(str(error)[-400:]) from None
        self.address, self.bulk_address = found["poll"], found["bulk"]

    def shape(self) -> None:
        """What is special about the network, before the programs start."""

    def offer(self, name: str, port: int) -> tuple[str, int]:
        """The service `server.NAME` for the client; where edge-a listens for it."""
        listen = self.plant.offer(port, who="client", asset="server", protocol=name)
        self.plant.ferrule("allow", "client", "server", name, "--for", "12h")
        return LOCAL, listen

    def answers(self, generator: Generator) -> bool:
        del generator  # which lives in other namespaces
        try:
            with Polls(self.net.name("a"), self.address) as polls:
                polls.answered()
        except (BenchError, OSError):
            return False
        return True

    def stop(self) -> None:
        self.stack.close()

    def version(self) -> str:
        return self.plant.run("ferrule-edge", "--version").strip()

    def pids(self) -> dict[str, int]:
        return {name: process.pid for name, process in self.plant.programs.items()}


class Ranks(Fabric):
    """Three ranks of two routers between the edges, each with both of the next: something is always left."""

    name = "ferrule ranks"
    what = (
        "six routers in three ranks between the edges, each joined with both of the next rank; "
        "wires that a program carries and cuts; the controller has a wire to each router"
    )
    links = RANKS


class Far(Fabric):
    """One router far from the caller's edge and next to the other."""

    name = "ferrule far"
    what = (
        "one router, 100 ms round trip from edge-a, next to edge-b; plain TCP from a to b through "
        "the kernel of the router's namespace takes the same wire"
    )
    links = ALONE

    def shape(self) -> None:
        self.net.cable("b", "r1")
        self.net.forward("r1", "a", "b")
        # Before there is a connection: what TCP knows of a path it keeps for a while.
        self.net.wires.set("a-r1", FAR)
