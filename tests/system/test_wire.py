"""What a listener on the wire sees, for each record mode: no payload, no service name, no identity name in plain."""

import secrets

import pytest

from deploy.demo.plant import Plant, until
from tests.support.capture import Capture
from tests.support.needs import need_root
from tests.support.seen import lone_session
from tests.support.traffic import Echo, reachable

pytestmark = pytest.mark.timeout(300)

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


@pytest.mark.parametrize("mode", MODES)
def test_on_the_wire_there_is_no_payload_and_no_name(plant: Plant, echo: Echo, mode: str):
    need_root()
    services = {service["name"] for service in plant.json("ls", "service")}
    if f"plc-b.{PROTOCOL}" in services:
        port = plant.json("ls", "listener")[0]["listen"].rsplit(":", 1)[1]
    else:
        port = plant.offer(echo.port, protocol=PROTOCOL)
        plant.ferrule("allow", "hmi-a", "plc-b", PROTOCOL)
    marker = secrets.token_hex(16).encode()
    router_port = plant.router_ports["router-1"]
    with Capture(router_port, echo.port) as capture:
        for name in ("edge-a", "edge-b"):
            assert plant.terminate(name) == 0
            plant.start_edge(name, "--records", mode)
        _enrol_one_more(plant, mode)
        plant.connected()
        until(lambda: reachable(int(port)), 10, "a connection")
        with lone_session(plant, int(port), echo) as (caller, session):
            for _ in range(20):
                caller.echo(marker * 64)
    seen = capture.seen(router_port)
    assert marker in capture.seen(echo.port), "the capture sees what is in plain"
    assert len(seen) > 2 * 20 * 64 * len(marker), "the traffic went through the router"
    assert marker not in seen
    assert [name for name in NAMES if name.encode() in seen.lower()] == []
    assert seen.count(HYBRID_SHARE) >= 2
    assert seen.count(HYBRID_ANSWER) >= 2
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
