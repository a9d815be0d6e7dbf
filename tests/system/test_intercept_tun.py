"""`ferrule add intercept` with real programs: a box with TUN, a device behind it, the whole overlay, unmodified clients."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial

import pytest

from deploy.demo.plant import until
from router.admission import CALLS_PER_EDGE
from tests.support.box import crowd
from tests.support.namespaces import BOX, HMI, SERVER, echoing, namespaces
from tests.support.needs import need_program, need_root
from tests.support.tun_plant import PLC, TunPlant

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def plant() -> Iterator[TunPlant]:
    need_root()
    need_program("ip", "iproute2")
    with namespaces() as net, echoing(net), TunPlant(net) as made:
        made.intercept()
        yield made


def allowed(plant: TunPlant, host: str) -> bool:
    """A connection of the HMI gets through."""
    return plant.client(HMI, "stream", host, 5000, 1) == "same"


def carries_datagrams(plant: TunPlant, host: str) -> bool:
    """A datagram of the HMI gets through and is answered."""
    return plant.client(HMI, "datagrams", host, 7000, 12) == "12"


def listed(plant: TunPlant, who: str, services: set[str]) -> bool:
    """Whether `who` is seen to use all of these now."""
    return {one["service"] for one in plant.live() if one["who"] == who} >= services


def test_without_a_conduit_everything_fails_at_once_and_is_recorded(plant: TunPlant):
    for host in PLC:
        assert plant.client(HMI, "knock", host, 5000) == "ECONNREFUSED"
        assert plant.client(HMI, "knock", host, 23) == "ECONNREFUSED"
    until(lambda: plant.denied(who="hmi-a", service="plc-b.echo"), 10, "the record")
    record = plant.denied(who="hmi-a", service="plc-b.echo")[0]
    assert (record["via"], record["asset"]) == ("edge-a", "plc-b")
    until(lambda: plant.denied(address=f"{PLC[0]}:23"), 10, "the record of what is not there")
    assert "192.168.77.20" in plant.denied(address=f"{PLC[0]}:23")[0]["reason"]
    assert plant.client(BOX, "knock", PLC[0], 5000) == "ECONNREFUSED"
    until(lambda: plant.denied(who="edge-a", service="plc-b.echo"), 10, "as the edge itself")


def test_a_device_behind_the_box_is_the_asset_that_its_address_says(plant: TunPlant):
    for who, host in zip(("hmi-a", "hmi-6"), PLC, strict=True):
        plant.ferrule("allow", who, "plc-b", "echo")
        plant.ferrule("allow", who, "plc-b", "telemetry")
        until(partial(allowed, plant, host), 15, who)
        assert plant.client(HMI, "stream", host, 5000, 8 << 20) == "same"
        until(partial(carries_datagrams, plant, host), 10, f"datagrams of {who}")
        assert plant.client(HMI, "datagrams", host, 7000, 0, 12, 1472, 9000) == "0 12 1472 9000"
        ping = need_program("ping", "iputils-ping")
        assert "2 received" in plant.net.run(HMI, ping, "-c", "2", "-i", "0.2", host).stdout
        until(partial(listed, plant, who, {"plc-b.telemetry", "_echo"}), 5, "both to be listed")
    assert plant.client(BOX, "knock", PLC[0], 5000) == "ECONNREFUSED", "the box is not the HMI"


def test_a_device_asks_the_box_for_names_by_either_version_of_ip(plant: TunPlant):
    """Each as the asset that its address says; the box itself has no grant, and is told of no name."""
    dig = need_program("dig", "bind9-dnsutils")
    (entry,) = plant.json("ls", "intercept")
    names = plant.local("edge-a")["names"]
    assert (names["mode"], len(names["at"])) == ("resolv.conf", 2)
    for server in names["at"]:
        for kind, address in zip(("A", "AAAA"), entry["overlay"], strict=True):
            asked = (dig, "+short", "+time=2", f"@{server}", entry["dns"], kind)
            assert plant.net.run(HMI, *asked).stdout.strip() == address
            assert plant.net.run(BOX, *asked).stdout.strip() == ""


def test_a_held_connection_shows_the_true_state_of_the_asset(plant: TunPlant):
    plant.ferrule("allow", "hmi-a", "plc-b", "dead")
    until(
        lambda: plant.json("audit", "search", "--service", "plc-b.dead", "--outcome", "failed")
        or plant.client(HMI, "knock", PLC[0], 5002) != "ECONNREFUSED",
        15, "the asset to be asked",
    )  # fmt: skip
    assert plant.client(HMI, "knock", PLC[0], 5002) == "ECONNREFUSED"


def test_a_kill_cuts_what_is_intercepted_and_ping_with_it(plant: TunPlant):
    plant.ferrule("kill", "identity", "hmi-a", "--reason", "smoke")
    try:
        until(lambda: plant.client(HMI, "knock", PLC[0], 5000) == "ECONNREFUSED", 10, "the kill")
        ping = need_program("ping", "iputils-ping")
        assert " 0 received" in plant.net.run(HMI, ping, "-c", "1", "-W", "1", PLC[0]).stdout
    finally:
        plant.ferrule("restore", "identity", "hmi-a")


def test_curl_and_iperf3_work_unmodified(plant: TunPlant):
    curl, iperf3 = need_program("curl", "curl"), need_program("iperf3", "iperf3")
    plant.ferrule("add", "service", "plc-b", "http", "--port", "8080")
    plant.ferrule("add", "service", "plc-b", "speed", "--port", "5201")
    for protocol in ("http", "speed"):
        plant.ferrule("allow", "hmi-a", "plc-b", protocol)
    servers = [
        subprocess.Popen([*plant.net.inside(SERVER), *command], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL, cwd="/usr/share")
        for command in ([sys.executable, "-m", "http.server", "8080"], [iperf3, "-s"])
    ]  # fmt: skip
    try:
        fetch = (curl, "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://{PLC[0]}:8080/")
        until(lambda: plant.net.run(HMI, *fetch).stdout == "200", 15, "a page")
        measure = (iperf3, "-c", PLC[0], "-t", "1", "-P", "2")
        until(lambda: plant.net.run(HMI, *measure).returncode == 0, 20, "iperf3")
    finally:
        for one in servers:
            one.kill()
            one.wait()


def test_as_many_flows_at_once_as_a_router_takes_of_an_edge_and_no_harm_by_more(plant: TunPlant):
    """5,461 circuits of one edge, of which one is its own: further connections are refused, and all others answer."""
    held, more = 3000, 100
    before = plant.local("edge-a")["interception"]["counts"].get("refused", 0)
    count = CALLS_PER_EDGE + more - held
    with crowd(plant.net, HMI, PLC[1], 5000, held) as said:
        assert said == str(held)
        good, _, refused = plant.client(HMI, "many", PLC[0], 5000, count, seconds=280).partition(
            " "
        )
    assert refused == f"ECONNREFUSED:{count - int(good)}", (good, refused)
    assert CALLS_PER_EDGE - 10 < held + int(good) < CALLS_PER_EDGE, (
        "the control circuit, and what still closes"
    )
    status = plant.local("edge-a")
    assert status["interception"]["counts"]["refused"] - before == count - int(good)
    asked = ("--service", "plc-b.echo", "--outcome", "failed", "--limit", "200")
    until(
        lambda: [one for one in plant.json("audit", "search", *asked)
                 if one["who"] == "hmi-a" and "edge-a has as many circuits open here as it may" in one["reason"]],
        30, "the record of what the router had no room for",
    )  # fmt: skip
    until(lambda: plant.local("edge-a")["state"] == "connected", 30, "the controller, as before")
    until(partial(allowed, plant, PLC[0]), 20, "room again")


def test_what_is_removed_is_not_intercepted_any_more_and_leaves_nothing(plant: TunPlant):
    assert plant.local("edge-a")["interception"]["mode"] == "tun"
    number = plant.json("ls", "intercept")[0]["name"]
    plant.ferrule("rm", "intercept", number)
    until(lambda: not plant.routed(PLC[0]), 15, "the route to go")
    assert "ferrule0" not in plant.net.run(BOX, "ip", "-o", "link").stdout
