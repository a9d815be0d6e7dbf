"""The direct path: the kernel alone, which routes between two pairs of veth."""

import platform

from bench.candidates.base import Candidate
from bench.path import DIRECT, IPERF_PORT, SERVER_PORT


class Kernel(Candidate):
    name = "kernel"
    what = (
        "no program at all: the kernel routes between two pairs of veth of its own (forwarding on)"
    )

    def start(self) -> None:
        self.address = (DIRECT, SERVER_PORT)
        self.datagram_address = self.address
        self.iperf_address = (DIRECT, IPERF_PORT)

    def version(self) -> str:
        return f"Linux {platform.release()}"
