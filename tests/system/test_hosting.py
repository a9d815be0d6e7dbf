"""Hosting with real programs: two edges before one asset, of which one loses it, and callers that do not notice."""

import os
import socket
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from deploy.demo.plant import Plant, until
from tests.support.namespace import command_in, ip, namespace
from tests.support.needs import need_program
from tests.support.traffic import Echo

pytestmark = pytest.mark.timeout(400)

NUMBER = os.getpid() % 254 + 1
"""Another copy of these tests has addresses of its own on this host."""
ROUTER, ASSET, EDGE = f"10.124.{NUMBER}.1", f"10.124.{NUMBER}.9", f"10.124.{NUMBER}.2"
HMI, HMI6 = f"10.77.{NUMBER}.7", f"fd77:{NUMBER:x}::7"
ASSET6, EDGE6 = f"fd7c:{NUMBER:x}::9", f"fd7c:{NUMBER:x}::2"
"""Router and asset are on the host's side of the cable to the namespace of edge-b."""


class Doubled(Plant):
    """plc-b stands behind edge-b, which is in a namespace of its own, and behind edge-c.

    edge-b has CAP_NET_ADMIN and nothing else, as its unit gives it.
    """

    def __init__(self, inside: str) -> None:
        super().__init__(edges=("edge-a", "edge-b", "edge-c"))
        self.router_host = ROUTER
        self.inside = inside

    def prefix(self, name: str) -> list[str]:
        if name != "edge-b":
            return []
        only = ("--bounding-set=-all,+net_admin", "--inh-caps=-all,+net_admin")
        return command_in(self.inside, need_program("setpriv", "util-linux"), *only)

    def hosts(self) -> list[str]:
        """The edges that host what is live now."""
        return [session["path"][-1] for session in self.live()]


@pytest.fixture(scope="module")
def inside() -> Iterator[str]:
    need_program("nft", "nftables")
    with namespace("hosting") as name:
        cable = f"frh{os.getpid()}"
        subprocess.run(
            ["ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name],
            check=True,
        )
        try:
            for address in (f"{ROUTER}/24", f"{ASSET}/24", f"{ASSET6}/64"):
                quick = ["nodad"] if ":" in address else []
                add = ["ip", "addr", "add", address, "dev", cable, *quick]
                subprocess.run(add, check=True)
            ip(name, "addr", "add", f"{EDGE}/24", "dev", "eth0")
            ip(name, "addr", "add", f"{EDGE6}/64", "dev", "eth0", "nodad")
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
    """What an edge thinks of plc-b.echo; empty while nobody has told it to ask."""
    return next((str(one["state"]) for one in _health(plant, edge)), "")


def _health(plant: Doubled, edge: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = plant.local(edge)["health"]
    assert {one["service"] for one in found} <= {"plc-b.echo"}
    return found


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
    until(lambda: len(health_story(plant)) == 2, 5, "the audit to have both")
    assert health_story(plant) == [("asset.down", "edge-b"), ("asset.up", "edge-b")]
    assert hosted_by(plant, offered) in {"edge-b", "edge-c"}


def health_story(plant: Doubled) -> list[tuple[str, str]]:
    """What the audit says of the asset's health, and which edge said it."""
    heard = plant.json("audit", "search", "--service", "plc-b.echo", "--limit", "200")
    return [(one["event"], one["node"]) for one in heard if one["event"].startswith("asset.")]


def test_callers_choose_another_edge_when_one_is_gone(plant: Doubled, offered: int):
    for gone, left in (("edge-c", "edge-b"), ("edge-b", "edge-c")):
        plant.kill(gone)
        assert hosted_by(plant, offered) == left
        plant.start_again(gone)
        plant.connected()


class Mirror(socketserver.BaseRequestHandler):
    """An asset that says from which address it is asked."""

    def handle(self) -> None:
        said = self.client_address[0].encode()
        if isinstance(self.request, tuple):
            self.request[1].sendto(said, self.client_address)
        else:
            self.request.sendall(said)


class Mirror6(socketserver.ThreadingTCPServer):
    def __init__(self, *given: Any) -> None:
        self.address_family = socket.AF_INET6
        super().__init__(*given)


@pytest.fixture(scope="module")
def mirrors() -> Iterator[dict[str, int]]:
    """Ports of the asset by protocol; answers to the HMI's addresses go by way of edge-b."""
    for far, near in ((HMI, EDGE), (HMI6, EDGE6)):
        subprocess.run(["ip", "route", "add", far, "via", near], check=True)
    servers = {
        "mirror": socketserver.ThreadingTCPServer((ASSET, 0), Mirror),
        "mirror-udp": socketserver.ThreadingUDPServer((ASSET, 0), Mirror),
        "mirror6": Mirror6((ASSET6, 0), Mirror),
    }
    threads = [threading.Thread(target=one.serve_forever, args=(0.05,)) for one in servers.values()]
    for thread in threads:
        thread.start()
    yield {name: int(server.server_address[1]) for name, server in servers.items()}
    for server, thread in zip(servers.values(), threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


def seen_from(port: int, *, udp: bool = False) -> str:
    """The address from which the asset is asked; empty when it is not reached."""
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with socket.socket(type=kind) as sock:
        sock.settimeout(3)
        try:
            sock.connect(("127.0.0.1", port))
            sock.send(b"who?")
            return sock.recv(64).decode()
        except OSError:
            return ""


def rules(inside: str) -> str:
    """What an edge that keeps callers' addresses changes on its host."""
    found = ip(inside, "rule") + ip(inside, "-6", "rule")
    found = "".join(line for line in found.splitlines() if "fwmark" in line)
    for version in ("-4", "-6"):
        routes = ip(inside, version, "route", "show", "table", "all", "type", "local", "dev", "lo")
        found += "".join(line for line in routes.splitlines() if "default" in line)
    tables = command_in(inside, "nft", "list", "tables")
    return found + subprocess.run(tables, check=True, capture_output=True, text=True).stdout


def test_the_asset_sees_its_callers_own_address_where_it_is_asked_for(
    plant: Doubled, inside: str, mirrors: dict[str, int]
):
    """G-06, both IP versions, TCP and UDP; the rules are taken back, also after SIGKILL."""
    plant.ferrule("add", "asset", "hmi-6", "--edge", "edge-a", "--address", HMI6)
    plant.ferrule("add", "asset", "hmi-4", "--edge", "edge-a", "--address", HMI)
    plant.ferrule("add", "asset", "hmi-0", "--edge", "edge-a")
    for asset, address in (("plc-4", ASSET), ("plc-6", ASSET6)):
        plant.ferrule("add", "asset", asset, "--edge", "edge-b", "--address", address)
    offered = {}
    for who, asset, protocol in (
        ("hmi-4", "plc-4", "mirror"),
        ("hmi-4", "plc-4", "mirror-udp"),
        ("hmi-6", "plc-6", "mirror6"),
        ("hmi-0", "plc-4", "mirror"),
    ):
        transport = "udp" if protocol.endswith("udp") else "tcp"
        port = plant.offer(
            mirrors[protocol], who=who, asset=asset, protocol=protocol, transport=transport
        )
        offered[who, protocol] = port
        plant.ferrule("allow", who, asset, protocol)
    first = offered["hmi-4", "mirror"]
    until(
        lambda: seen_from(first) == EDGE, 10, "the edge's own address, as long as nothing is said"
    )
    assert "ferrule" not in rules(inside)
    for service in ("plc-4.mirror", "plc-4.mirror-udp", "plc-6.mirror6"):
        plant.ferrule("set", "service", service, "source=caller")
    until(lambda: seen_from(first) == HMI, 10, "the caller's address")
    until(lambda: seen_from(offered["hmi-6", "mirror6"]) == HMI6, 10, "the same with IPv6")
    until(lambda: seen_from(offered["hmi-4", "mirror-udp"], udp=True) == HMI, 10, "and by UDP")
    assert seen_from(offered["hmi-0", "mirror"]) == ""
    words = "none is recorded for hmi-0: ferrule set asset hmi-0 address=IP"

    def told() -> bool:
        found = plant.json("audit", "search", "--who", "hmi-0", "--outcome", "failed")
        return any(words in one["reason"] for one in found)

    until(told, 10, "the audit to say why")
    made = rules(inside)
    assert "_hosting_" in made
    plant.kill("edge-b")
    assert rules(inside) == made, "nobody was there to take it back"
    plant.start_again("edge-b")
    plant.connected()
    until(lambda: seen_from(first) == HMI, 10, "the caller's address after a crash")
    for service in ("plc-4.mirror", "plc-4.mirror-udp", "plc-6.mirror6"):
        plant.ferrule("set", "service", service, "source=edge")
    until(lambda: rules(inside).strip() == "", 10, "the rules to be taken back")
    until(lambda: seen_from(first) == EDGE, 10, "the edge's own address again")
    plant.ferrule("set", "service", "plc-4.mirror", "source=caller")
    until(lambda: "_hosting_" in rules(inside), 10, "the rules again")
    assert plant.terminate("edge-b") == 0
    assert rules(inside).strip() == ""
    plant.start_again("edge-b")
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
