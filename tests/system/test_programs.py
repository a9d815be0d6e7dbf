"""Programs that know nothing of Ferrule reach a device of another plant through TUN: on the box itself (local) and on a
device behind it that has no software (forwarded), over IPv4 and IPv6.

One pair of plants for all; each test is one program of another project, unmodified.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo.plant import until
from deploy.demo.sites import BOX, HMI, HMI6, PLC, PLC6, RESOLVER, TwoSites
from tests.support import plc
from tests.support.needs import need_program, need_root

pytestmark = pytest.mark.timeout(180)

NAME = "plc-south.mill.internal"
VIRTUAL = "10.2.1.10"
"""Where the north knows the device of the south at an address without a name."""
LOCAL, FORWARDED = "north-box", "north-hmi"
WAYS = [(where, version) for where in (LOCAL, FORWARDED) for version in (4, 6)]
TCP = {"http": 80, "ssh": 22, "iperf": 5201, "modbus": 502, "opcua": 4840, "s7": 102, "mqtt": 1883}
UDP = {"iperf-udp": 5201, "dns": 53}
SSHD = """Port 22
ListenAddress 0.0.0.0
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
"""


class Programs(TwoSites):
    """Runs programs on the machines of the north."""

    def __init__(self) -> None:
        super().__init__()
        self.overlay: dict[int, str] = {}

    def runs(self, where: str, *command: str, text: str | bytes = "", seconds: float = 60) -> str:
        """What a program prints, which has to end well."""
        done = subprocess.run(
            self.on(where, *command), capture_output=True, timeout=seconds, check=False,
            input=text if isinstance(text, bytes) else text.encode(),
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stdout[-1000:], done.stderr[-1000:])
        return done.stdout.decode()


def servers(folder: Path) -> dict[str, list[str]]:
    """What runs on the device of the south."""
    for key in ("host", "user"):
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(made, check=True)
    (folder / "sshd").write_text(SSHD.format(folder=folder))
    (folder / "mosquitto").write_text("listener 1883 0.0.0.0\nallow_anonymous true\nuser root\n")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    sshd = need_program("sshd", "openssh-server")
    return {
        "plc": [sys.executable, "-m", "tests.support.plc"],
        "sshd": [sshd, "-D", "-e", "-f", str(folder / "sshd")],
        "mosquitto": [need_program("mosquitto", "mosquitto"), "-c", str(folder / "mosquitto")],
        "iperf3": ["iperf3", "-s"],
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("device")


@pytest.fixture(scope="module")
def plant(folder: Path) -> Iterator[Programs]:
    need_root()
    for program, package in (
        ("curl", "curl"), ("ssh", "openssh-client"), ("iperf3", "iperf3"), ("dig", "bind9-dnsutils"),
        ("ping", "iputils-ping"), ("mbpoll", "mbpoll"), ("mosquitto_sub", "mosquitto-clients"),
    ):  # fmt: skip
        need_program(program, package)
    running: list[subprocess.Popen[bytes]] = []
    with Programs() as made:
        try:
            for name, command in servers(folder).items():
                with (made.folder / f"{name}.log").open("wb") as log:
                    inside = made.machines.inside("south-plc")
                    running.append(subprocess.Popen([*inside, *command], stdout=log, stderr=log))
            say(made)
            until(lambda: "ready" in made.log("plc"), 20, "the device to be ready")
            yield made
        finally:
            for server in running:
                server.kill()
                server.wait()


def say(plant: Programs) -> None:
    """What is there, and who may reach it."""
    panel = ("--tag", "panel")
    plant.ferrule("add", "asset", "hmi-north", "--edge", "north", "--address", HMI, *panel)
    plant.ferrule("add", "asset", "hmi-north6", "--edge", "north", "--address", HMI6, *panel)
    plant.ferrule("add", "asset", "station", "--edge", "north", *panel)
    plant.ferrule("add", "asset", "plc-south", "--edge", "south", "--address", PLC)
    plant.ferrule("add", "asset", "plc-six", "--edge", "south", "--address", PLC6)
    for ports, transport in ((TCP, "tcp"), (UDP, "udp")):
        for protocol, port in ports.items():
            plant.ferrule("add", "service", "plc-south", protocol, "--port", str(port),
                          "--transport", transport)  # fmt: skip
            plant.ferrule("allow", "tag:panel", "plc-south", protocol)
    plant.ferrule("add", "service", "plc-six", "http", "--port", "8080")
    plant.ferrule("allow", "tag:panel", "plc-six", "http")
    words = ("--as", "station", "--address", VIRTUAL)
    made = plant.json("add", "intercept", "north", "plc-south", *words)
    plant.overlay = {6 if ":" in one else 4: one for one in made["overlay"]}
    plant.ferrule("add", "intercept", "north", "plc-six", "--as", "station")
    until(lambda: (plant.local("north").get("names") or {}).get("domain"), 20, "names")


@pytest.fixture(params=WAYS, ids=[f"{where}-ipv{version}" for where, version in WAYS])
def way(request: pytest.FixtureRequest) -> tuple[str, int]:
    return request.param


def test_dig_finds_names_and_asks_a_server_of_the_device(plant: Programs, way: tuple[str, int]):
    where, version = way
    kind = "A" if version == 4 else "AAAA"
    assert plant.runs(where, "dig", "+short", NAME, kind).split() == [plant.overlay[version]]
    at = f"@{plant.overlay[version]}"
    said = plant.runs(where, "dig", "+short", "+time=10", at, "anything.example", "TXT")
    assert said.strip() == f'"{plc.DNS_TEXT}"'


def test_curl(plant: Programs, way: tuple[str, int]):
    where, version = way
    curl = ("curl", "-sS", f"-{version}", "--max-time", "30")
    assert plant.runs(where, *curl, f"http://{NAME}/") == plc.PAGE.decode()
    if version == 4:
        assert plant.runs(where, *curl, f"http://{VIRTUAL}/") == plc.PAGE.decode()
    # The asset itself has an IPv6 address here, whatever the caller uses.
    assert plant.runs(where, *curl, "http://plc-six.mill.internal:8080/") == plc.PAGE.decode()


def test_ssh_with_a_key_carries_a_megabyte(plant: Programs, way: tuple[str, int], folder: Path):
    where, version = way
    data = os.urandom(1 << 20)
    said = plant.runs(
        where, "ssh", f"-{version}", "-i", str(folder / "user"), "-F", "none", "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", f"root@{NAME}",
        "sha256sum", text=data,
    )  # fmt: skip
    assert said.split()[0] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(
    "options",
    [(), ("-R",), ("-u", "-b", "2M", "-l", "200", "-n", "100K")],
    ids=["up", "down", "udp"],
)
def test_iperf3(plant: Programs, way: tuple[str, int], options: tuple[str, ...]):
    where, version = way
    size = () if options[:1] == ("-u",) else ("-n", "8M")
    said = json.loads(plant.runs(where, "iperf3", f"-{version}", "-J", "-c", NAME, *size, *options))
    end = said["end"]
    if options[:1] == ("-u",):
        assert end["sum"]["packets"] >= 500
        assert end["sum"]["lost_packets"] < end["sum"]["packets"] / 4, "a busy machine loses some"
    else:
        # Its receiver counts what has arrived when the sender says that it is done.
        assert end["sum_sent"]["bytes"] >= 8_000_000
        assert end["sum_received"]["bytes"] > 0


def test_ping(plant: Programs, way: tuple[str, int]):
    where, version = way
    said = plant.runs(where, "ping", f"-{version}", "-n", "-c", "3", "-i", "0.2", "-W", "20", NAME)
    assert " 0% packet loss" in said


READ = {"modbus": str(plc.REGISTERS), "opcua": str(plc.LEVEL), "s7": plc.BLOCK.hex()}
LIBRARIES = [
    (kind, where, version)
    for kind in READ
    for where, version in WAYS
    if (kind, version) != ("s7", 6)  # python-snap7 makes IPv4 sockets only
]


@pytest.mark.parametrize(("kind", "where", "version"), LIBRARIES)
def test_a_python_library(plant: Programs, kind: str, where: str, version: int):
    """pymodbus, asyncua, python-snap7."""
    command = (sys.executable, "-m", "tests.support.ot_client", kind)
    assert plant.runs(where, *command, plant.overlay[version]).strip() == READ[kind]


def test_mbpoll(plant: Programs, way: tuple[str, int]):
    where, version = way
    poll = ("mbpoll", "-m", "tcp", "-1", "-r", "1", "-c", "10", "-t", "4", "-o", "10")
    said = plant.runs(where, *poll, plant.overlay[version])
    read = [int(line.split(":")[1]) for line in said.splitlines() if line.startswith("[")]
    assert read == plc.REGISTERS


def test_mqtt(plant: Programs, way: tuple[str, int]):
    where, version = way
    text = f"too hot at {where}, {version}"
    host = ("-h", plant.overlay[version], "-t", "alarm")
    plant.runs(where, "mosquitto_pub", *host, "-r", "-q", "1", "-m", text)
    assert plant.runs(where, "mosquitto_sub", *host, "-C", "1", "-W", "30").strip() == text


def test_a_whole_subnet_is_one_asset(plant: Programs):
    """C-19: every device of the south at an address of its own in the north, and none beside it."""
    plant.ferrule("add", "asset", "lan-south", "--edge", "south", "--address", "192.168.1.0/24")
    plant.ferrule("add", "service", "lan-south", "http")
    plant.ferrule("allow", "tag:panel", "lan-south", "http")
    done = plant.call("ferrule", "add", "intercept", "north", "lan-south")
    assert "has no name for all of it" in done.stderr
    done = plant.call(
        "ferrule", "add", "intercept", "north", "lan-south", "--address", "10.3.0.0/16"
    )
    assert "which device is meant?" in done.stderr
    done = plant.call(
        "ferrule", "add", "listener", "north", "lan-south.http", "--listen", f"{BOX}:15081"
    )
    assert "a listener leads to one device" in done.stderr
    plant.ferrule("add", "intercept", "north", "lan-south", "--address", "10.3.0.0/24",
                  "--as", "station")  # fmt: skip
    curl = ("curl", "-sS", "--max-time", "20")

    def fetched(where: str, host: str) -> tuple[int, bytes]:
        command = plant.on(where, *curl, f"http://{host}/")
        done = subprocess.run(command, capture_output=True, check=False)
        return done.returncode, done.stdout

    until(lambda: fetched(FORWARDED, "10.3.0.10") == (0, plc.PAGE), 15, "the device")
    assert fetched(LOCAL, "10.3.0.10") == (0, plc.PAGE)
    assert " 0% packet loss" in plant.runs(LOCAL, "ping", "-c", "1", "-W", "20", "10.3.0.10")
    for nobody in ("10.3.0.50", "10.3.0.255"):  # no server there; nobody's address at all
        assert fetched(LOCAL, nobody)[0] == 7
    found = plant.json("audit", "search", "--service", "lan-south.http", "--outcome", "allowed")
    assert {one["address"] for one in found} == {f"{PLC}:80"}


def test_the_same_programs_through_proxy_listeners(plant: Programs):
    """A port of the box instead of TUN: what a device is told when its address may be changed."""
    for protocol, port in (("modbus", 15_020), ("http", 15_080), ("mqtt", 15_883)):
        plant.ferrule("add", "listener", "north", f"plc-south.{protocol}", "--listen",
                      f"{BOX}:{port}", "--as", "hmi-north")  # fmt: skip
    until(lambda: len(plant.local("north")["listeners"]) == 3, 10, "the listeners")
    said = plant.runs(FORWARDED, "mbpoll", "-m", "tcp", "-1", "-r", "1", "-c", "10", "-t", "4",
                      "-o", "10", "-p", "15020", BOX)  # fmt: skip
    assert said.count("[") >= len(plc.REGISTERS)
    assert plant.runs(FORWARDED, "curl", "-sS", f"http://{BOX}:15080/") == plc.PAGE.decode()
    host = ("-h", BOX, "-p", "15883", "-t", "alarm")
    plant.runs(FORWARDED, "mosquitto_pub", *host, "-r", "-q", "1", "-m", "by proxy")
    assert plant.runs(FORWARDED, "mosquitto_sub", *host, "-C", "1", "-W", "30") == "by proxy\n"


def test_the_audit_says_who_it_was_and_where(plant: Programs):
    """The programs above: those of the box count as `station`, the HMI as what its address says."""
    found = plant.json("audit", "search", "--outcome", "allowed", "--limit", "1000")
    opened = [one for one in found if one["event"] == "circuit.open"]
    assert {one["who"] for one in opened} == {"station", "hmi-north", "hmi-north6"}
    assert {one["via"] for one in opened} == {"north"}
    addresses = {one["address"] for one in opened}
    wanted = {f"{PLC}:{port}" for port in (*TCP.values(), *UDP.values())}
    assert wanted | {PLC, f"[{PLC6}]:8080"} <= addresses
    assert RESOLVER not in addresses
