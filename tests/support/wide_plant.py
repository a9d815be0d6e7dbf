"""A plant in which each edge reaches routers of its own, so that a circuit passes two: edge-a, router-1 or 2, router-3
or 4, edge-b."""

import urllib.request
from typing import Self

from deploy.demo.plant import Plant, until
from deploy.demo.ports import free_port
from tests.support.proxy import Proxy

NEAR = {"edge-a": ("router-1", "router-2"), "edge-b": ("router-3", "router-4")}


class WidePlant(Plant):
    """Edges dial through proxies that let each reach two routers; the routers of both sides dial each other."""

    def __init__(self) -> None:
        super().__init__(routers=4)
        self.metrics_ports = {name: free_port() for name in self.edge_names}
        self.proxies = {name: Proxy() for name in self.edge_names}
        for name, proxy in self.proxies.items():
            proxy.only = {f"127.0.0.1:{self.router_ports[near]}" for near in NEAR[name]}

    def __enter__(self) -> Self:
        for proxy in self.proxies.values():
            proxy.__enter__()
        return super().__enter__()

    def stop(self) -> None:
        super().stop()
        for proxy in self.proxies.values():
            proxy.__exit__()

    def start_edge(self, name: str, *options: str) -> None:
        super().start_edge(
            name, "--proxy", f"http://127.0.0.1:{self.proxies[name].port}",
            "--metrics", f"127.0.0.1:{self.metrics_ports[name]}", *options,
        )  # fmt: skip

    def metrics(self, name: str) -> dict[str, float]:
        """Every sample of an edge, by its name with labels."""
        url = f"http://127.0.0.1:{self.metrics_ports[name]}/metrics"
        with urllib.request.urlopen(url) as answer:
            lines = answer.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def connected(self) -> None:
        """Every program runs, and every edge has links to both of its routers."""
        for name in NEAR["edge-a"]:
            self.ferrule("set", "router", name, *(f"dials={one}" for one in NEAR["edge-b"]))
        for name, near in NEAR.items():
            until(lambda: set(self.routers_of(name)) >= set(near), 20, f"the links of {name}")  # noqa: B023
