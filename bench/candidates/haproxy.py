"""The plain relay chain that everything is compared with: haproxy three times."""

from pathlib import Path

from bench.candidates.base import Address, Candidate, first_line
from bench.path import FAR, IPERF_PORT, ROUTER, SERVER_PORT

PORT = 7001
LOCAL = "127.0.0.1"


def configuration(hops: list[tuple[Address, Address]]) -> str:
    """A haproxy with one thread that passes TCP from each first address to the second."""
    lines = [
        "global",
        "  nbthread 1",
        "  maxconn 4000",
        "defaults",
        "  mode tcp",
        "  maxconn 4000",
        "  timeout connect 5s",
        "  timeout client 1h",
        "  timeout server 1h",
    ]
    for number, (listen, to) in enumerate(hops):
        lines += [f"listen relay{number}", f"  bind {listen[0]}:{listen[1]}"]
        lines += [f"  server next {to[0]}:{to[1]}"]
    return "\n".join(lines) + "\n"


class Relay(Candidate):
    name = "relay"
    what = "three haproxy processes in a row, one thread each, TCP mode, no cryptography"
    needs: tuple[str, ...] = ("haproxy",)
    port = PORT

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.address = (LOCAL, self.port)
        self.iperf_address = (LOCAL, self.port + 1)

    def start(self) -> None:
        chain = [LOCAL, ROUTER, FAR, LOCAL]
        for number, side in enumerate("arb"):
            here, there = chain[number : number + 2]
            targets = (SERVER_PORT, IPERF_PORT) if side == "b" else (self.port, self.port + 1)
            hops = [
                ((here, self.port + way), (there, target)) for way, target in enumerate(targets)
            ]
            self.hop(side, hops)

    def hop(self, side: str, hops: list[tuple[Address, Address]]) -> None:
        """Start the program of one side."""
        path = self.write(f"{side}.cfg", configuration(hops))
        self.run(side, side, "haproxy", "-f", path)

    def version(self) -> str:
        return " ".join(first_line(["haproxy", "-v"]).split()[:3])
