"""OpenZiti: its own quickstart (controller and router) in `r`, a tunneler on both sides."""

import json
from pathlib import Path

from bench.candidates.base import Candidate, first_line
from bench.candidates.haproxy import LOCAL
from bench.errors import BenchError
from bench.path import IPERF_PORT, ROUTER, SERVER_PORT, inside
from deploy.demo.plant import until

CONTROLLER = f"{ROUTER}:1280"
PORTS = {"server": (SERVER_PORT, 7401), "iperf": (IPERF_PORT, 7402)}
SECONDS_TO_START = 60


class OpenZiti(Candidate):
    name = "openziti"
    what = "OpenZiti's quickstart in r, `ziti tunnel proxy` in a, `ziti tunnel host` in b"
    needs: tuple[str, ...] = ("ziti",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.address = (LOCAL, PORTS["server"][1])
        self.iperf_address = (LOCAL, PORTS["iperf"][1])

    def start(self) -> None:
        where = ["--ctrl-address", ROUTER, "--ctrl-port", "1280", "--router-address", ROUTER]
        home = {"HOME": str(self.folder), "ZITI_CONFIG_DIR": str(self.folder / "cli")}
        quickstart = ["edge", "quickstart", "--home", str(self.folder / "home")]
        self.run("r", "r", "ziti", *quickstart, *where, "--router-port", "3022", **home)
        self.when_up()
        for name, (port, _) in PORTS.items():
            host = {"protocol": "tcp", "address": LOCAL, "port": port}
            self.edge_command("create", "config", f"{name}-host", "host.v1", json.dumps(host))
            self.edge_command("create", "service", name, "-c", f"{name}-host")
        for side, what in (("a", "Dial"), ("b", "Bind")):
            self.edge_command("create", "identity", side, "-a", side, "-o", f"{side}.jwt")
            roles = ["--service-roles", "#all", "--identity-roles", f"#{side}"]
            self.edge_command("create", "service-policy", what.lower(), what, *roles)
            self.edge_command("enroll", f"{side}.jwt", "-o", f"{side}.json")
        self.run("b", "b", "ziti", "tunnel", "host", "-i", "b.json", **home)
        listens = [f"{name}:{port}" for name, (_, port) in PORTS.items()]
        self.run("a", "a", "ziti", "tunnel", "proxy", *listens, "-i", "a.json", **home)

    def edge_command(self, *arguments: str) -> str:
        """Run `ziti edge ...` where the controller is."""
        home = {"HOME": str(self.folder), "ZITI_CONFIG_DIR": str(self.folder / "cli")}
        return self.call(*inside("r"), "ziti", "edge", *arguments, **home)

    def when_up(self) -> None:
        """Wait until the quickstart lets its own administrator in, with its documented password."""

        def lets_in() -> bool:
            try:
                self.edge_command("login", CONTROLLER, "-u", "admin", "-p", "admin", "-y")
            except BenchError:
                return False
            return True

        try:
            until(lets_in, SECONDS_TO_START, "OpenZiti's controller")
        except TimeoutError as error:
            raise BenchError(str(error)) from None

    def version(self) -> str:
        return "ziti " + first_line(["ziti", "--version"])
