"""Programs that know nothing of Ferrule reach a device of another plant: on the box itself (local) and on a device
behind it that has no software (forwarded), over IPv4 and IPv6, by every mode.

One pair of plants for all. Each program is one of another project, unmodified; what a mode does not carry is refused at
once. All that is asked by one mode runs at the same time, and each test looks at one answer.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest

from deploy.demo.plant import until
from deploy.demo.sites import BOX, PLC, PLC6, RESOLVER
from tests.support import plc
from tests.support.programs import (
    CARRIES,
    FORWARDED,
    LISTEN,
    LOCAL,
    NAME,
    SIX,
    SIX_PORT,
    TCP,
    UDP,
    VIRTUAL,
    Programs,
    Way,
    programs,
)

pytestmark = pytest.mark.timeout(300)

Check = Callable[[Programs, Way], None]


@pytest.fixture(scope="module")
def plant() -> Iterator[Programs]:
    with programs() as made:
        yield made


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

    def reached() -> set[str]:
        found = plant.json("audit", "search", "--service", "lan-south.http", "--outcome", "allowed")
        return {one["address"] for one in found}

    until(reached, 5, "the records of it")
    assert reached() == {f"{PLC}:80"}


# --- programs -----------------------------------------------------------------------------------------
def curl(plant: Programs, way: Way) -> None:
    fetch = ("curl", "-sS", "--max-time", "60")
    assert plant.runs(way.where, *fetch, f"-{way.version}", way.url()) == plc.PAGE.decode()
    # The asset itself has an IPv6 address here, whatever the caller uses.
    six = way.url(BOX, LISTEN + SIX_PORT) if way.mode == "proxy" else way.url(SIX, SIX_PORT)
    assert plant.runs(way.where, *fetch, six) == plc.PAGE.decode()
    if way.mode != "proxy" and way.version == 4:
        assert plant.runs(way.where, *fetch, way.url(VIRTUAL)) == plc.PAGE.decode()


def ssh(plant: Programs, way: Way) -> None:
    """With a key; it carries a megabyte."""
    data = os.urandom(1 << 20)
    said = plant.runs(
        way.where, "ssh", f"-{way.version}", "-p", str(way.port("ssh")),
        "-i", str(plant.device / "user"), "-F", "none", "-o", "BatchMode=yes",
        "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
        f"root@{way.host}", "sha256sum", text=data,
    )  # fmt: skip
    assert said.split()[0] == hashlib.sha256(data).hexdigest()


def measured(plant: Programs, way: Way, *options: str) -> dict[str, dict[str, int]]:
    """What iperf3 says at its end."""
    command = ("iperf3", f"-{way.version}", "-J", "-c", way.host, "-p", str(way.port("iperf")))
    said: dict[str, Any] = {}

    def measured() -> bool:
        """Its server has one client at a time, and hears a moment later that the one before has gone."""
        said.clear()
        said.update(json.loads(plant.runs(way.where, *command, *options)))
        return "busy" not in said.get("error", "")

    with plant.measuring:
        until(measured, 10, "the server of iperf3 to have time")
    assert "error" not in said, said["error"]
    found: dict[str, dict[str, int]] = said["end"]
    return found


def iperf3_up(plant: Programs, way: Way) -> None:
    _moved(measured(plant, way, "-n", "8M"))


def iperf3_down(plant: Programs, way: Way) -> None:
    _moved(measured(plant, way, "-n", "8M", "-R"))


def _moved(end: dict[str, dict[str, int]]) -> None:
    # Its receiver counts what has arrived when the sender says that it is done.
    assert end["sum_sent"]["bytes"] >= 8_000_000
    assert end["sum_received"]["bytes"] > 0


def iperf3_udp(plant: Programs, way: Way) -> None:
    end = measured(plant, way, "-u", "-b", "2M", "-l", "200", "-n", "100K")
    assert end["sum"]["packets"] >= 500
    assert end["sum"]["lost_packets"] < end["sum"]["packets"] / 4, "a busy machine loses some"


def dig(plant: Programs, way: Way) -> None:
    """A name server that the device is."""
    said = plant.runs(way.where, *_question(way, "20"))
    assert said.strip() == f'"{plc.DNS_TEXT}"'


def _question(way: Way, seconds: str) -> tuple[str, ...]:
    at = (f"@{way.address}", "-p", str(way.port("dns")))
    return ("dig", "+short", f"+time={seconds}", "+tries=1", *at, "anything.example", "TXT")


def dig_name(plant: Programs, way: Way) -> None:
    """What the box answers to whoever asks it for the device's name."""
    kind = "A" if way.version == 4 else "AAAA"
    assert plant.runs(way.where, "dig", "+short", NAME, kind).split() == [way.address]


def ping(plant: Programs, way: Way) -> None:
    command = ("ping", f"-{way.version}", "-n", "-c", "3", "-i", "0.2", "-W", "20", way.host)
    assert " 0% packet loss" in plant.runs(way.where, *command)


def pymodbus(plant: Programs, way: Way) -> None:
    assert read(plant, way, "modbus") == str(plc.REGISTERS)


def asyncua(plant: Programs, way: Way) -> None:
    assert read(plant, way, "opcua") == str(plc.LEVEL)


def snap7(plant: Programs, way: Way) -> None:
    assert read(plant, way, "s7") == plc.BLOCK.hex()


def read(plant: Programs, way: Way, kind: str) -> str:
    """By a library of Python."""
    return plant.libraries[way.where].read(kind, way.address, way.port(kind))


def mbpoll(plant: Programs, way: Way) -> None:
    """Libmodbus."""
    poll = ("mbpoll", "-m", "tcp", "-1", "-r", "1", "-c", "10", "-t", "4", "-o", "10")
    said = plant.runs(way.where, *poll, "-p", str(way.port("modbus")), way.address)
    found = [int(line.split(":")[1]) for line in said.splitlines() if line.startswith("[")]
    assert found == plc.REGISTERS


def mqtt(plant: Programs, way: Way) -> None:
    """The clients of mosquitto, and its broker on the device."""
    text = f"too hot at {way.where}, {way.version}"
    host = ("-h", way.address, "-p", str(way.port("mqtt")), "-t", f"{way.mode}/{text}")
    plant.runs(way.where, "mosquitto_pub", *host, "-r", "-q", "1", "-m", text)
    assert plant.runs(way.where, "mosquitto_sub", *host, "-C", "1", "-W", "30").strip() == text


PROGRAMS: dict[str, tuple[Check, ...]] = {
    "TCP": (curl, ssh, iperf3_up, iperf3_down, mbpoll, mqtt, pymodbus, asyncua, snap7),
    "UDP": (dig, iperf3_udp),
    "ping": (ping,),
}
"""By what they need."""


# --- what a mode does not carry ---------------------------------------------------------------------
PROHIBITED = ("Packet filtered", "Administratively prohibited")
DATAGRAM = """
import socket, sys
at = (sys.argv[1], int(sys.argv[2]))
asked = socket.socket(socket.AF_INET6 if ":" in at[0] else socket.AF_INET, socket.SOCK_DGRAM)
asked.settimeout(60)
asked.connect(at)
asked.send(b"?")
asked.recv(100)
"""


def no_ping(plant: Programs, way: Way) -> None:
    """Not silence, but "administratively prohibited". By `proxy` there is nothing that could be asked."""
    if way.mode == "proxy":
        plant.runs(way.where, "ping", f"-{way.version}", "-n", "-c", "1", "-W", "20", way.host)
        found = plant.json("audit", "search", "--service", "_echo", "--who", "hmi-north")
        assert found == [], "it was the box itself that answered"
        return
    said = plant.fails(
        way.where, "ping", f"-{way.version}", "-n", "-c", "1", "-W", "1", way.address
    )
    # Programs of the box are told by the system call, which ping keeps to itself.
    assert way.where == LOCAL or any(words in said for words in PROHIBITED), said


def no_datagrams(plant: Programs, way: Way) -> None:
    """Refused at once, and `status` names the service."""
    at = (way.address, str(way.port("dns")))
    said = plant.fails(way.where, sys.executable, "-c", DATAGRAM, *at)
    assert "PermissionError" in said or "No route to host" in said or "Permission" in said, said
    if way.where == FORWARDED:  # as a program of the box dig keeps to itself what it is told
        said = plant.fails(way.where, *_question(way, "60"))
        assert "host unreachable" in said or "permission denied" in said, said
    problems = " ".join(plant.local("north")["interception"]["problems"])
    assert f"plc-south.dns is UDP, which {way.mode} does not carry" in problems


REFUSED: dict[str, tuple[Check, ...]] = {"UDP": (no_datagrams,), "ping": (no_ping,)}


# --- the matrix -------------------------------------------------------------------------------------
WAYS = [(where, version) for where in (LOCAL, FORWARDED) for version in (4, 6)]


class Case(NamedTuple):
    """One program, or what there is instead of it where a mode does not carry it."""

    mode: str
    where: str
    version: int
    check: Check

    def __str__(self) -> str:
        return f"{self.mode}-{self.check.__name__}-{self.where}-ipv{self.version}"


def tried(mode: str, version: int) -> Iterator[Check]:
    """What is run by a mode over an IP version.

    python-snap7 (3.3, in which the library is Python) speaks IPv4 only: `snap7.connection.ISOTCPConnection` makes an
    AF_INET socket whatever the address is, and no argument says otherwise. So nothing of it runs over IPv6.
    """
    for needs, checks in PROGRAMS.items():
        for check in checks if needs in CARRIES[mode] else REFUSED[needs]:
            if (check, version) != (snap7, 6):
                yield check
    if mode != "proxy":
        yield dig_name


CASES = [
    Case(mode, where, version, check)
    for mode in CARRIES
    for where, version in WAYS
    for check in tried(mode, version)
]


@pytest.fixture(scope="module")
def answers(request: pytest.FixtureRequest, plant: Programs) -> Iterator[dict[Case, Future[None]]]:
    """Of all programs by one mode, which run while the first of them is waited for."""
    mode = request.param
    assert mode not in plant.asked, "all of it runs once"
    plant.asked.append(mode)
    if mode == "tun":
        assert plant.local("north")["interception"]["mode"] == "tun", "what `auto` takes first"
    elif mode != "proxy":
        plant.intercept_by(mode)
    with ThreadPoolExecutor(4) as pool:
        yield {
            case: pool.submit(case.check, plant, plant.way(mode, case.where, case.version))
            for case in CASES
            if case.mode == mode
        }


@pytest.mark.parametrize(
    ("answers", "case"), [(case.mode, case) for case in CASES], indirect=["answers"],
    ids=map(str, CASES), scope="module",  # else all of a mode would run for each test
)  # fmt: skip
def test_a_program(answers: dict[Case, Future[None]], case: Case):
    answers[case].result()


def test_the_audit_says_who_it_was_and_where(plant: Programs):
    """The programs above: those of the box count as `station`, the HMI as what its address says."""
    callers = {"station", "hmi-north", "hmi-north6"}
    wanted = {f"{PLC}:{port}" for port in (*TCP.values(), *UDP.values())} | {PLC, f"[{PLC6}]:8080"}

    def opened() -> list[dict[str, str]]:
        found = plant.json("audit", "search", "--outcome", "allowed", "--limit", "1000")
        return [one for one in found if one["event"] == "circuit.open"]

    def pinged() -> set[str]:
        return {one["who"] for one in opened() if one["service"] == "_echo"}

    until(lambda: wanted <= {one["address"] for one in opened()}, 5, "all that they reached")
    until(lambda: pinged() == callers, 5, "all who pinged")
    assert {one["who"] for one in opened()} == callers
    assert {one["via"] for one in opened()} == {"north"}
    assert RESOLVER not in {one["address"] for one in opened()}
