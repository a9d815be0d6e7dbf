"""Three relays in the interpreter that do nothing else: what Python itself costs on this path."""

import importlib.metadata
import sys
from pathlib import Path

from bench.candidates.base import Address
from bench.candidates.haproxy import Relay

PROGRAM = Path(__file__).parent.parent / "bare_relay.py"


class Bare(Relay):
    name = "python"
    what = "three bare relays in Python on uvloop: no frames, no cryptography, no grants, no audit, no resume"
    needs: tuple[str, ...] = ()
    port = 7021

    def hop(self, side: str, hops: list[tuple[Address, Address]]) -> None:
        ways = [str(part) for hop in hops for address in hop for part in address]
        self.run(side, side, sys.executable, str(PROGRAM), *ways)

    def version(self) -> str:
        return f"Python {sys.version.split()[0]}, uvloop {importlib.metadata.version('uvloop')}"
