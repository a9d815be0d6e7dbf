"""What is intercepted by TUN, with real programs in a namespace: names by dig and getent, a web page by curl, and nothing
left behind by whatever end.
"""

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo.plant import Plant, until
from tests.support.namespace import command_in, ip, namespace
from tests.support.needs import need_program, need_root
from tests.support.records import attempts, tally

pytestmark = pytest.mark.timeout(400)

NUMBER = os.getpid() % 254 + 1
"""Another copy of these tests has addresses of its own on this host."""
HOST = f"10.123.{NUMBER}.1"
"""The router and the asset are here, on the host's side of the cable to the namespace of edge-a."""
EDGE = f"10.123.{NUMBER}.2"
RESOLVER = "100.64.0.1"
OLD = f"nameserver {HOST}\nsearch plant.example\n"


class Page(http.server.BaseHTTPRequestHandler):
    """An asset with a web page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"plc-b")

    def log_message(self, *_: object) -> None: ...


class Tunneled(Plant):
    """edge-a is in a namespace of its own, with a resolv.conf of its own."""

    def __init__(self, inside: str, resolv: Path) -> None:
        super().__init__()
        self.router_host = HOST
        self._inside = inside
        self._resolv = resolv

    def prefix(self, name: str) -> list[str]:
        if name != "edge-a":
            return []
        script = f'mount --bind {self._resolv} /etc/resolv.conf && exec "$@"'
        return command_in(self._inside, "sh", "-c", script, "sh")

    def start_edge(self, name: str, *options: str) -> None:
        super().start_edge(name, *(("--names", "resolv.conf") if name == "edge-a" else ()))

    def inside(self, *command: str) -> str:
        """What a program in the namespace of edge-a says; empty when it fails."""
        script = f'mount --bind {self._resolv} /etc/resolv.conf && exec "$@"'
        done = subprocess.run(
            command_in(self._inside, "sh", "-c", script, "sh", *command),
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        return done.stdout.strip() if done.returncode == 0 else ""

    def status(self) -> dict:
        return json.loads(
            self.run("ferrule-edge", "status", "--dir", self.path("edge-a"), "--json")
        )


@pytest.fixture(scope="module")
def inside() -> Iterator[str]:
    need_root()
    for program, package in (("dig", "bind9-dnsutils"), ("curl", "curl")):
        need_program(program, package)
    with namespace("tunnel") as name:
        cable = f"frl{os.getpid()}"
        subprocess.run(
            ["ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", name],
            check=True,
        )
        try:
            for where in ((["ip"], cable, HOST), (["ip", "-n", name], "eth0", EDGE)):
                command, link, address = where
                subprocess.run([*command, "addr", "add", f"{address}/24", "dev", link], check=True)
                subprocess.run([*command, "link", "set", link, "up"], check=True)
            yield name
        finally:
            subprocess.run(["ip", "link", "del", cable], check=False)


@pytest.fixture(scope="module")
def resolv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("etc") / "resolv.conf"
    path.write_text(OLD)
    return path


@pytest.fixture(scope="module")
def page(inside: str) -> Iterator[int]:
    server = http.server.ThreadingHTTPServer((HOST, 0), Page)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(scope="module")
def plant(inside: str, resolv: Path, page: int, request: pytest.FixtureRequest) -> Iterator[Plant]:
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(Tunneled(inside, resolv))
        made.ferrule("add", "asset", "hmi-a", "--edge", "edge-a")
        made.ferrule("add", "asset", "plc-b", "--edge", "edge-b", "--address", HOST)
        made.ferrule("add", "service", "plc-b", "http", "--port", str(page))
        yield made


def changed(inside: str, resolv: Path) -> list[str]:
    """What is on the host of edge-a that was not there before."""
    found = []
    if "ferrule0" in ip(inside, "link"):
        found.append("the interface")
    if "100.64.0.0/10" in ip(inside, "route"):
        found.append("a route")
    if resolv.read_text() != OLD:
        found.append("resolv.conf")
    if "ferrule" in subprocess.check_output(
        ["ip", "netns", "exec", inside, "nft", "list", "tables"], text=True
    ):
        found.append("rules")
    return found


def test_an_edge_without_intercepts_changes_nothing(plant: Tunneled, inside: str, resolv: Path):
    assert changed(inside, resolv) == []
    assert "interception" not in plant.status()


def test_names_and_addresses_lead_to_the_asset_once_it_is_allowed(
    plant: Tunneled, inside: str, resolv: Path, page: int
):
    real = "10.99.0.7"
    made = plant.json("add", "intercept", "edge-a", "plc-b", "--as", "hmi-a", "--address", real)
    (v4, v6), name = made["overlay"], made["dns"]
    until(lambda: (plant.status()["names"] or {}).get("mode"), 20, "names")
    everything = ["the interface", "a route", "resolv.conf", "rules"]
    until(lambda: changed(inside, resolv) == everything, 20, "all that it changes")
    assert resolv.read_text().splitlines()[1:] == [f"nameserver {RESOLVER}", *OLD.splitlines()]
    assert plant.status()["problems"] == []
    # Nothing is allowed: no name, and a reset at once.
    assert "NXDOMAIN" in plant.inside("dig", "+time=2", name)
    assert plant.inside("curl", "-sm", "5", f"http://{v4}:{page}/") == ""
    until(lambda: tally(attempts(plant, "plc-b.http", "denied")), 10, "audit")
    plant.ferrule("allow", "hmi-a", "plc-b", "http")
    until(lambda: plant.inside("dig", "+short", "+time=2", name) == v4, 10, "the name")
    assert plant.inside("dig", "+short", "+tcp", "AAAA", name) == v6
    assert plant.inside("dig", "+short", "-x", v4) == f"{name}."
    assert plant.inside("getent", "ahostsv4", f"www.{name}").split()[0] == v4
    for where in (name, f"www.{name}", v4, f"[{v6}]", real):
        assert plant.inside("curl", "-sm", "10", f"http://{where}:{page}/") == "plc-b", where
    until(lambda: listed(plant) == {("hmi-a", "edge-a", "plc-b.http")}, 5, "the sessions")


def listed(plant: Tunneled) -> set[tuple[str, str, str]]:
    """Who has ever had a session, by which edge, and with what."""
    found = plant.json("sessions", "--history")
    return {(one["who"], one["via"], one["service"]) for one in found}


def test_other_names_go_to_the_resolver_that_was_there(plant: Tunneled, resolv: Path):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as there:
        there.bind((HOST, 53))
        there.settimeout(20)
        heard: list[bytes] = []

        def answer() -> None:
            query, client = there.recvfrom(4096)
            heard.append(query)
            flags = b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00"
            end = query.index(b"\x00", 12) + 5
            record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x05\x00\x04\xc6\x33\x64\x07"
            there.sendto(query[:2] + flags + query[12:end] + record, client)

        thread = threading.Thread(target=answer)
        thread.start()
        said = plant.inside("dig", "+short", "+noedns", "+tries=1", "example.com")
        thread.join()
    assert said == "198.51.100.7"
    assert b"\x07example\x03com" in heard[0]


def test_a_killed_edge_takes_back_at_its_next_start(plant: Tunneled, inside: str, resolv: Path):
    plant.signal("edge-a", signal.SIGKILL)
    plant.programs["edge-a"].wait(10)
    left = ["resolv.conf", "rules"]  # the device is gone with its descriptor
    until(lambda: changed(inside, resolv) == left, 5, "the device to be gone, and no more")
    plant.ferrule("rm", "intercept", "edge-a:plc-b")
    plant.start_again("edge-a")
    until(lambda: changed(inside, resolv) == [], 20, "everything is taken back")


def test_a_stopped_edge_leaves_nothing(plant: Tunneled, inside: str, resolv: Path):
    plant.ferrule("add", "intercept", "edge-a", "plc-b")
    until(lambda: len(changed(inside, resolv)) == 4, 30, "the intercept")
    assert plant.terminate("edge-a") == 0
    assert changed(inside, resolv) == []
