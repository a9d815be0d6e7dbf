"""nebula, whose packets pass its relay in `r`: end to end encrypted, as a and b do not reach each other."""

import json
from typing import Any

from bench.candidates.base import Candidate, first_line
from bench.path import IPERF_PORT, ROUTER, SERVER_PORT

NET = "10.80.0"
HOSTS = {"r": 1, "a": 2, "b": 3}
PORT = 4242


class Nebula(Candidate):
    name = "nebula"
    what = "nebula in a, r and b with its relay in r (AES-256-GCM, its own MTU of 1300)"
    needs: tuple[str, ...] = ("nebula", "nebula-cert")

    def start(self) -> None:
        self.address = self.datagram_address = (f"{NET}.{HOSTS['b']}", SERVER_PORT)
        self.iperf_address = (f"{NET}.{HOSTS['b']}", IPERF_PORT)
        self.call("nebula-cert", "ca", "-name", "benchmark", "-duration", "48h")
        for side, host in HOSTS.items():
            self.call("nebula-cert", "sign", "-name", side, "-ip", f"{NET}.{host}/24")
            path = self.write(f"{side}.yml", json.dumps(self.configuration(side)))
            self.run(side, side, "nebula", "-config", path)

    def configuration(self, side: str) -> dict[str, Any]:
        """One host's settings; JSON is YAML."""
        router = f"{NET}.{HOSTS['r']}"
        is_router = side == "r"
        anyone = [{"port": "any", "proto": "any", "host": "any"}]
        return {
            "pki": {
                "ca": str(self.folder / "ca.crt"),
                "cert": str(self.folder / f"{side}.crt"),
                "key": str(self.folder / f"{side}.key"),
            },
            "static_host_map": {} if is_router else {router: [f"{ROUTER}:{PORT}"]},
            "lighthouse": {"am_lighthouse": is_router, "hosts": [] if is_router else [router]},
            "relay": {"am_relay": is_router, "use_relays": True}
            | ({} if is_router else {"relays": [router]}),
            "listen": {"host": "0.0.0.0", "port": PORT},
            "cipher": "aes",
            "tun": {"dev": f"fbneb{side}", "mtu": 1300},
            "firewall": {"outbound": anyone, "inbound": anyone},
            "logging": {"level": "warning", "format": "text"},
        }

    def version(self) -> str:
        return "nebula " + first_line(["nebula", "-version"]).removeprefix("Version: ")
