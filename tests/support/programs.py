"""Two plants, a device of the south that speaks much, and machines of the north on which programs of other projects run.

Nothing of those programs knows of Ferrule: neither what they run on nor what they speak with.
"""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from deploy.demo.plant import COMMANDS, until
from deploy.demo.sites import BOX, BOX6, HMI, HMI6, PLC, PLC6, TwoSites
from tests.support.needs import need_program, need_root

NAME = "plc-south.mill.internal"
SIX = "plc-six.mill.internal"
"""The device of the south at its IPv6 address."""
VIRTUAL = "10.2.1.10"
"""Where the north knows the device of the south at an address without a name."""
LOCAL, FORWARDED = "north-box", "north-hmi"
TCP = {"http": 80, "ssh": 22, "iperf": 5201, "modbus": 502, "opcua": 4840, "s7": 102, "mqtt": 1883}
UDP = {"iperf-udp": 5201, "dns": 53}
SIX_PORT = 8080
LISTEN = 10_000
"""By `proxy` each port of the device is a port of the box, so much higher."""
CARRIES = {
    "proxy": ("TCP", "UDP"),
    "tun": ("TCP", "UDP", "ping"),
    "tproxy": ("TCP", "UDP"),
    "redirect": ("TCP",),
}
"""What gets through by each mode. tests/system/test_programs.py shows it, for what a mode carries and for what it does
not, and docs/operations.md has the same table."""
NEEDED = (
    ("curl", "curl"), ("ssh", "openssh-client"), ("iperf3", "iperf3"), ("dig", "bind9-dnsutils"),
    ("ping", "iputils-ping"), ("mbpoll", "mbpoll"), ("mosquitto_sub", "mosquitto-clients"), ("nft", "nftables"),
)  # fmt: skip
SSHD = """Port 22
ListenAddress 0.0.0.0
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
"""


class Way(NamedTuple):
    """How a program comes to the device: by which mode, from which machine, over which IP version, and to where."""

    mode: str
    where: str
    version: int
    host: str
    """A name, where there is one."""
    address: str

    def port(self, protocol: str) -> int:
        """Where it finds a service."""
        return {**TCP, **UDP}[protocol] + (LISTEN if self.mode == "proxy" else 0)

    def url(self, host: str = "", port: int = 0) -> str:
        """Of the device's page, or of another host and port."""
        host, port = host or self.host, port or self.port("http")
        return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class Library:
    """The program of the libraries on one machine (`tests.support.ot_client`)."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(
            [*command, sys.executable, "-m", "tests.support.ot_client"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._turn = threading.Lock()

    def read(self, kind: str, host: str, port: int) -> str:
        """What one library reads, or why it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._turn:
            self._process.stdin.write(f"{kind} {host} {port}\n")
            self._process.stdin.flush()
            return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


class Programs(TwoSites):
    """Runs programs on the machines of the north."""

    def __init__(self) -> None:
        super().__init__()
        self.overlay: dict[int, str] = {}
        self.libraries: dict[str, Library] = {}
        self.asked: list[str] = []
        """The modes by which all programs have been run."""
        self.measuring = threading.Lock()
        """A server of iperf3 has one client at a time."""
        self.device = self.folder / "device"

    def runs(self, where: str, *command: str, text: str | bytes = "", seconds: float = 120) -> str:
        """What a program prints, which has to end well."""
        done = subprocess.run(
            self.on(where, *command), capture_output=True, timeout=seconds, check=False,
            input=text if isinstance(text, bytes) else text.encode(),
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stdout[-1000:], done.stderr[-1000:])
        return done.stdout.decode()

    def fails(self, where: str, *command: str) -> str:
        """What a program says that does not get through, long before it would give up."""
        done = subprocess.run(
            self.on(where, *command), capture_output=True, timeout=45, check=False, text=True
        )
        assert done.returncode != 0, (command, done.stdout)
        return done.stdout + done.stderr

    def way(self, mode: str, where: str, version: int) -> Way:
        """To the device."""
        if mode == "proxy":
            host = BOX if version == 4 else BOX6
            return Way(mode, where, version, host, host)
        return Way(mode, where, version, NAME, self.overlay[version])

    def intercept_by(self, mode: str) -> None:
        """The box catches everything by this mode from now on."""
        for name in [one["name"] for one in self.json("ls", "intercept")]:
            self.ferrule("set", "intercept", name, f"mode={mode}")

        def changed() -> bool:
            status = self.local("north")
            names = (status.get("names") or {}).get("domain")
            return bool(status["interception"]["mode"] == mode and names)

        until(changed, 20, mode)
        if mode == "tproxy":
            self._let_bridges_alone()

    def _let_bridges_alone(self) -> None:
        """The box's LAN is a bridge: where br_netfilter is loaded, the doctor says that it must not look into it."""

        def advice() -> str:
            command = self.on(LOCAL, str(COMMANDS / "ferrule-edge"), "doctor", "--json", "--dir")
            done = subprocess.run([*command, self.path("north")], capture_output=True, check=False)
            (found,) = [one for one in json.loads(done.stdout) if one["check"] == "bridges"]
            return "" if found["ok"] else str(found["text"]).partition("sysctl -w ")[2]

        settings = advice().partition(",")[0].split()
        if settings:
            self.runs(LOCAL, "sysctl", "-qw", *settings)
            assert advice() == ""

    def servers(self) -> dict[str, list[str]]:
        """What runs on the device of the south."""
        folder = self.device
        folder.mkdir(exist_ok=True)
        for key in ("host", "user"):
            made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
            subprocess.run(made, check=True)
        (folder / "sshd").write_text(SSHD.format(folder=folder))
        (folder / "mosquitto").write_text(
            "listener 1883 0.0.0.0\nallow_anonymous true\nuser root\n"
        )
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        sshd = need_program("sshd", "openssh-server")
        return {
            "plc": [sys.executable, "-m", "tests.support.plc"],
            "sshd": [sshd, "-D", "-e", "-f", str(folder / "sshd")],
            "mosquitto": [need_program("mosquitto", "mosquitto"), "-c", str(folder / "mosquitto")],
            "iperf3": ["iperf3", "-s"],
        }

    def say(self) -> None:
        """What is there, and who may reach it."""
        panel = ("--tag", "panel")
        self.ferrule("add", "asset", "hmi-north", "--edge", "north", "--address", HMI, *panel)
        self.ferrule("add", "asset", "hmi-north6", "--edge", "north", "--address", HMI6, *panel)
        self.ferrule("add", "asset", "station", "--edge", "north", *panel)
        self.ferrule("add", "asset", "plc-south", "--edge", "south", "--address", PLC)
        self.ferrule("add", "asset", "plc-six", "--edge", "south", "--address", PLC6)
        for ports, transport in ((TCP, "tcp"), (UDP, "udp")):
            for protocol, port in ports.items():
                self.ferrule("add", "service", "plc-south", protocol, "--port", str(port),
                             "--transport", transport)  # fmt: skip
                self.ferrule("allow", "tag:panel", "plc-south", protocol)
                for host in (BOX, f"[{BOX6}]"):
                    self.listen(f"plc-south.{protocol}", f"{host}:{LISTEN + port}")
        self.ferrule("add", "service", "plc-six", "http", "--port", str(SIX_PORT))
        self.ferrule("allow", "tag:panel", "plc-six", "http")
        self.listen("plc-six.http", f"{BOX}:{LISTEN + SIX_PORT}")
        words = ("--as", "station", "--address", VIRTUAL)
        made = self.json("add", "intercept", "north", "plc-south", *words)
        self.overlay = {6 if ":" in one else 4: one for one in made["overlay"]}
        self.ferrule("add", "intercept", "north", "plc-six", "--as", "station")
        until(lambda: (self.local("north").get("names") or {}).get("domain"), 20, "names")
        listeners = 2 * (len(TCP) + len(UDP)) + 1
        until(lambda: len(self.local("north")["listeners"]) == listeners, 10, "the listeners")

    def listen(self, service: str, at: str) -> None:
        """A port of the box, as whoever comes there counts as the HMI."""
        self.ferrule("add", "listener", "north", service, "--listen", at, "--as", "hmi-north")


@contextlib.contextmanager
def programs() -> Iterator[Programs]:
    """The plant with everything that it needs; all of it is gone afterwards."""
    need_root()
    for program, package in NEEDED:
        need_program(program, package)
    with Programs() as made, contextlib.ExitStack() as stack:
        for name, command in made.servers().items():
            log = stack.enter_context((made.folder / f"{name}.log").open("wb"))
            inside = made.machines.inside("south-plc")
            server = subprocess.Popen([*inside, *command], stdout=log, stderr=log)
            stack.callback(server.wait)
            stack.callback(server.kill)
        for where in (LOCAL, FORWARDED):
            made.libraries[where] = Library(made.machines.inside(where))
            stack.callback(made.libraries[where].close)
        made.say()
        until(lambda: "ready" in made.log("plc"), 20, "the device to be ready")
        yield made
