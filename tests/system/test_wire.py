"""What a listener on the wire sees, for each record mode: no payload, no service name, no identity name in plain."""

import contextlib
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.demo.plant import Plant, until
from tests.support.needs import need_program, need_root
from tests.support.traffic import Caller, Echo, reachable

pytestmark = pytest.mark.timeout(120)

PROTOCOL = "telegrams"
NAMES = (
    "hmi-a",
    "plc-b",
    "edge-a",
    "edge-b",
    "edge-n",
    "router-1",
    "mill",
    PROTOCOL,
    "spiffe",
    "_control",
)
MODES = ("header", "full", "tls")

HYBRID_SHARE = bytes.fromhex("11ec 04c0")
"""X25519MLKEM768 and the 1,216 bytes of a client's key share."""
HYBRID_ANSWER = bytes.fromhex("11ec 0460")
"""X25519MLKEM768 and the 1,120 bytes of a server's."""


@contextlib.contextmanager
def capture(tcpdump: str, port: int, path: Path) -> Iterator[None]:
    """Everything that passes this TCP port on loopback, into a pcap file; fails when the kernel dropped packets."""
    command = [
        tcpdump,
        "-i",
        "lo",
        "-n",
        "-U",
        "-s",
        "0",
        "-B",
        "65536",
        "-w",
        "-",
        "tcp",
        "port",
        str(port),
    ]
    with path.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        try:
            assert "listening on" in process.stderr.readline()
            yield
            time.sleep(0.5)  # what the kernel still holds would be lost
        finally:
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=10)[1]
    assert "\n0 packets dropped by kernel" in f"\n{said}"


@pytest.mark.parametrize("mode", MODES)
def test_on_the_wire_there_is_no_payload_and_no_name(
    plant: Plant, echo: Echo, tmp_path: Path, mode: str
):
    need_root()
    tcpdump = need_program("tcpdump", "tcpdump")
    services = {service["name"] for service in plant.json("ls", "service")}
    if f"plc-b.{PROTOCOL}" in services:
        port = plant.json("ls", "listener")[0]["listen"].rsplit(":", 1)[1]
    else:
        port = plant.offer(echo.port, protocol=PROTOCOL)
        plant.ferrule("allow", "hmi-a", "plc-b", PROTOCOL)
    marker = secrets.token_hex(16).encode()
    links, asset = tmp_path / "links.pcap", tmp_path / "asset.pcap"
    with (
        capture(tcpdump, plant.router_ports["router-1"], links),
        capture(tcpdump, echo.port, asset),
    ):
        for name in ("edge-a", "edge-b"):
            assert plant.terminate(name) == 0
            plant.start_edge(name, "--records", mode)
        _enrol_one_more(plant, mode)
        plant.ferrule("status", "--wait", "20s")
        until(lambda: reachable(int(port)), 10, "a connection")
        with Caller(int(port)) as caller:
            for _ in range(20):
                caller.echo(marker * 64)
            session = plant.live()[-1]
    seen = links.read_bytes()
    assert marker in asset.read_bytes(), "the capture sees what is in plain"
    assert len(seen) > 2 * 20 * 64 * len(marker), "the traffic went through the router"
    assert marker not in seen
    assert [name for name in NAMES if name.encode() in seen.lower()] == []
    assert seen.count(HYBRID_SHARE) >= 3
    assert seen.count(HYBRID_ANSWER) >= 3
    assert (b"FRL1" in seen) == (mode != "tls")
    assert f"ferrule/1/{mode}".encode() in seen, "the ALPN is the only thing that tells what it is"
    assert session["key_exchange"] == "X25519MLKEM768"


def _enrol_one_more(plant: Plant, mode: str) -> None:
    """An enrolment while we listen: its token and names must not be seen either."""
    if mode != MODES[0]:
        return
    plant.ferrule("add", "edge", "edge-n", "--token-out", plant.path("edge-n.token"))
    plant.start_edge("edge-n")


def test_a_record_mode_that_is_none_is_wrong_usage(plant: Plant):
    result = plant.call(
        "ferrule-edge", "run", "--dir", plant.path("edge-a"), "--records", "cleartext"
    )
    assert result.returncode == 2
    assert "cleartext" in result.stderr
