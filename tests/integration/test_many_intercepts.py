"""Ten thousand intercepts take the place of ten thousand others while flows run (network namespaces, every mode)."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deploy.demo.plant import until
from tests.support.box import PLACES, Box, box_net, client
from tests.support.docs import ROOT
from tests.support.namespaces import HMI, Namespaces
from tests.support.needs import need_program
from tests.support.tun_box import crowded

MANY = 10_000
LONGEST = 0.5
"""Seconds that a running flow may pause, besides twice what it pauses anyway (a machine may be busy with other things)."""
pytestmark = pytest.mark.timeout(300)


class Flows:
    """`tests.support.steady_flows` on the device behind the box."""

    def __init__(self, net: Namespaces, host: str, which: str) -> None:
        command = [sys.executable, "-m", "tests.support.steady_flows", host, which]
        self._process = subprocess.Popen(
            [*net.inside(HMI), *command], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def told(self) -> dict[str, Any]:
        """What they saw since the last time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found

    def end(self) -> dict[str, Any]:
        """Whether every byte came back."""
        found: dict[str, Any] = json.loads(self._process.communicate(timeout=30)[0])
        return found


@contextlib.contextmanager
def flowing(net: Namespaces, host: str, which: str) -> Iterator[Flows]:
    flows = Flows(net, host, which)
    try:
        yield flows
    finally:
        flows._process.kill()
        flows._process.communicate()


def served(net: Namespaces, address: str) -> bool:
    return client(net, HMI, "knock", address, 5000) == "connected"


@pytest.fixture(scope="module")
def net() -> Iterator[Namespaces]:
    need_program("nft", "nftables")
    with box_net() as made:
        yield made


@pytest.mark.parametrize("mode", ["tun", "tproxy", "redirect"])
def test_flows_go_on_while_ten_thousand_intercepts_are_replaced(
    net: Namespaces, tmp_path: Path, mode: str
):
    """No byte is lost. Of the changes one at least makes them pause for no longer: what they all do is not the machine."""
    box = Box(net, f"mode={mode}", f"dir={tmp_path}")
    try:
        assert box.first == "ready"
        paused = list(pauses(box, net, "tcp" if mode == "redirect" else "all"))
        problems = box.status()["problems"]
        assert [one for one in problems if "which redirect does not carry" not in one] == []
    finally:
        box.stop()
    assert min(paused) <= LONGEST, paused


def pauses(box: Box, net: Namespaces, which: str) -> Iterator[float]:
    """How long flows pause at most while all is replaced, each time."""
    with flowing(net, PLACES[2], which) as flows:
        until(lambda: all(one["count"] for one in flows.told().values()), 20, "the flows")
        for crowd in (MANY, MANY + 1):
            time.sleep(1)
            before = flows.told()
            usual = max(one["longest"] for one in before.values())
            box.tell(f"crowd {crowd}")
            last = crowded(crowd, MANY - 1).replace(".0/24", ".9")
            until(partial(served, net, last), 60, last)
            after = flows.told()
            assert all(after[name]["count"] > before[name]["count"] for name in after)
            assert not any(one["failure"] for one in after.values()), after
            usual = max(usual, after.pop("machine")["longest"])
            yield max(one["longest"] for one in after.values()) - 2 * usual
        end = flows.end()
    assert not any(one["failure"] for one in end.values()), end
