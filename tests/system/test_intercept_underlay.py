"""The network under the overlay is not as anybody planned it, while a device behind the box is being intercepted:
IPv6 only, packets of 1,280 bytes at most, another address, an interface that flaps, a second default route.
"""

import json
from collections.abc import Iterator
from functools import partial

import pytest

from deploy.demo.plant import COMMANDS, until
from tests.support.namespaces import BOX, HMI, SERVER, echoing, namespaces
from tests.support.needs import need_root
from tests.support.tun_plant import PLC, TunPlant

pytestmark = pytest.mark.timeout(400)
ROUTER = "fd09::2"


@pytest.fixture(scope="module")
def plant() -> Iterator[TunPlant]:
    need_root()
    with namespaces() as net:
        for side, address in ((SERVER, ROUTER), (BOX, "fd09::1")):
            net.run(side, "ip", "address", "add", f"{address}/64", "dev", "fs", "nodad", check=True)
            net.run(side, "ip", "-4", "address", "flush", "dev", "fs", check=True)
            net.run(side, "ip", "link", "set", "fs", "mtu", "1280", check=True)
        with echoing(net), TunPlant(net, "--names", "none", router_host=f"[{ROUTER}]") as made:
            made.intercept()
            for who in ("hmi-a", "hmi-6"):
                made.ferrule("allow", who, "plc-b", "echo")
                made.ferrule("allow", who, "plc-b", "telemetry")
            for host in PLC:
                until(partial(reaches, made, host), 30, host)
                until(partial(carries_datagrams, made, host), 30, f"datagrams to {host}")
            yield made


def reaches(plant: TunPlant, host: str = PLC[0]) -> bool:
    """The HMI gets through, with everything that it sends and is sent."""
    return plant.client(HMI, "stream", host, 5000, 1 << 16) == "same"


def carries_datagrams(plant: TunPlant, host: str) -> bool:
    """A datagram of the HMI gets through and is answered."""
    return plant.client(HMI, "datagrams", host, 7000, 12) == "12"


def test_over_ipv6_alone_and_packets_of_1280_bytes_everything_arrives(plant: TunPlant):
    assert "10.9.0" not in plant.net.run(BOX, "ip", "address").stdout
    for host in PLC:
        assert plant.client(HMI, "stream", host, 5000, 4 << 20) == "same"
        assert plant.client(HMI, "datagrams", host, 7000, 1200, 1472, 9000) == "1200 1472 9000"


def test_another_address_of_the_box_and_a_flapping_interface_cost_no_interception(plant: TunPlant):
    ip = partial(plant.net.run, BOX, "ip", check=True)
    ip("address", "add", "fd09::7/64", "dev", "fs", "nodad")
    ip("address", "del", "fd09::1/64", "dev", "fs")
    until(partial(reaches, plant), 60, "traffic from another address")
    for _ in range(3):
        ip("link", "set", "fs", "down")
        ip("link", "set", "fs", "up")
    ip(
        "address", "replace", "fd09::7/64", "dev", "fs", "nodad"
    )  # IPv6 addresses go with the interface
    until(partial(reaches, plant), 60, "traffic after the flaps")


def test_a_second_default_route_is_said_and_what_is_intercepted_goes_its_way(plant: TunPlant):
    ip = partial(plant.net.run, BOX, "ip", check=True)
    ip("link", "add", "fx", "type", "veth", "peer", "name", "fy")
    ip("address", "add", "10.8.0.1/24", "dev", "fx")
    ip("link", "set", "fx", "up")
    ip("link", "set", "fy", "up")
    ip("route", "add", "default", "via", "10.8.0.2", "dev", "fx", "metric", "50")
    ip("route", "add", "default", "via", "192.168.77.20", "dev", "fh", "metric", "60")
    until(partial(reaches, plant), 30, "traffic next to another way out")
    command = [str(COMMANDS / "ferrule-edge"), "doctor", "--json", "--dir", plant.path("edge-a")]
    found = {one["check"]: one for one in json.loads(plant.net.run(BOX, *command).stdout)}
    assert not found["default route"]["ok"]
    assert "fh and fx" in found["default route"]["text"]
    assert found["intercepts"]["ok"]
