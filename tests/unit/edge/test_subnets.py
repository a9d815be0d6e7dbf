"""An asset that is a subnet (C-19): which device is meant, and that no other address is ever dialled."""

import asyncio
import ipaddress

import pytest

from edge.host.base import Place, place_of
from edge.intercept.table import Table
from overlay.control.messages import Assignments, HostedEntry, InterceptEntry, ServicePorts
from overlay.policy.interception import parse_prefix
from tests.support.edges import ASSET, PORT, Plant, story
from tests.support.tun_box import POOLS

LAN = HostedEntry("lan.http", "lan", "192.168.1.0/24", 80, 89, 0)


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def test_the_host_dials_devices_of_the_subnet_and_nothing_else():
    assert place_of(LAN, 81, packed("192.168.1.20")) == Place("192.168.1.20", 81)
    for wrong in ("192.168.2.20", "192.168.1.0", "192.168.1.255", "fd00::1", "127.0.0.1"):
        found = place_of(LAN, 0, packed(wrong))
        assert not isinstance(found, Place)
        assert "is no device's in 192.168.1.0/24" in found[1]
    for odd in (b"\1", bytes(15)):
        assert not isinstance(place_of(LAN, 0, odd), Place)
    assert "say which address" in str(place_of(LAN, 0))
    assert not isinstance(place_of(LAN, 99, packed("192.168.1.20")), Place), "and the port counts"
    one = HostedEntry("plc.http", "plc", "192.168.1.20", 80, 80, 0)
    assert place_of(one, 0) == Place("192.168.1.20", 80)
    refused = place_of(one, 0, packed("192.168.1.21"))
    assert not isinstance(refused, Place)
    assert "is no subnet" in refused[1]
    six = HostedEntry("lan.http", "lan", "fd01::/64", 80, 80, 0)
    assert place_of(six, 0, packed("fd01::7")) == Place("fd01::7", 80)


@pytest.mark.parametrize(
    ("subnet", "caught", "shift"),
    [
        ("192.168.1.0/24", "192.168.1.0/24", 0),
        ("192.168.1.0/24", "192.168.1.64/26", 0),
        ("192.168.1.0/24", "192.168.1.20", 0),
        ("192.168.1.0/24", "10.3.0.0/24", 0xC0A8_0100 - 0x0A03_0000),
        ("192.168.1.0/24", "10.3.0.0/25", None),
        ("192.168.1.0/24", "192.168.0.0/16", None),
        ("192.168.1.0/24", "fd01::/64", None),
    ],
)
def test_which_addresses_mean_a_device(subnet: str, caught: str, shift: int | None):
    assert parse_prefix(subnet).shift_from(parse_prefix(caught)) == shift


def test_traffic_is_for_the_device_with_the_same_place():
    ports = (ServicePorts("lan.http", 80, 80, 0),)
    places = ("10.3.0.0/24", "192.168.1.20", "10.4.0.0/16")
    entry = InterceptEntry("lan", 20, ports, "hmi", 0, places, subnet="192.168.1.0/24")
    table = Table([entry], (), POOLS, "edge-a")
    found = table.match(0, packed("10.3.0.77"), 80)
    assert (found.service, found.address) == ("lan.http", packed("192.168.1.77"))
    assert table.match(0, packed("192.168.1.20"), 80).address == packed("192.168.1.20")
    assert table.match_asset(packed("10.3.0.77")).address == packed("192.168.1.77")
    assert table.match(0, packed("10.4.0.77"), 80).service == "", "one device could mean 256"
    assert "10.4.0.0/16 is" in table.problems[0]
    assert table.addresses_of("lan") == ()
    assert table.match(0, POOLS.addresses(20)[0].packed, 80).service == "", "no place in the pools"


def test_a_caller_that_asks_for_another_address_is_refused_and_recorded():
    async def test(plant: Plant):
        entry = HostedEntry("plc-b.modbus", ASSET, "192.168.1.0/24", PORT, PORT, 0)
        plant.b.assigned(Assignments(2, b"", (), (entry,)))
        grant = plant.circuits.grant()
        for address in ("192.168.2.1", "192.168.1.255", "127.0.0.1"):
            stream = plant.a.endpoint.open("plc-b.modbus", grant, address=packed(address))
            await asyncio.sleep(0.1)
            assert not stream.is_open
            assert stream.closed.done()
        denied = plant.b.agent.of("circuit.open", "denied")
        assert len(denied) == 3
        assert all("is no device's" in one["reason"] for one in denied)
        assert plant.assets == []

    story(test)
