"""A plant of real programs of which `edge-a` is a box in a network namespace, with an HMI behind it that has no software."""

import subprocess
import sys
from typing import Any

from deploy.demo.plant import Plant, until
from tests.support.namespaces import BOX, HMI, HMI_ADDRESSES, SERVER, SERVER_ADDRESS, Namespaces

PLC = ("192.168.1.5", "fd05::5")
"""Where the asset is intercepted, besides its overlay addresses."""


class TunPlant(Plant):
    """Router, controller, operator, edge-b and the asset live where the server is; `options` are edge-a's."""

    def __init__(self, net: Namespaces, *options: str, router_host: str = SERVER_ADDRESS) -> None:
        super().__init__()
        self.net = net
        self.options = options
        self.router_host = router_host

    def prefix(self, name: str) -> list[str]:
        return self.net.inside(BOX if name == "edge-a" else SERVER)

    def start_edge(self, name: str, *options: str) -> None:
        super().start_edge(name, *(self.options if name == "edge-a" else ()), *options)

    def intercept(self, mode: str = "auto") -> None:
        """The asset plc-b with a stream service and one of datagrams, intercepted by edge-a; nothing is allowed yet."""
        for name, address in zip(("hmi-a", "hmi-6"), HMI_ADDRESSES, strict=True):
            self.ferrule("add", "asset", name, "--edge", "edge-a", "--address", address)
        self.ferrule("add", "asset", "plc-b", "--edge", "edge-b", "--address", "127.0.0.1")
        for protocol, port, transport in (
            ("echo", "5000", "tcp"),
            ("telemetry", "7000", "udp"),
            ("dead", "5002", "tcp"),
        ):
            self.ferrule(
                "add", "service", "plc-b", protocol, "--port", port, "--transport", transport
            )
        places = [word for one in PLC for word in ("--address", one)]
        self.ferrule("add", "intercept", "edge-a", "plc-b", "--mode", mode, *places)
        until(lambda: self.mode() is not None, 20, "what is intercepted")

    def mode(self) -> str | None:
        """By what edge-a intercepts now."""
        found: str | None = self.local("edge-a").get("interception", {}).get("mode")
        return found

    def routed(self, address: str) -> bool:
        """Whether the box leads this address into its own device."""
        return "ferrule0" in self.net.run(BOX, "ip", "route", "get", address).stdout

    def client(self, side: str, role: str, *arguments: object, seconds: float = 60) -> str:
        """What one client says (`tests.support.tun_client`), within so long."""
        done = subprocess.run(
            [*self.net.inside(side), sys.executable, "-m", "tests.support.tun_client", role,
             *map(str, arguments)],
            text=True, capture_output=True, timeout=seconds, check=False,
        )  # fmt: skip
        return done.stdout.strip() or done.stderr[-500:]

    def denied(self, **wanted: str) -> list[dict[str, Any]]:
        """Records of denied attempts with these fields."""
        found = self.json("audit", "search", "--outcome", "denied", "--limit", "200")
        return [one for one in found if all(one[key] == value for key, value in wanted.items())]


SIDES = (BOX, HMI)
