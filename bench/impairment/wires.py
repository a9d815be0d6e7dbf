"""Wires between network namespaces, to be made worse and better at will: `with wires(seed) as net: net.join(...)`."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from bench.errors import BenchError
from bench.impairment.core import Counts, Impairment

PERFECT = Impairment()


class Wires:
    """The wires of one driver process."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._now: dict[str, Impairment] = {}

    def __contains__(self, name: str) -> bool:
        """Whether there is a wire of this name."""
        return name + ">" in self._now

    def join(self, name: str, first: tuple[str, str], second: tuple[str, str]) -> None:
        """Make a wire between two ends, each (namespace, name of its new TUN device, at most 15 characters).

        Raises:
            BenchError: one cannot be made.
        """
        self._order({"wire": name, "ends": [first, second]})
        self._now |= {name + sign: PERFECT for sign in "><"}

    def set(self, name: str, both: Impairment = PERFECT, *, back: Impairment | None = None) -> None:
        """How bad a wire is from now on, from its first end to its second and, unless `back` says otherwise, back."""
        self.set_all({name + ">": both, name + "<": both if back is None else back})

    def set_all(self, changes: Mapping[str, Impairment]) -> None:
        """Change directions, `WIRE>` and `WIRE<`, at the same moment.

        Raises:
            BenchError: there is no such wire, or an impairment makes no sense.
        """
        self._order({"set": {name: one._asdict() for name, one in changes.items()}})
        self._now |= changes

    def cut(self, *names: str) -> None:
        """Cut wires, or directions of wires, at the same moment; the ends do not learn of it."""
        self.set_all(
            {one: self._now[one]._replace(cut=True) for name in names for one in _both(name)}
        )

    def heal(self, *names: str) -> None:
        """They are as bad as before the cut."""
        self.set_all(
            {one: self._now[one]._replace(cut=False) for name in names for one in _both(name)}
        )

    def counts(self) -> dict[str, Counts]:
        """What has become of the packets of each direction."""
        return {name: Counts(**one) for name, one in self._order({"counts": True}).items()}

    def _order(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps(order), file=self.process.stdin, flush=True)
            answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        except (BrokenPipeError, ValueError):
            raise BenchError("the process that carries the packets has ended") from None
        if "error" in answer:
            raise BenchError(f"the process that carries the packets says: {answer['error']}")
        return answer


def _both(name: str) -> list[str]:
    return [name] if name[-1] in "><" else [name + ">", name + "<"]


@contextlib.contextmanager
def wires(seed: int = 1) -> Iterator[Wires]:
    """Start the process that carries the packets; it, and all devices, are gone at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.impairment.driver", str(seed)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield Wires(process)
    finally:
        process.kill()
        process.communicate()
