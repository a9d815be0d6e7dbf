"""Hosting with real programs: two edges before one asset, of which one loses it, and callers that do not notice."""

import os
import socket
import subprocess
from collections.abc import Iterator

import pytest

from deploy.demo.plant import Plant, until
from tests.support.namespace import command_in, ip, namespace
from tests.support.traffic import Echo

pytestmark = pytest.mark.timeout(180)

ROUTER, ASSET, EDGE = "10.124.0.1", "10.124.0.9", "10.124.0.2"
"""Router and asset are on the host's side of the cable to the namespace of edge-b."""


class Doubled(Plant):
    """plc-b stands behind edge-b, which is in a namespace of its own, and behind edge-c."""

    def __init__(self, inside: str) -> None:
        super().__init__(edges=("edge-a", "edge-b", "edge-c"))
        self.router_host = ROUTER
        self.inside = inside

    def prefix(self, name: str) -> list[str]:
        return command_in(self.inside) if name == "edge-b" else []

    def hosts(self) -> list[str]:
        """The edges that host what is live now."""
        return [session["path"][-1] for session in self.live()]


@pytest.fixture(scope="module")
def inside() -> Iterator[str]:
    with namespace("hosting") as name:
        cable = f"frh{os.getpid()}"
        subprocess.run(
            ["ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name],
            check=True,
        )
        try:
            for address in (ROUTER, ASSET):
                subprocess.run(["ip", "addr", "add", f"{address}/24", "dev", cable], check=True)
            ip(name, "addr", "add", f"{EDGE}/24", "dev", "eth0")
            subprocess.run(["ip", "link", "set", cable, "up"], check=True)
            ip(name, "link", "set", "eth0", "up")
            yield name
        finally:
            subprocess.run(["ip", "link", "del", cable], check=False)


@pytest.fixture(scope="module")
def plant(inside: str) -> Iterator[Doubled]:
    with Doubled(inside) as made:
        yield made


@pytest.fixture(scope="module")
def offered(plant: Doubled) -> Iterator[int]:
    """The port at which edge-a offers plc-b.echo."""
    with Echo(ASSET) as echo:
        plant.ferrule("add", "asset", "plc-b", "--edge", "edge-b:1", "--edge", "edge-c:2",
                      "--address", ASSET)  # fmt: skip
        plant.ferrule("add", "service", "plc-b", "echo", "--port", str(echo.port), "--health", "1s")
        port = plant.offer(echo.port, protocol="echo", address=ASSET)
        plant.ferrule("allow", "hmi-a", "plc-b", "echo")
        until(lambda: polled(port), 10, "the first poll")
        yield port


def polled(port: int) -> bool:
    """Whether a poll of its own connection is answered."""
    try:
        with socket.create_connection(("127.0.0.1", port), 3) as sock:
            sock.settimeout(10)
            sock.sendall(b"poll")
            return sock.recv(4) == b"poll"
    except OSError:
        return False


def hosted_by(plant: Doubled, port: int) -> str:
    """The edge that hosts a new connection, which has to work."""
    with socket.create_connection(("127.0.0.1", port), 3) as sock:
        sock.settimeout(10)
        sock.sendall(b"poll")
        assert sock.recv(4) == b"poll"
        until(lambda: len(plant.hosts()) == 1, 5, "the session")
        found = plant.hosts()[0]
    until(lambda: not plant.hosts(), 5, "its end")
    return found


def state(plant: Doubled, edge: str) -> str:
    (one,) = plant.local(edge)["health"]
    assert one["service"] == "plc-b.echo"
    return str(one["state"])


def test_callers_choose_another_edge_while_one_does_not_reach_the_asset(
    plant: Doubled, offered: int, inside: str
):
    edges = ("edge-b", "edge-c")
    until(lambda: {state(plant, edge) for edge in edges} == {"up"}, 10, "both to know the asset")
    assert hosted_by(plant, offered) == "edge-b"
    ip(inside, "route", "add", "unreachable", f"{ASSET}/32")
    until(lambda: state(plant, "edge-b") == "down", 10, "edge-b to find the asset gone")
    assert state(plant, "edge-c") == "up"
    # The caller has an association with edge-b; not one connection fails because of that (C-18, F-12).
    assert [hosted_by(plant, offered) for _ in range(2)] == ["edge-c", "edge-c"]
    ip(inside, "route", "del", "unreachable", f"{ASSET}/32")
    until(lambda: state(plant, "edge-b") == "up", 10, "edge-b to find it again")
    heard = plant.json("audit", "search", "--service", "plc-b.echo", "--limit", "200")
    story = [(one["event"], one["node"]) for one in heard if one["event"].startswith("asset.")]
    assert story == [("asset.down", "edge-b"), ("asset.up", "edge-b")]
    assert hosted_by(plant, offered) in {"edge-b", "edge-c"}


def test_callers_choose_another_edge_when_one_is_gone(plant: Doubled, offered: int):
    for gone, left in (("edge-c", "edge-b"), ("edge-b", "edge-c")):
        plant.kill(gone)
        assert hosted_by(plant, offered) == left
        plant.start_again(gone)
        plant.connected()


def test_what_is_wrong_about_health_is_said(plant: Doubled, offered: int):
    for words, change in (
        ("is not a duration", "health=often"),
        ("between 1s and 1h", "health=2h"),
        ("remove its listeners first", "transport=udp"),
        ("connect is held or at-once", "connect=later"),
    ):
        done = plant.call("ferrule", "set", "service", "plc-b.echo", change)
        assert done.returncode, change
        assert words in done.stderr
    done = plant.call("ferrule", "add", "service", "plc-b", "snmp", "--port", "161",
                      "--transport", "udp", "--health", "10s")  # fmt: skip
    assert (done.returncode, "UDP, which answers no connection" in done.stderr) == (2, True)
    shown = plant.json("show", "service", "plc-b.echo")
    assert (shown["health"], shown["connect"]) == (1, "held")
    plant.ferrule("set", "service", "plc-b.echo", "health=off", "connect=at-once")
    shown = plant.json("show", "service", "plc-b.echo")
    assert (shown["health"], shown["connect"]) == (None, "at-once")
    until(lambda: not plant.local("edge-c")["health"], 10, "edge-c to ask no more")
